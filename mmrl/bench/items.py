"""What a benchmark asks for: prompts, and where the pictures of each lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mmrl.config import ConfigError
from mmrl.pictures import check_image

MAX_PIXELS = 50_000_000  # of a picture that is opened
PICTURES = "pictures"  # the folder below an evaluation's that drawn ones go to


@dataclass(frozen=True)
class Item:
    """A prompt of a benchmark. id: the file's own, of which pictures are named."""

    id: str
    text: str


P = TypeVar("P", bound=Item)


@dataclass(frozen=True)
class Gallery:
    """The pictures of a benchmark, `count` a prompt, below one folder.

    names: what picture k of a prompt may be called, below the folder; the first name is the one that we write.
    """

    folder: Path
    names: Callable[[Item, int], Sequence[str]]
    count: int

    def path(self, item: Item, k: int) -> Path:
        """Where picture k of a prompt lies, or would lie."""
        paths = [self.folder / name for name in self.names(item, k)]
        return next((path for path in paths if path.is_file()), paths[0])

    def places(self, items: Sequence[P]) -> Iterator[tuple[P, int, Path]]:
        for item in items:
            for k in range(self.count):
                yield item, k, self.path(item, k)

    def check(self, items: Sequence[Item]) -> None:
        """Raise ConfigError where a picture is missing, and PictureError for one that cannot be opened."""
        missing = [path for _, _, path in self.places(items) if not path.is_file()]
        if missing:
            wanted = len(items) * self.count
            raise ConfigError(
                f"{len(missing)} of {wanted} pictures are not in {self.folder}, the first: "
                f"{missing[0].relative_to(self.folder)}; add them, or ask for fewer (--pictures, --limit)"
            )
        for _, _, path in self.places(items):
            check_image(path.name, path.parent, MAX_PIXELS)


def check_ids(items: Sequence[Item], file: str | Path) -> None:
    """Raise ConfigError for a file without prompts, or with two of one id: their pictures would have one name."""
    if not items:
        raise ConfigError(f"{file} holds no prompts")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ConfigError(f"{file}: two prompts have the index {item.id}; their pictures would have the same names")
        seen.add(item.id)
