"""An evaluation as a page: numbers beside baselines, how calibrated it is, and pairs with what was said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrl.judging.judged import Judged, Shown, right_ones, winners
from mmrl.judging.results import Evaluation, failures
from mmrl.judging.tables import notices, table
from mmrl.judging.words import words_of
from mmrl.pictures import PictureError, open_image
from mmrl.reporting.cards import MAX_TEXT, SMALL
from mmrl.reporting.files import write_atomic
from mmrl.reporting.page import render
from mmrl.reporting.pictures import data_uri
from mmrl.reporting.words import clip
from mmrl.types import Pair

MAX_PIXELS = 50_000_000
NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class PictureView:
    """uri: of a picture, or "" and why it is not shown."""

    uri: str
    small: bool
    note: str


@dataclass(frozen=True)
class CandidateView:
    """name: A, B ...; share: of the data's preference; right: whether it is the one to prefer; score: a Scorer's."""

    name: str
    text: str
    pictures: tuple[PictureView, ...]
    share: float
    right: bool
    score: float | None


@dataclass(frozen=True)
class VerdictView:
    """order: the candidates' names as they were shown, "" for a Scorer. said: its choice, or why there is none."""

    order: str
    said: str
    state: str  # "right", "wrong", "none" (no verdict) or "tie"
    words: str
    votes: str


@dataclass(frozen=True)
class PairView:
    id: str
    category: str
    question: str
    pictures: tuple[PictureView, ...]
    candidates: tuple[CandidateView, ...]
    verdicts: tuple[VerdictView, ...]
    unsure: bool  # its orders do not say the same


def write_page(found: Evaluation, path: Path, max_pairs: int = 40, max_bytes: int = 40_000_000) -> Path:
    """Write the page and return its path.

    max_pairs: pairs that are shown, of those that did not go right and of all others as many of each as fill half of
    them. max_bytes: bound on all pictures. Raises WriteError.
    """
    shelf = _Shelf(max_bytes)
    judged = found.judge.judged
    sorts: tuple[list[Judged], list[Judged]] = ([], [])
    for one in judged:
        sorts[all(_state(one.pair, shown) == "right" for shown in one.shown)].append(one)
    amiss, well = sorts
    some = _split(len(amiss), len(well), max_pairs)
    shown = [("Where it went wrong", amiss[: some[0]], len(amiss)), ("Where it was right", well[: some[1]], len(well))]
    html = render(
        "judge.html.j2",
        [],
        name=found.judge.name,
        bench=found.bench,
        accuracy=found.judge.figures.accuracy,
        parsed=found.judge.figures.accuracy_parsed,
        facts=_facts(found),
        notices=notices(found),
        table=table(found),
        reliability=_curve(found),
        parts=[(title, [_pair_view(one, shelf) for one in part], total) for title, part, total in shown if part],
        failures=failures(judged),
        broken=found.broken,
    )
    write_atomic(path, html)
    return path


def _split(first: int, second: int, most: int) -> tuple[int, int]:
    """How many of two kinds to show: half of each, or what the other leaves."""
    left = min(first, max(most // 2, most - second))
    return left, min(second, most - left)


def _facts(found: Evaluation) -> list[tuple[str, str]]:
    some = found.judge.figures
    facts = [("pairs", f"{some.pairs:,}"), ("showings", f"{some.showings:,}")]
    if some.chance is not None:
        facts += [("orders", found.orders), ("votes", str(found.votes))]
    return [*facts, ("without a verdict", f"{some.failed:,}"), ("seed", str(found.seed))]


def _curve(found: Evaluation) -> dict[str, Any] | None:
    """Points of the reliability curve in a square of 100 by 100, left and bottom 0."""
    curve = found.judge.reliability
    if curve is None:
        return None
    most = max(b.count for b in curve.bins)
    points = [
        {
            "x": round(100 * b.confidence, 2),
            "y": round(100 - 100 * b.accuracy, 2),
            "r": round(1.2 + 2.6 * (b.count / most) ** 0.5, 2),
            "title": f"says {b.confidence:.0%}, right {b.accuracy:.0%}, {b.count} showings",
        }
        for b in curve.bins
    ]
    return {"points": points, "error": curve.error, "bins": curve.bins}


# -------------------------------------------------------------------- a pair


def _pair_view(one: Judged, shelf: _Shelf) -> PairView:
    pair = one.pair
    root = pair.prompt.root
    candidates = tuple(
        CandidateView(
            name=_name(n),
            text=clip(words_of(candidate), MAX_TEXT),
            pictures=shelf.views(candidate.images, root),
            share=pair.shares[n],
            right=n in right_ones(pair),
            score=one.scores[n].value if one.scores else None,
        )
        for n, candidate in enumerate(pair.candidates)
    )
    said = {winners(shown.verdict.shares) for shown in one.shown if shown.verdict.shares is not None}
    return PairView(
        id=pair.id,
        category=pair.category,
        question=clip(_question(pair), MAX_TEXT),
        pictures=shelf.views(pair.prompt.record.get("images") or (), root),
        candidates=candidates,
        verdicts=tuple(_verdict_view(pair, shown) for shown in one.shown),
        unsure=len(said) > 1,
    )


def _verdict_view(pair: Pair, shown: Shown) -> VerdictView:
    shares = shown.verdict.shares
    if shares is None:
        said = shown.verdict.reason
    else:
        best = winners(shares)
        sure = f" ({max(shares):.0%})" if len(best) == 1 and max(shares) < 1 else ""
        said = f"prefers none of {', '.join(map(_name, best))}" if len(best) > 1 else f"prefers {_name(best[0])}{sure}"
    cast = [vote.shares for vote in shown.votes]
    votes = " ".join("–" if some is None else "".join(map(_name, winners(some))) for some in cast) if cast[1:] else ""
    return VerdictView(
        order=" ".join(map(_name, shown.order or ())),
        said=clip(said, 300),
        state=_state(pair, shown),
        words=clip(shown.verdict.said, MAX_TEXT),
        votes=votes,
    )


def _state(pair: Pair, shown: Shown) -> str:
    shares = shown.verdict.shares
    if shares is None:
        return "none"
    if len(winners(shares)) == len(shares):
        return "tie"
    return "right" if set(winners(shares)) <= set(right_ones(pair)) else "wrong"


def _question(pair: Pair) -> str:
    return pair.prompt.text.replace("<image>", "").strip()


def _name(number: int) -> str:
    return NAMES[number] if number < len(NAMES) else str(number + 1)


class _Shelf:
    """Pictures as data URIs, up to a number of bytes."""

    def __init__(self, most: int) -> None:
        self.left = most

    def views(self, refs: Sequence[Any], root: str | None) -> tuple[PictureView, ...]:
        return tuple(self._view(ref, root) for ref in refs)

    def _view(self, ref: Any, root: str | None) -> PictureView:
        try:
            image = open_image(ref, root, MAX_PIXELS)
        except PictureError as error:
            return PictureView("", False, clip(str(error), 200))
        uri = data_uri(image)
        if len(uri) > self.left:
            return PictureView("", False, "left out to keep this file small")
        self.left -= len(uri)
        return PictureView(uri, max(image.size) < SMALL, "")
