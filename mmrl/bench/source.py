"""Where the pictures of an evaluation come from: a folder that has them, or a model that draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrl.bench.drawing import draw, model_of
from mmrl.bench.items import PICTURES, Gallery, Item
from mmrl.config import Config, ConfigError


@dataclass(frozen=True)
class Source:
    """folder: of pictures that are there. Or config: of the model that draws them, run: whose last checkpoint it is,
    and seed: of its noise, 0 by default. Raises ConfigError for both, for neither, and for a seed beside a folder."""

    folder: Path | None = None
    config: Config | None = None
    run: str | Path | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.config is None):
            raise ConfigError("whose pictures? give a config or a run's folder, or pictures that are there (--from)")
        if self.folder is not None and not self.folder.is_dir():
            raise ConfigError(f"--from: there is no folder {self.folder}")
        if self.folder is not None and self.seed is not None:
            raise ConfigError("--seed is of pictures that are drawn; those of --from are there")

    def settings(self) -> dict[str, Any]:
        """What the pictures depend on."""
        if self.config is None:
            return {"folder": str(Path(self.folder or "").resolve())}
        return model_of(self.config, self.run, self.seed or 0)

    def facts(self) -> dict[str, Any]:
        """Whose pictures they are, in words, for a page."""
        if self.config is None:
            return {"pictures of": Path(self.folder or "").name}
        drawn_by = {"model": self.config.name, "run": Path(self.run).name if self.run else None}
        return {**drawn_by, "seed": self.seed or 0}

    def gallery(self, out: Path, names: Callable[[Item, int], Sequence[str]], count: int) -> Gallery:
        return Gallery(out / PICTURES if self.folder is None else self.folder, names, count)

    def fill(
        self,
        gallery: Gallery,
        items: Sequence[Item],
        written: Callable[[Item], None] = lambda item: None,
        quiet: bool = True,
    ) -> None:
        """Draw what is missing; of a folder check that nothing is. written: see drawing.draw."""
        if self.config is None:
            gallery.check(items)
        else:
            draw(self.config, self.run, gallery, items, self.seed or 0, written, quiet)
