"""Where a run stands, and what a step's metrics are made of so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mmrl.core.step import MAXIMA
from mmrl.training.processes import Processes


@dataclass
class Sums:
    """Numbers of the step that is under way.

    parts: of this process's micro-batches so far, those in MAXIMA by their maximum, the others as sums; the processes'
    parts together are the step's.
    known: numbers of the step that every process knows alike, or that only its own row of metrics needs (times).
    begun: `parts` as they were when the open update began, to begin it anew.
    """

    parts: dict[str, float] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)

    def add(self, found: Mapping[str, Any]) -> None:
        """Add a micro-batch's numbers."""
        self.parts = joined([self.parts, {name: float(value) for name, value in found.items()}])

    def combined(self, processes: Processes) -> Sums:
        """Those of all processes together; every process has to ask."""
        parts, begun = zip(*processes.gather([self.parts, self.begun]))
        return Sums(joined(parts), self.known, joined(begun))

    def note(self, name: str, value: float) -> None:
        """A number that is known as it is; the last one counts."""
        self.known[name] = value

    def count(self, name: str, value: float) -> None:
        """A number that adds up over the step, such as seconds."""
        self.known[name] = self.known.get(name, 0.0) + value


def joined(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Numbers of the same name put together: those in MAXIMA by their maximum, the others as sums."""
    found: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            before = found.get(name)
            found[name] = value if before is None else max(before, value) if name in MAXIMA else before + value
    return found


@dataclass
class Cursor:
    """Where a run stands. A step is one rollout (or one supervised batch); an update one optimizer step.

    stage, step: the number of the stage, and of the next step in it. total_steps: steps of all stages so far.
    phase: "step" before a step, "update" between rollout and the end of its updates, "end" after a stage.
    update, micro: in the phase "update", updates that are done, and micro-batches of the open one.
    evaluations: what held-out scores were, by when: "before", a number of total steps, "after".
    row: metrics of the step before, which are neither evaluated nor logged yet; None where they are.
    """

    stage: int = 0
    step: int = 0
    phase: str = "step"
    update: int = 0
    micro: int = 0
    samples: int = 0
    actions: int = 0
    wall_s: float = 0.0
    total_steps: int = 0
    sums: Sums = field(default_factory=Sums)
    evaluations: dict[str, dict[str, float]] = field(default_factory=dict)
    row: dict[str, Any] | None = None

    def begin_stage(self, number: int) -> None:
        """To the first step of a stage."""
        self.stage, self.step = number, 0
        self._begin_step()

    def end_update(self) -> None:
        """Behind an optimizer step: the next update begins."""
        self.update, self.micro = self.update + 1, 0
        self.sums.begun = dict(self.sums.parts)

    @property
    def open_steps(self) -> int:
        """Steps of the stage that have begun."""
        return self.step + (self.phase == "update")

    @property
    def logged_steps(self) -> int:
        """Steps of all stages whose rows of metrics are written."""
        return self.total_steps - (self.row is not None)

    def end_step(self, row: dict[str, Any]) -> None:
        """Behind a step: the next one begins, with the row of this one still to be logged."""
        self.row = row
        self.step += 1
        self.total_steps += 1
        self.evaluations.pop("after", None)  # of a run that had ended, and goes on
        self._begin_step()

    def end_stage(self) -> None:
        self.phase = "end"

    def redo_update(self) -> None:
        """Back to the beginning of the open update, whose micro-batches are forgotten."""
        self.micro, self.sums.parts = 0, dict(self.sums.begun)

    def _begin_step(self) -> None:
        self.phase, self.update, self.micro, self.sums = "step", 0, 0, Sums()

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def load(self, state: Mapping[str, Any]) -> None:
        """Become what `state` was taken of."""
        values = {**state, "sums": Sums(**state["sums"])}
        for name, value in values.items():
            setattr(self, name, value)
