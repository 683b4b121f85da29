"""Win rate: a judge of pairs turned into a reward of groups.

Pairs of a group are judged, by default all of them and in both orders, so that a judge that favours a position favours
nobody. The win rate of a sample is the mean of what it won. Over a group of which every pair was judged the rates sum
to half the number of samples, and a judge that orders the samples without ties gives rank / (samples - 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from mmrl.rewarding.load import group_reward
from mmrl.rewarding.places import Places
from mmrl.rewarding.schedule import Pairs, regular, round_robin
from mmrl.rewarding.strength import bradley_terry
from mmrl.rewarding.threads import Threads
from mmrl.rewarding.values import one_line, scores_in
from mmrl.seeds import seed_of
from mmrl.types import Group, Sample, Score

PairJudge = Callable[[Sample, Sample], float]


class PairsJudge(Protocol):
    """A judge that is asked about many pairs at a time, as a model that computes in batches wants it."""

    def judge_pairs(self, pairs: Sequence[tuple[Sample, Sample]]) -> Sequence[float | str]:
        """For each pair, in order, the probability that the first beats the second, or why there is none."""


Anchors = Callable[[Group], Sequence[Sample]]
TIE = 1e-9  # the mean of two orders that cancel is 0.5 only up to rounding
SCHEDULES = ("round_robin", "regular", "anchors")
SCORES = ("win_rate", "bradley_terry")


def win_rate(
    judge: PairJudge | PairsJudge,
    *,
    schedule: str = "round_robin",
    neighbours: int = 4,
    anchors: Anchors | None = None,
    score: str = "win_rate",
    prior: float = 1.0,
    both_orders: bool = True,
    hard: bool = False,
    margin: float = 0.0,
    min_spread: float = 0.0,
    workers: int = 1,
    seed: int = 0,
) -> Callable[[Group], list[Score]]:
    """A group reward from `judge(a, b)`, the probability in [0, 1] that a beats b (a tie is 0.5), or from an object
    with `judge_pairs`, which is asked about all pairs of a group at once.

    schedule: which pairs are judged: "round_robin", all of the group; "regular", each sample with `neighbours` others,
    drawn anew for every group by `seed`; "anchors", each sample with each of `anchors(group)`, samples of given
    answers, which get no score themselves. With anchors, numbers of different prompts can be compared.
    score: "win_rate", the mean of what a sample won; "bradley_terry", its strength in log-odds, of mean 0 over the
    group, or over the anchors (see strength.bradley_terry, also for `prior`). It allows for whom a sample happened to
    meet.
    both_orders: judge (a, b) and (b, a) and take the mean of the two. Otherwise a judge's favourite place adds noise:
    which comes first is drawn by `seed`, and in all pairs of a group, and with anchors, each is first as often as
    second, up to one.
    hard: a pair is won, lost or, at 0.5, tied; two orders that contradict each other make a tie.
    margin: a pair whose probability, both orders taken together, is no farther than this from 0.5 is a tie.
    min_spread: where the best and the worst score of a group are no farther apart, all get their mean: a group that
    differs by noise alone teaches nothing, while dividing by its std would make the noise as large as any difference.
    workers: calls of `judge(a, b)` that may run at a time (it must then be safe to call from threads).
    A call that raises or returns no probability masks its pair, in both orders. A sample without a judged pair is
    invalid, and so is one whose strength has nothing to be compared with; the only sample of a group is not applicable.
    A judge that gives four fifths or more to one place, over the first hundred verdicts, is warned of, once.
    Details of a score: `pairs` that were judged, `failed`; `won`, what it won of each other sample (null: not judged),
    with anchors of each anchor; `first`, the mean share of what was shown first; with both orders `agreed`, in how many
    pairs these said the same; where the group was levelled by min_spread, its own score as `apart`.
    Raises ValueError for options that are unknown or have no effect.
    """
    _check(schedule, neighbours, anchors, score, prior)
    _check_ties(margin, min_spread)
    places = Places()

    @group_reward
    def rate(group: Group) -> list[Score]:
        samples = group.samples
        count = len(samples)
        if anchors is None and count == 1:
            return [Score(None, "a group of one has no pair to judge", "na")]
        players = [*samples, *(anchors(group) if anchors is not None else ())]
        if anchors is not None and len(players) == count:
            return [Score.invalid("there is no anchor to compare with")] * count
        pairs = _scheduled(schedule, count, len(players), neighbours, both_orders, seed_of(seed, group.key))
        table = _judged(judge, players, pairs, both_orders, hard, margin, workers)
        places.seen(table.shares_of_first)
        columns = range(count, len(players)) if anchors is not None else range(count)
        scores = [_rate(table, i, columns, both_orders) for i in range(count)]
        made = scores if score == "win_rate" else _strengths(table, scores, columns, prior)
        return _levelled(made, min_spread) if min_spread else made

    return rate


def _check(schedule: str, neighbours: int, anchors: Anchors | None, score: str, prior: float) -> None:
    if schedule not in SCHEDULES or score not in SCORES:
        known = f"one of {', '.join(SCHEDULES)}, and of {', '.join(SCORES)}"
        raise ValueError(f"schedule={schedule!r}, score={score!r}: expected {known}")
    if (schedule == "anchors") != (anchors is not None):
        raise ValueError("schedule=anchors and anchors go together: give both, or neither")
    if schedule == "regular" and neighbours < 2:
        raise ValueError(f"neighbours={neighbours}: 2 or more are needed to connect the samples")
    if score == "bradley_terry" and not prior > 0:
        raise ValueError(f"prior={prior} must be above 0: without one an undefeated sample has no strength")


def _check_ties(margin: float, min_spread: float) -> None:
    if not 0 <= margin < 0.5:
        raise ValueError(f"margin={margin} must be from 0 to below 0.5, a distance from the probability 0.5")
    if not 0 <= min_spread < math.inf:
        raise ValueError(f"min_spread={min_spread} must be 0 or more, a difference of scores")


def _scheduled(schedule: str, count: int, players: int, neighbours: int, both_orders: bool, seed: int) -> Pairs:
    if schedule == "anchors":
        ahead = seed % 2  # all samples have the same places against the same anchor
        pairs = [(i, j) for i in range(count) for j in range(count, players)]
        return pairs if both_orders else [(j, i) if (j + ahead) % 2 else (i, j) for i, j in pairs]
    if schedule == "round_robin":
        return round_robin(count) if both_orders else regular(count, max(count - 1, 2), seed)
    return regular(count, neighbours, seed)


# -------------------------------------------------------------------- judging


@dataclass(frozen=True)
class _Table:
    """What came of the pairs. won[i][j]: what i won of j, None where it was not judged; calls: behind each number.

    first[i]: the shares of what was shown first, of each judged call with i. shares_of_first: those of all calls.
    """

    won: list[list[float | None]]
    calls: int
    agreed: list[int]
    failures: list[list[str]]
    first: list[list[float]]
    shares_of_first: list[float]


def _judged(
    judge: PairJudge | PairsJudge,
    players: Sequence[Sample],
    pairs: Pairs,
    both_orders: bool,
    hard: bool,
    margin: float,
    workers: int,
) -> _Table:
    calls = [order for i, j in pairs for order in ([(i, j), (j, i)] if both_orders else [(i, j)])]
    answers = dict(zip(calls, _asked(judge, [(players[i], players[j]) for i, j in calls], workers)))
    nobody = range(len(players))
    won: list[list[float | None]] = [[None] * len(players) for _ in nobody]
    table = _Table(won, 1 + both_orders, [0] * len(players), [[] for _ in nobody], [[] for _ in nobody], [])
    for i, j in pairs:
        told = [answers[i, j]] + ([answers[j, i]] if both_orders else [])
        judged = [told[0], *map(_other_side, told[1:])]
        failed = [answer for answer in judged if isinstance(answer, str)]
        if failed:
            table.failures[i].append(failed[0])
            table.failures[j].append(failed[0])
            continue
        p = sum(map(float, judged)) / len(judged)
        for player in (i, j):
            table.first[player].extend(map(float, told))
        table.shares_of_first.extend(map(float, told))
        if len({_side(float(answer)) for answer in judged}) == 1:
            table.agreed[i] += 1
            table.agreed[j] += 1
        p = 0.5 if abs(p - 0.5) <= margin + TIE else (1 + _side(p)) / 2 if hard else p
        table.won[i][j], table.won[j][i] = p, 1.0 - p
    return table


def _side(p: float) -> int:
    """1 where the first wins, -1 where the second does, 0 for a tie."""
    return 0 if abs(p - 0.5) < TIE else 1 if p > 0.5 else -1


def _asked(judge: PairJudge | PairsJudge, pairs: Sequence[tuple[Sample, Sample]], workers: int) -> list[float | str]:
    """For each pair the judge's probability, or why there is none."""
    if callable(together := getattr(judge, "judge_pairs", None)):
        answers = list(together(pairs))
        if len(answers) != len(pairs):
            raise ValueError(f"the judge gave {len(answers)} answers for {len(pairs)} pairs")
        return [answer if isinstance(answer, str) else _probability(answer) for answer in answers]
    alone = cast(PairJudge, judge)
    return Threads(workers, "judge of pairs").map(lambda pair: _ask(alone, *pair), pairs)


