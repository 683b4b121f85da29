"""What came of judging a pair: its showings with their verdicts, votes counted, and whether they are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmrl.judging.base import Verdict
from mmrl.types import Pair, Score

TIE = 1e-12  # shares this near are equal


@dataclass(frozen=True)
class Shown:
    """A pair in one order, with the verdict that its votes came to. order: None for a Scorer, which sees no places."""

    order: tuple[int, ...] | None
    verdict: Verdict
    votes: tuple[Verdict, ...] = ()


@dataclass(frozen=True)
class Judged:
    """A pair and all its showings. scores: a Scorer's, one a candidate."""

    pair: Pair
    shown: tuple[Shown, ...]
    scores: tuple[Score, ...] = ()


def winners(shares: Sequence[float]) -> tuple[int, ...]:
    """The candidates with the largest share; several are a tie."""
    best = max(shares)
    return tuple(i for i, share in enumerate(shares) if best - share <= TIE)


def right_ones(pair: Pair) -> tuple[int, ...]:
    """The candidates that are right to prefer; () where the data prefer none."""
    right = winners(pair.shares)
    return () if len(right) == len(pair.shares) else right


def credit(pair: Pair, verdict: Verdict) -> float:
    """1 for a right verdict; a tie is worth the share of right ones in it, so 1/2 of two. 0 where there is none.

    That is RewardBench 2's rule for scores that are equal.
    """
    if verdict.shares is None:
        return 0.0
    said = winners(verdict.shares)
    return sum(i in right_ones(pair) for i in said) / len(said)


def voted(votes: Sequence[Verdict]) -> Verdict:
    """The verdict of several: each candidate's share of the votes that were cast; one alone stands as it is.

    A vote for several is cast in equal parts. Without any vote the first reason is told.
    """
    cast = [winners(vote.shares) for vote in votes if vote.shares is not None]
    if not cast:
        return Verdict(None, votes[0].reason if votes else "nothing was asked", votes[0].said if votes else "")
    if len(votes) == 1:
        return votes[0]
    size = next(len(vote.shares) for vote in votes if vote.shares is not None)
    shares = tuple(sum((i in said) / len(said) for said in cast) / len(cast) for i in range(size))
    first = winners(shares)[0]
    said = next((v.said for v in votes if v.shares is not None and first in winners(v.shares)), "")
    return Verdict(shares, said=said)
