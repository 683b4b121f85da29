"""Win rate: a judge of pairs turned into a reward of groups.

Every pair of a group is judged, by default in both orders, so that a judge that favours a position favours
nobody. The win rate of a sample is the mean of what it won. Over a group without failed pairs the rates sum
to half the number of samples, and a judge that orders the samples without ties gives rank / (samples - 1).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from mmrl.rewarding.load import group_reward
from mmrl.rewarding.threads import Threads
from mmrl.rewarding.values import one_line, scores_in
from mmrl.types import Group, Sample, Score

PairJudge = Callable[[Sample, Sample], float]
TIE = 1e-9  # the mean of two orders that cancel is 0.5 only up to rounding


def win_rate(
    judge: PairJudge, *, both_orders: bool = True, hard: bool = False, workers: int = 1
) -> Callable[[Group], list[Score]]:
    """A group reward from `judge(a, b)`, the probability in [0, 1] that a beats b (a tie is 0.5).

    both_orders: judge (a, b) and (b, a) and take the mean of the two.
    hard: a pair is won, lost or, at 0.5, tied; two orders that contradict each other make a tie.
    workers: calls of the judge that may run at a time (it must then be safe to call from threads).
    A call that raises or returns no probability masks its pair, in both orders. A sample without
    a judged pair is invalid; the only sample of a group is not applicable.
    """

    @group_reward
    def rate(group: Group) -> list[Score]:
        samples = group.samples
        if len(samples) == 1:
            return [Score(None, "a group of one has no pair to judge", "na")]
        pairs = list(combinations(range(len(samples)), 2))
        calls = [order for i, j in pairs for order in ([(i, j), (j, i)] if both_orders else [(i, j)])]
        threads = Threads(workers, "judge of pairs")
        answers = dict(zip(calls, threads.map(lambda c: _ask(judge, samples[c[0]], samples[c[1]]), calls)))
        wins: list[list[float]] = [[] for _ in samples]
        failures: list[list[str]] = [[] for _ in samples]
        for i, j in pairs:
            judged = [answers[i, j]] + ([_other_side(answers[j, i])] if both_orders else [])
            failed = [answer for answer in judged if isinstance(answer, str)]
            if failed:
                failures[i].append(failed[0])
                failures[j].append(failed[0])
                continue
            p = sum(map(float, judged)) / len(judged)
            if hard:
                p = 0.5 if abs(p - 0.5) < TIE else float(p > 0.5)
            wins[i].append(p)
            wins[j].append(1.0 - p)
        return [_score(won, failed) for won, failed in zip(wins, failures)]

    return rate


def _ask(judge: PairJudge, a: Sample, b: Sample) -> float | str:
    """The judge's probability, or why there is none."""
    try:
        [score] = scores_in([judge(a, b)], 1)
    except BaseException as error:  # in a thread of its own, where it can only be the judge's
        return one_line(f"{type(error).__name__}: {error}")
    if score.value is None or not 0.0 <= score.value <= 1.0:
        said = score.value if score.ok else score.reason
        return f"the judge returned {said}, expected a probability in [0, 1]"
    return score.value


def _other_side(answer: float | str) -> float | str:
    return answer if isinstance(answer, str) else 1.0 - answer


def _score(won: list[float], failed: list[str]) -> Score:
    if not won:
        return Score.invalid(f"every pair of this sample failed; the first: {failed[0]}")
    details: dict[str, object] = {"pairs": len(won), "failed": len(failed)}
    if failed:
        details["first_failure"] = failed[0]
    return Score(sum(won) / len(won), details=details)