def _ask(judge: PairJudge, a: Sample, b: Sample) -> float | str:
    try:
        return _probability(judge(a, b))
    except BaseException as error:  # in a thread of its own, where it can only be the judge's
        return one_line(f"{type(error).__name__}: {error}")


def _probability(returned: Any) -> float | str:
    [score] = scores_in([returned], 1)
    if score.value is None or not 0.0 <= score.value <= 1.0:
        said = score.value if score.ok else score.reason
        return f"the judge returned {said}, expected a probability in [0, 1]"
    return score.value


def _other_side(answer: float | str) -> float | str:
    return answer if isinstance(answer, str) else 1.0 - answer


# -------------------------------------------------------------------- scores


def _rate(table: _Table, player: int, columns: range, both_orders: bool) -> Score:
    row = [table.won[player][j] for j in columns]
    won, failed = [p for p in row if p is not None], table.failures[player]
    if not won:
        none = {"pairs": 0, "failed": len(failed)}
        return Score(None, f"every pair of this sample failed; the first: {failed[0]}", "invalid", none)
    first = table.first[player]
    details: dict[str, object] = {
        "pairs": len(won),
        "failed": len(failed),
        "won": row,
        "first": sum(first) / len(first),
    }
    if both_orders:
        details["agreed"] = table.agreed[player]
    if failed:
        details["first_failure"] = failed[0]
    return Score(sum(won) / len(won), details=details)


