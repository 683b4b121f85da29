"""What one process has of a checkpoint at one moment, and how it gets into the folder, now or later."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmrl.modalities.shards import Shards
from mmrl.reporting.disk import sync
from mmrl.training import pieces, within
from mmrl.training.checkpoint import IN_POLICY, STATE

LIKELY = "likely.json"  # while a checkpoint is written: where in `policy/` tensors may be


class Draft:
    """The state and the tensors that this process writes, of divided ones its rows.

    folder: which gets them. state: of all parts, JSON; only the main process writes it. weights: all rows of divided
    weights by name (see pieces.rows_of). copy: whether the tensors will be others by the time they are written.
    """

    def __init__(
        self,
        folder: Path,
        state: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        weights: Mapping[str, int],
        shards: Shards | None,
        is_main: bool,
        copy: bool,
    ) -> None:
        self.folder, self.shards, self.is_main = folder, shards, is_main
        self.divided = pieces.rows_of(tensors, weights)
        writes = shards is not None and shards.writes
        self.rows = {name: tensors[name] for name in self.divided} if writes else {}
        self.whole = {n: t for n, t in tensors.items() if n not in self.divided} if is_main else {}
        told = {"divided": {"shards": shards.shards, "rows": self.divided}} if shards else {}
        self._state = json.dumps({**state, **told}) if is_main else ""
        self._copy = copy

    def save_policy(self, save: Callable[[Path], None]) -> None:
        """On the main process, before any `write`: the policy, and what of this checkpoint it may hold."""
        if self.is_main:
            save(self.folder / within.FOLDER)
            found = within.likely(self.folder, {**self.whole, **self.rows}, self.divided)
            (self.folder / LIKELY).write_text(json.dumps(found), encoding="utf-8")

    def copy(self) -> None:
        """Keep the tensors as they are now, where they will be others by the time they are written."""
        if self._copy:
            self.rows, self.whole = pieces.copied(self.rows), pieces.copied(self.whole)

    def write_rows(self) -> None:
        """What each process has of divided tensors, and the policy does not hold."""
        if self.shards is not None and self.shards.writes:
            first = self.shards.range
            mine = within.without(self.folder, self.rows, self._likely(), lambda name: first(self.divided[name])[0])
            pieces.write(pieces.place(self.folder, self.shards.number), mine)
            self.rows = {}

    def write_rest(self) -> None:
        """On the main process, when all have written their rows: what is left, and the state."""
        likely = self._likely()
        rest = within.without(self.folder, self.whole, likely)
        pieces.write(self.folder / pieces.WHOLE, rest)
        self.whole = {}
        in_policy = {name: place for name, place in likely.items() if name not in rest}
        state = json.loads(self._state)
        if in_policy:
            state[IN_POLICY] = within.recorded(self.folder, in_policy)
        (self.folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        (self.folder / LIKELY).unlink()
        sync(self.folder / STATE)

    def _likely(self) -> dict[str, within.Place]:
        found: dict[str, within.Place] = json.loads((self.folder / LIKELY).read_text(encoding="utf-8"))
        return found
