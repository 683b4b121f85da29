"""What a run came to: how it ended, its main metric before and after, every number of its evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmrl.reporting.progress import duration

Values = Mapping[str, float | None]


@dataclass(frozen=True)
class Status:
    """How the run ended: `word` is "" where it came to its last step; `why` says more. failed: by an error."""

    word: str
    why: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Change:
    """A metric before and after, and where the two numbers come from."""

    metric: str
    source: str
    before: float | None
    after: float | None

    @property
    def delta(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class Results:
    """Evaluations by name (without "eval/"): before training, and the last one, which was made at `step`.

    main: the first reward's, or None where nothing was evaluated. finished: whether the last one is that of the end.
    """

    main: str | None
    before: Values
    last: Values
    step: int | None
    finished: bool

    @property
    def source(self) -> str:
        if self.finished:
            return "evaluation before and after training"
        return f"evaluation before training and at step {self.step}" if self.last else "evaluation before training"

    @property
    def by_step(self) -> dict[int, Values]:
        """The two evaluations of which metrics.jsonl may have no line."""
        ends = {} if self.step is None else {self.step: self.last}
        return {0: self.before} | ends

    @property
    def names(self) -> list[str]:
        """The main metric first."""
        found = dict.fromkeys([*self.before, *self.last])
        return sorted(found, key=lambda name: name != self.main)

    def change(self, name: str) -> Change:
        return Change(name, self.source, self.before.get(name), self.last.get(name))


def results(
    rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None, opening: Mapping[str, Any]
) -> Results:
    """opening: what the evaluation before training found, which counts until there is a summary."""
    if summary:
        before, after = _names(summary["eval"]["before"]), _names(summary["eval"]["after"])
        main = summary["main_metric"].removeprefix("eval/")
        return Results(main, before, after, summary["steps"], finished=True)
    before = _names({key: value for key, value in opening.items() if _evaluated(key, value)})
    told = [{key: value for key, value in row.items() if key.startswith("eval/")} for row in rows]
    last, step = next(((_names(t), r["step"]) for t, r in zip(told[::-1], rows[::-1]) if t), ({}, None))
    return Results(next(iter([*before, *last]), None), before, last, step, finished=False)


def teacher_of(told: Mapping[str, Any]) -> Values:
    """Evaluations by name of the model that a distill stage learns from. told: what stands beside its samples."""
    return _names({key: value for key, value in told.items() if _evaluated(key, value)})


def headline(rows: Sequence[Mapping[str, Any]], found: Results) -> Change | None:
    """The main metric of the evaluations; without them the training reward, said to be that."""
    if found.main is not None and (found.main in found.before or found.main in found.last):
        return found.change(found.main)
    values = [row["reward/mean"] for row in rows if row.get("reward/mean") is not None]
    if not values:
        return None
    return Change("reward/mean", "training reward, first and last recorded step", values[0], values[-1])


def status(
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any] | None,
    ending: Mapping[str, Any] | None,
    total: int | None,
) -> Status:
    """total: steps that were asked for, where that is known."""
    step = ending["step"] if ending else (rows[-1]["step"] if rows else None)
    where = "" if step is None else f"step {step}{f' of {total}' if total is not None and total >= step else ''}"
    if ending and ending["how"] == "failed":
        return Status(f"failed at {where}" if where else "failed", ending["why"], failed=True)
    if ending:
        return Status(f"stopped at {where}" if where else "stopped", ending["why"])
    if summary:
        return Status("")
    why = "As far as it had come when this was written. If it no longer runs, it was killed: go on with --resume."
    return Status(f"not finished: {where}" if where else "not finished", why)


def facts(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """(label, value) pairs under the headline."""
    if summary:
        told: list[tuple[str, str, Callable[[Any], str]]] = [
            ("steps", "steps", "{:,}".format),
            ("wall time", "wall_s", duration),
            ("samples", "samples", "{:,}".format),
            ("actions", "actions", "{:,}".format),
            ("peak memory", "peak_rss_mb", "{:,.0f} MB".format),
            ("seed", "seed", str),
            ("config", "config", str),
        ]
        return [(label, form(summary[key])) for label, key, form in told if summary[key] is not None]
    if not rows:
        return []
    seconds = sum(row.get("time/step") or 0.0 for row in rows)
    return [("steps", f"{rows[-1]['step']:,}")] + ([("wall time", duration(seconds))] if seconds else [])


def _names(values: Mapping[str, Any]) -> dict[str, float | None]:
    return {name.removeprefix("eval/"): value for name, value in values.items()}


def _evaluated(key: str, value: Any) -> bool:
    number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return key.startswith("eval/") and number