def _strengths(table: _Table, rates: Sequence[Score], columns: range, prior: float) -> list[Score]:
    """The strengths of the samples that have a rate."""
    wins = [[table.calls * p if p is not None else 0.0 for p in row] for row in table.won]
    anchored = columns.start > 0
    fit = bradley_terry(wins, prior, zero=columns if anchored else ())
    parts = [part for part, value in zip(fit.component, fit.values) if value is not None]
    largest = max(parts, key=parts.count) if parts else None
    scores = []
    for i, rate in enumerate(rates):
        value, low, high = fit.values[i], fit.low[i], fit.high[i]
        if rate.value is None or value is None or low is None or high is None:
            scores.append(rate)
        elif fit.component[i] != largest:
            scores.append(Score.invalid("failed pairs cut this sample off from most others: no common scale"))
        else:
            scores.append(Score(value, details={**rate.details, "low": low, "high": high, "win_rate": rate.value}))
    return scores


def _levelled(scores: Sequence[Score], min_spread: float) -> list[Score]:
    """The scores, or their mean for each where they are no farther apart than `min_spread`."""
    values = [score.value for score in scores if score.value is not None]
    if not values or max(values) - min(values) > min_spread + TIE:
        return list(scores)
    mean = sum(values) / len(values)
    return [
        score if score.value is None else replace(score, value=mean, details={**score.details, "apart": score.value})
        for score in scores
    ]
