"""What the report draws of CAD answers: made when a sample is stored, and of no other one."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mmrl.later import Later
from mmrl.sandbox import SandboxError
from mmrl.solids.measures import Options
from mmrl.solids.shown import Solid
from mmrl.solids.views import TOO_FINE
from mmrl.solids.workshop import Found, Made, Target, Workshop, WorkshopError
from mmrl.types import Score

VIEW, TARGET = "view", "target"  # details: see mmrl.solids.views, and the record of a Solid


def exhibited(
    scores: Sequence[Score], made: Sequence[Made], target: Target, shop: Workshop, options: Options, mesh: int
) -> list[Score]:
    """The scores of one prompt's answers with what is drawn of each solid in their details, and in the first that is
    valid, the target. A view that cannot be made has a `problem`."""
    group = _Group(made, target, shop, options, mesh)
    told = [
        _with(score, VIEW, partial(group.view, n)) if made[n].ok and score.ok else score
        for n, score in enumerate(scores)
    ]
    first = next((n for n, score in enumerate(told) if score.ok), None)
    if first is not None:
        told[first] = _with(told[first], TARGET, group.goal)
    return told


def _with(score: Score, name: str, make: Any) -> Score:
    return replace(score, details={**score.details, name: Later(make)})


class _Group:
    """All views of a group are made at once, side by side, at the first look at one of them."""

    def __init__(self, made: Sequence[Made], target: Target, shop: Workshop, options: Options, mesh: int) -> None:
        self._made, self._target, self._shop = list(made), target, shop
        self._options, self._mesh = options, mesh
        self._found: list[Found] | None = None
        self._lock = threading.Lock()

    def view(self, number: int) -> Mapping[str, Any]:
        with self._lock:
            if self._found is None:
                self._found = self._views()
        found = self._found[number]
        return found.view if found.ok else {"problem": f"{found.status}: {found.reason}"}

    def goal(self) -> Mapping[str, Any]:
        try:
            mesh = self._shop.target(self._target.brep, self._mesh).mesh
        except (WorkshopError, SandboxError) as error:
            return Solid.none(str(error)).record()
        return Solid.none(TOO_FINE).record() if mesh is None else mesh

    def _views(self) -> list[Found]:
        try:
            return self._shop.viewed(self._made, self._target, self._options, self._mesh)
        except (WorkshopError, SandboxError) as error:
            return [Found("lost", str(error)) for _ in self._made]
