"""Judges that know nothing: what any judge has to be compared with."""

from __future__ import annotations

from collections.abc import Sequence

from mmrl.judging.base import Showing, Verdict
from mmrl.judging.words import words_of
from mmrl.seeds import seed_of
from mmrl.types import Candidate, Prompt, Score


class First:
    """Prefers what is shown first, always."""

    identity = "first"

    def compare(self, showings: Sequence[Showing]) -> list[Verdict]:
        return [_for(showing, showing.order[0]) for showing in showings]


class Random:
    """Prefers one candidate by a coin of the pair, the order and the seed."""

    identity = "random"

    def compare(self, showings: Sequence[Showing]) -> list[Verdict]:
        return [_for(s, seed_of("coin", s.seed, s.pair.id, s.order) % len(s.order)) for s in showings]


class Longest:
    """Scores a candidate by the length of its words in characters; pictures count nothing."""

    identity = "longest"

    def scores(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[Score]:
        return [Score(float(len(words_of(candidate)))) for _, candidate in items]


BASELINES: dict[str, type[First] | type[Random] | type[Longest]] = {
    "first": First,
    "longest": Longest,
    "random": Random,
}


def _for(showing: Showing, winner: int) -> Verdict:
    return Verdict(tuple(float(i == winner) for i in range(len(showing.order))))
