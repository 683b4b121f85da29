"""Putting pairs to a judge: orders, votes, and verdicts that come pair by pair, however many there are."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeGuard, cast

from mmrl.judging.base import Comparer, Scorer, Showing, Verdict
from mmrl.judging.judged import Judged, Shown, voted
from mmrl.seeds import seed_of
from mmrl.types import Pair, Score

ORDERS = ("both", "random")


def is_comparer(judge: Scorer | Comparer) -> TypeGuard[Comparer]:
    """Whether a judge compares candidates; otherwise it scores each alone."""
    return hasattr(judge, "compare")


def ask(
    judge: Scorer | Comparer,
    pairs: Iterable[Pair],
    *,
    orders: str = "both",
    votes: int = 1,
    seed: int = 0,
    together: int = 64,
) -> Iterator[Judged]:
    """The pairs judged, in order, `together` at a time.

    orders: "both" shows a pair in an order and the reverse of it (of two candidates: in both), "random" in one that is
    drawn. The better candidate stands first in half of them, whatever the data's own order. votes: how often each
    order is asked, with seeds of their own; the majority is its verdict. Neither changes anything for a Scorer, which
    sees one candidate at a time: votes above 1 are refused for it with a ValueError.
    """
    if orders not in ORDERS or votes < 1 or together < 1:
        raise ValueError(f"orders={orders!r}, votes={votes}: expected {' or '.join(ORDERS)}, and 1 or more")
    if not is_comparer(judge) and votes > 1:
        raise ValueError(f"votes={votes}: a judge that scores candidates says the same each time; leave it at 1")
    left = iter(pairs)
    while some := list(islice(left, together)):
        if is_comparer(judge):
            yield from _compared(judge, some, orders, votes, seed)
        else:
            yield from _scored(cast(Scorer, judge), some)


def shuffled(judged: Sequence[Judged], seed: int = 0) -> list[Judged]:
    """The same verdicts beside labels that are drawn anew: how right a judge would be by luck."""
    found = []
    for one in judged:
        shares = list(one.pair.shares)
        random.Random(seed_of(seed, "labels", one.pair.id)).shuffle(shares)
        found.append(replace(one, pair=replace(one.pair, shares=tuple(shares))))
    return found


def orders_of(pair: Pair, orders: str, seed: int) -> list[tuple[int, ...]]:
    """The orders in which a pair is shown."""
    size = len(pair.candidates)
    drawn = tuple(random.Random(seed_of(seed, "order", pair.id)).sample(range(size), size))
    return [drawn, drawn[::-1]] if orders == "both" else [drawn]


def _compared(judge: Comparer, pairs: Sequence[Pair], orders: str, votes: int, seed: int) -> Iterator[Judged]:
    plan = [(pair, orders_of(pair, orders, seed)) for pair in pairs]
    showings = [
        Showing(pair, order, seed * votes + vote) for pair, some in plan for order in some for vote in range(votes)
    ]
    verdicts = judge.compare(showings)
    _as_many("verdicts", verdicts, len(showings))
    checked = iter([_checked(verdict, len(s.order)) for verdict, s in zip(verdicts, showings)])
    for pair, some in plan:
        shown = []
        for order in some:
            some_votes = tuple(islice(checked, votes))
            shown.append(Shown(order, voted(some_votes), some_votes))
        yield Judged(pair, tuple(shown))


def _scored(judge: Scorer, pairs: Sequence[Pair]) -> Iterator[Judged]:
    items = [(pair.prompt, candidate) for pair in pairs for candidate in pair.candidates]
    scores = judge.scores(items)
    _as_many("scores", scores, len(items))
    found = iter(scores)
    for pair in pairs:
        own = tuple(islice(found, len(pair.candidates)))
        yield Judged(pair, (Shown(None, _preferred(own)),), own)


def _preferred(scores: Sequence[Score]) -> Verdict:
    """The verdict of scores: the softmax of them, which for two is Bradley-Terry's probability."""
    values = [score.value for score in scores if score.value is not None and math.isfinite(score.value)]
    if len(values) < len(scores):
        bad = next(n for n, score in enumerate(scores) if score.value is None or not math.isfinite(score.value))
        return Verdict(None, f"candidate {bad} has no score: {scores[bad].reason or scores[bad].value}")
    weights = [math.exp(value - max(values)) for value in values]
    return Verdict(tuple(weight / sum(weights) for weight in weights))


def _checked(verdict: Verdict, size: int) -> Verdict:
    """The verdict, or what is wrong with its shares."""
    shares = verdict.shares
    if shares is None:
        return verdict if verdict.reason else replace(verdict, reason="no verdict, and no reason")
    sound = len(shares) == size and all(math.isfinite(s) and s >= 0 for s in shares)
    if not sound or abs(sum(shares) - 1) > 1e-3:
        why = f"shares {shares!r:.60} of {size} candidates: expected as many, summing to 1"
        return Verdict(None, why, verdict.said)
    return verdict


def _as_many(what: str, given: Sequence[object], count: int) -> None:
    if len(given) != count:
        raise ValueError(f"the judge gave {len(given)} {what} for {count}")
