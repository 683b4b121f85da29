"""Given data whose pictures or sounds turn out broken when they are first decoded: left out, or the end of the run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from mmrl.config import ConfigError, DataConfig
from mmrl.data.heard import decode_sounds
from mmrl.data.images import decode_images
from mmrl.media import MediaError
from mmrl.pictures import candidate_refs
from mmrl.training.processes import Processes
from mmrl.types import Prompt

T = TypeVar("T")


class Readable(Generic[T]):
    """Leaves out what cannot be read, alike on all processes, each of which decodes what its share has, once.

    Before a run only heads are looked at.
    prompt: of an item; its record and folder name pictures and sounds. check: raises MediaError for those that the
    policy cannot be shown, see Adapter.check_media.
    """

    def __init__(
        self,
        processes: Processes,
        data: DataConfig,
        prompt: Callable[[T], Prompt],
        check: Callable[[Prompt], None],
    ) -> None:
        self.processes, self.data, self.prompt, self.check = processes, data, prompt, check
        self._read: dict[str, str] = {}  # id -> why it cannot be; "" for one that can

    def of(self, items: Sequence[T]) -> list[T]:
        """Those that can be read. Every process calls, with the same.

        Raises ConfigError that names one which cannot, unless data.on_bad_record is skip.
        """
        prompts = [self.prompt(item) for item in items]
        new = {p.id: p for p in prompts if p.id not in self._read and _has_media(p)}
        if new:
            mine = list(new.values())[self.processes.rank :: self.processes.world]
            for some in self.processes.gather([(p.id, self._flaw(p)) for p in mine]):
                self._read.update(some)
        for why in [self._read[id] for id in new if self._read[id]]:
            if self.data.on_bad_record == "stop":
                raise ConfigError(f"{why}; mend it, or set data.on_bad_record: skip")
            if self.processes.is_main:
                warnings.warn(f"{why}; it is left out", stacklevel=3)
        return [item for item, p in zip(items, prompts) if not self._read.get(p.id)]

    def _flaw(self, prompt: Prompt) -> str:
        try:
            decode_images(prompt.record, prompt.root, self.data.max_pixels)
            decode_sounds(prompt.record, prompt.root, self.data.max_seconds)
            self.check(prompt)
        except MediaError as error:
            return f"record {prompt.id!r}: {error}"
        return ""


def _has_media(prompt: Prompt) -> bool:
    return bool(prompt.record.get("images") or prompt.record.get("sounds") or candidate_refs(prompt.record))
