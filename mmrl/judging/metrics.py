"""How good a judge is: accuracy over what it answered and over all, order, position, failures, with intervals.

A showing is a pair in one order. One without a verdict is never left out of what says "over all", where it counts as
wrong. Pairs of which the data prefer no candidate are counted, and are in no accuracy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mmrl.data.pairs import Broken
from mmrl.judging.judged import Judged, Shown, credit, right_ones, winners
from mmrl.seeds import seed_of

BIASED = 0.1  # how far from chance P(first) has to be, besides more than its interval
FEWEST = 6  # units below which nothing is said of a bias
_AT_ONCE = 1_000_000  # units that are drawn together


@dataclass(frozen=True)
class Figure:
    """A mean with its bootstrap interval. count: what it is over; value: None where that is nothing."""

    value: float | None
    low: float | None
    high: float | None
    count: int

    @property
    def known(self) -> bool:
        return self.value is not None


@dataclass(frozen=True)
class Figures:
    """What is measured of a judge on some pairs.

    accuracy: over all showings, failures and `broken` records counting as wrong; accuracy_parsed: over those with a
    verdict. every_order: pairs that are right in each of their orders, over all pairs. consistency: pairs of which all
    orders say the same, over those with a verdict in each. first: P(first), how often the first place is preferred,
    beside `chance`, where a judge does not look at places. failed: showings without a verdict, by reason in `reasons`.
    acc_plus: units that are right as a whole (Acc+ of MM-RLHF), over all units, where one has several pairs; a broken
    record makes its unit wrong.
    undecided: pairs whose data prefer none. tied: showings in which the judge prefers none. tied_votes: showings in
    which votes are even. votes: how many were asked for where a showing has several; votes_failed: those without a
    verdict, which did not count in the showing's.
    """

    accuracy: Figure
    accuracy_parsed: Figure
    every_order: Figure
    consistency: Figure
    first: Figure
    chance: float | None
    acc_plus: Figure
    pairs: int
    showings: int
    failed: int
    broken: int
    undecided: int
    tied: int
    tied_votes: int
    votes: int
    votes_failed: int
    reasons: dict[str, int]

    @property
    def failure_rate(self) -> float:
        """Share of the showings that were asked for without a verdict."""
        return self.failed / self.showings if self.showings else 0.0

    @property
    def position_bias(self) -> str:
        """Which place it favours, in words; "" where none, or too little is known.

        A place is favoured where P(first) is BIASED from chance, its interval leaves chance out, and there are FEWEST
        units or more.
        """
        value, low, high = self.first.value, self.first.low, self.first.high
        if value is None or low is None or high is None or self.chance is None:
            return ""
        if self.first.count < FEWEST or abs(value - self.chance) < BIASED or low <= self.chance <= high:
            return ""
        word = "prefers" if value > self.chance else "avoids"
        return f"{word} the first place: {value:.0%}, by chance {self.chance:.0%}"


def figures(
    judged: Sequence[Judged],
    broken: Sequence[Broken] = (),
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Figures:
    """Figures of a judge, with intervals from `draws` samples of the units, with replacement.

    broken: records that could not be read and so not be judged; each counts as a pair that is wrong in `accuracy`,
    `every_order`, and in `acc_plus` where it says its unit. The intervals leave them as they are.
    """
    boot = _Bootstrap(judged, draws, seed, level)
    decided = [one for one in judged if right_ones(one.pair)]
    orders = max((len(one.shown) for one in judged), default=1)
    shown = [s for one in judged for s in one.shown]
    failures = [s.verdict.reason for s in shown if not s.verdict.ok]
    votes = [vote for s in shown if len(s.votes) > 1 for vote in s.votes]
    return Figures(
        accuracy=boot.ratio(
            decided, lambda j: [(credit(j.pair, s.verdict), 1.0) for s in j.shown], len(broken) * orders
        ),
        accuracy_parsed=boot.ratio(
            decided, lambda j: [(credit(j.pair, s.verdict), 1.0) for s in j.shown if s.verdict.ok]
        ),
        every_order=boot.ratio(decided, lambda j: [(float(_right(j)), 1.0)], len(broken)),
        consistency=boot.ratio(judged, _agreement),
        first=boot.ratio(judged, lambda j: [(_first(s), 1.0) for s in j.shown if s.order and s.verdict.ok], units=True),
        chance=_chance(judged),
        acc_plus=_acc_plus(decided, [one.unit for one in broken if one.unit], boot),
        pairs=len(judged),
        showings=len(shown),
        failed=len(failures),
        broken=len(broken),
        undecided=len(judged) - len(decided),
        tied=sum(s.verdict.shares is not None and len(winners(s.verdict.shares)) > 1 for s in shown),
        tied_votes=sum(_even(s) for s in shown),
        votes=len(votes),
        votes_failed=sum(not vote.ok for vote in votes),
        reasons=dict(Counter(failures).most_common()),
    )


def by_category(
    judged: Sequence[Judged], broken: Sequence[Broken] = (), draws: int = 1000, seed: int = 0
) -> dict[str, Figures]:
    """Figures of each category, in the order in which they come; {} where no pair has one.

    broken: records that could not be read; those that say their category are wrong in it.
    """
    named = [one.pair.category for one in judged] + [one.category for one in broken]
    return {
        name: figures(
            [one for one in judged if one.pair.category == name],
            [one for one in broken if one.category == name],
            draws,
            seed,
        )
        for name in dict.fromkeys(named)
        if name
    }


def macro(categories: dict[str, Figures]) -> float | None:
    """The mean of the categories' accuracies over all, each counting once; None without any."""
    found = [some.accuracy.value for some in categories.values() if some.accuracy.value is not None]
    return sum(found) / len(found) if found else None


