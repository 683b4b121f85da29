"""What an evaluation found, in numbers, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmrl.data.pairs import Broken
from mmrl.judging.benchmarks import official
from mmrl.judging.calibration import Reliability, reliability
from mmrl.judging.judged import Judged
from mmrl.judging.metrics import Figures, by_category, figures, macro
from mmrl.reporting.disk import writing
from mmrl.reporting.files import dumps


@dataclass(frozen=True)
class Result:
    """One judge on all pairs. macro: mean over the categories; official: the benchmark's own scores, where it has some.

    judged: verdicts, in the order of the pairs.
    """

    name: str
    figures: Figures
    categories: Mapping[str, Figures]
    macro: float | None
    official: Mapping[str, float]
    reliability: Reliability | None
    judged: Sequence[Judged] = field(repr=False, default=())

    @classmethod
    def of(cls, name: str, judged: Sequence[Judged], broken: Sequence[Broken], seed: int) -> Result:
        """broken: records that could not be read, see metrics.figures. seed: of the intervals."""
        categories = by_category(judged, broken, seed=seed)
        whole = figures(judged, broken, seed=seed)
        return cls(name, whole, categories, macro(categories), official(judged, broken), reliability(judged), judged)


class NotJudged(RuntimeError):
    """A judge gave no answer at all, so that nothing was measured of it."""


@dataclass(frozen=True)
class Evaluation:
    """The judge first, then the baselines. broken: records of the benchmark that are no pairs: they were not asked."""

    bench: str
    results: Sequence[Result]
    broken: Sequence[Broken]
    orders: str
    votes: int
    seed: int

    @property
    def judge(self) -> Result:
        return self.results[0]

    def refuse_silence(self) -> None:
        """Raises NotJudged where the judge answered nothing: no verdict, and no words that are none. Words that hold no
        verdict are an answer, and are measured as such."""
        shown = [one for each in self.judge.judged for one in each.shown]
        if any(one.verdict.ok or one.verdict.said for one in shown):
            return
        why = "; ".join(f"{count} x {reason}" for reason, count in list(self.judge.figures.reasons.items())[:3])
        raise NotJudged(f"{self.judge.name} judged none of {len(self.judge.judged)} pairs: {why}")


@dataclass(frozen=True)
class Failed:
    """A showing without a verdict: of which pair, in which order, and why."""

    id: str
    order: tuple[int, ...] | None
    why: str


def failures(judged: Iterable[Judged]) -> list[Failed]:
    return [
        Failed(one.pair.id, shown.order, shown.verdict.reason)
        for one in judged
        for shown in one.shown
        if not shown.verdict.ok
    ]


def as_json(found: Evaluation) -> dict[str, Any]:
    """All numbers, and what failed, without the verdicts."""
    return {
        "bench": found.bench,
        "orders": found.orders,
        "votes": found.votes,
        "seed": found.seed,
        "broken": [asdict(one) for one in found.broken],
        "failures": [asdict(one) for one in failures(found.judge.judged)],
        "results": [_result(result) for result in found.results],
    }


def written(judged: Iterable[Judged], path: Path) -> Iterator[Judged]:
    """The same, each written as a line of `path` when it is there. Raises WriteError."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8")
    with file:
        for one in judged:
            with writing(path):
                file.write(dumps(line_of(one)) + "\n")
                file.flush()
            yield one


def line_of(one: Judged) -> dict[str, Any]:
    """A pair's verdicts as JSON; shares are by the candidates' numbers, whatever the order."""
    pair = one.pair
    shown = [
        {
            "order": shown.order,
            "shares": shown.verdict.shares,
            "reason": shown.verdict.reason,
            "said": shown.verdict.said,
            "votes": [vote.shares for vote in shown.votes] if len(shown.votes) > 1 else None,
        }
        for shown in one.shown
    ]
    return {
        "id": pair.id,
        "category": pair.category,
        "unit": pair.unit,
        "shares": pair.shares,
        "scores": [score.value for score in one.scores] or None,
        "shown": [{key: value for key, value in part.items() if value not in (None, "")} for part in shown],
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        **_figures(result.figures),
        "categories": {name: _figures(some) for name, some in result.categories.items()},
        "macro": result.macro,
        "official": dict(result.official),
        "reliability": asdict(result.reliability) if result.reliability else None,
    }


def _figures(some: Figures) -> dict[str, Any]:
    return {**asdict(some), "failure_rate": some.failure_rate, "position_bias": some.position_bias}
