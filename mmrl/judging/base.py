"""What a judge is: one that scores candidates alone, or one that compares the candidates of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mmrl.types import Candidate, Pair, Prompt, Score


@dataclass(frozen=True)
class Showing:
    """A pair as a comparing judge sees it once.

    order: `order[k]` is the number, in the pair, of the candidate that is shown in place k. seed: of the judge's
    sampling; another seed is another vote.
    """

    pair: Pair
    order: tuple[int, ...]
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a showing, by the candidates' numbers in the pair (not by where they were shown).

    shares: of its preference, one a candidate, summing to 1; None where there is no verdict. reason: why there is none.
    said: its words, where it has some.
    """

    shares: tuple[float, ...] | None
    reason: str = ""
    said: str = ""

    @property
    def ok(self) -> bool:
        return self.shares is not None


class Scorer(Protocol):
    """Gives each candidate a number of its own. `identity`: what the numbers depend on besides the request."""

    identity: str

    def scores(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[Score]:
        """One score an item, in order; one that fails is invalid with a reason. Safe to call from threads."""


class Comparer(Protocol):
    """Compares the candidates of a pair. `identity`: as a Scorer's."""

    identity: str

    def compare(self, showings: Sequence[Showing]) -> list[Verdict]:
        """One verdict a showing, in order; one that fails has a reason. Safe to call from threads."""