# -------------------------------------------------------------------- of one pair


def _right(one: Judged) -> bool:
    """Whether every order has the right verdict, without a tie."""
    return bool(one.shown) and all(
        s.verdict.shares is not None and set(winners(s.verdict.shares)) <= set(right_ones(one.pair)) for s in one.shown
    )


def _agreement(one: Judged) -> list[tuple[float, float]]:
    said = [winners(s.verdict.shares) for s in one.shown if s.order and s.verdict.shares is not None]
    if len(said) < 2 or len(said) < len(one.shown):
        return []
    return [(float(len(set(said)) == 1), 1.0)]


def _first(shown: Shown) -> float:
    """The part of a verdict that goes to the first place."""
    assert shown.order is not None and shown.verdict.shares is not None
    said = winners(shown.verdict.shares)
    return (shown.order[0] in said) / len(said)


def _even(shown: Shown) -> bool:
    shares = shown.verdict.shares
    return len(shown.votes) > 1 and shares is not None and len(winners(shares)) > 1


def _chance(judged: Iterable[Judged]) -> float | None:
    """P(first) of a judge that looks at no places, over the showings with a verdict."""
    found = [1.0 / len(s.order) for one in judged for s in one.shown if s.order and s.verdict.ok]
    return sum(found) / len(found) if found else None


# -------------------------------------------------------------------- of units


def _unit(one: Judged) -> str:
    return f"unit {one.pair.unit}" if one.pair.unit else f"pair {one.pair.id}"


def _acc_plus(decided: Sequence[Judged], broken: Sequence[str], boot: _Bootstrap) -> Figure:
    """broken: the unit of each record that could not be read."""
    units: dict[str, list[Judged]] = {}
    for one in decided:
        if one.pair.unit:
            units.setdefault(one.pair.unit, []).append(one)
    sizes = Counter(broken) + Counter({unit: len(some) for unit, some in units.items()})
    if max(sizes.values(), default=0) < 2:
        return Figure(None, None, None, 0)
    firsts = [some[0] for some in units.values()]
    whole = {unit: unit not in broken and all(map(_right, some)) for unit, some in units.items()}
    return boot.ratio(firsts, lambda j: [(float(whole[j.pair.unit]), 1.0)], len(set(broken) - set(units)))


class _Bootstrap:
    """Ratios of sums over units, and their spread where units are drawn with replacement: pairs of one unit are alike,
    and so are the orders of a pair."""

    def __init__(self, judged: Sequence[Judged], draws: int, seed: int, level: float) -> None:
        names = list(dict.fromkeys(map(_unit, judged)))
        self.place = {name: k for k, name in enumerate(names)}
        self.draws, self.seed = draws, seed
        self.ends = ((1 - level) / 2, (1 + level) / 2)

    def ratio(
        self,
        judged: Sequence[Judged],
        parts: Callable[[Judged], Sequence[tuple[float, float]]],
        wrong: int = 0,
        units: bool = False,
    ) -> Figure:
        """Sum of the first parts over that of the second. wrong: what counts as 0 besides. units: count those."""
        sums = np.zeros((len(self.place), 2))
        count = 0
        for one in judged:
            for part in parts(one):
                sums[self.place[_unit(one)]] += part
                count += 1
        sums = sums[sums[:, 1] > 0]
        total, size = sums.sum(0)
        size += wrong
        if not size:
            return Figure(None, None, None, 0)
        random = np.random.default_rng(seed_of(self.seed, "units"))  # a seed may be below 0
        found: list[float] = []
        together = max(1, _AT_ONCE // max(1, len(sums)))  # draws: a benchmark may have a million units
        for start in range(0, self.draws, together):
            shape = (min(together, self.draws - start), len(sums))
            drawn = sums[random.integers(0, max(1, len(sums)), shape)].sum(1)
            found += (drawn[:, 0] / (drawn[:, 1] + wrong)).tolist()
        low, high = np.quantile(found, self.ends).tolist() if found else (None, None)
        return Figure(float(total / size), low, high, len(sums) if units else count + wrong)
