"""results.html: an evaluation as one file, by dimension with bars, and its prompts with their pictures and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrl.bench.items import MAX_PIXELS, Gallery, P
from mmrl.bench.judged import REASON, Line
from mmrl.bench.outcome import Outcome
from mmrl.bench.shares import Row
from mmrl.pictures import PictureError, open_image
from mmrl.reporting.cards import SMALL
from mmrl.reporting.files import write_atomic
from mmrl.reporting.page import render
from mmrl.reporting.pictures import data_uri
from mmrl.reporting.words import clip

PAGE = "results.html"
UNFOLDED = 12  # prompts that are seen without a click
_MOST_SAID = 4_000


@dataclass(frozen=True)
class Point:
    """What is asked of a picture. met: None where there is no verdict; about: what of the prompt, or of the picture."""

    name: str
    met: bool | None
    about: str = ""


@dataclass(frozen=True)
class Seen:
    """A picture with its verdict. why: there is none; said: the judge's words. note: in the place of the picture.
    tally: whether its points are counted."""

    k: int
    points: tuple[Point, ...]
    picture: str = ""
    small: bool = False
    note: str = ""
    why: str = ""
    said: str = ""
    tally: bool = True

    @property
    def met(self) -> int:
        return sum(bool(point.met) for point in self.points)


@dataclass(frozen=True)
class Shown:
    """A prompt. kind: its task, where it has one."""

    id: str
    text: str
    kind: str
    seen: tuple[Seen, ...]


@dataclass(frozen=True)
class Bar:
    """A row of the table. inner: it is part of the row above it; lost: of `over all`, what `score` has more."""

    row: Row
    name: str
    inner: bool
    right: str


def write_page(
    folder: Path,
    outcome: Outcome,
    gallery: Gallery,
    items: Sequence[P],
    points: Callable[[P, Line], Sequence[Point]],
    facts: Mapping[str, Any],
    kind: Callable[[P], str] = lambda item: "",
    tally: bool = True,
    max_prompts: int = 200,
    max_bytes: int = 40_000_000,
) -> Path:
    """Write results.html and return its path.

    points: of a prompt's picture, from its line of verdicts; tally: whether they are all that is asked, and counted.
    kind: the prompt's task. facts: what was measured, with what, in words. The first max_prompts prompts are shown,
    with pictures of max_bytes together. Raises WriteError.
    """
    lines: dict[tuple[str, int], Line] = {(line["id"], line["picture"]): dict(line) for line in outcome.lines}
    left, shown = max_bytes, []
    for item in items[:max_prompts]:
        seen = []
        for k in range(gallery.count):
            line = lines[item.id, k]
            uri, small, note = _inlined(gallery.path(item, k), left)
            left -= len(uri)
            said = clip(str(line.get("said", "")), _MOST_SAID)
            why = str(line.get(REASON, ""))
            seen.append(Seen(k, tuple(points(item, line)), uri, small, note, why, said, tally))
        shown.append(Shown(item.id, item.text, kind(item), tuple(seen)))
    html = render(
        "bench.html.j2",
        name=outcome.benchmark,
        facts=[(label, str(value)) for label, value in facts.items() if value not in (None, "")],
        headline=outcome.rows[0],
        bars=[bar_of(row) for row in outcome.rows],
        lost=any(row.share and row.share.judged != row.share.asked for row in outcome.rows),
        notices=list(outcome.notices),
        shown=shown,
        total=len(items),
        unfolded=UNFOLDED,
        problems=[],
    )
    path = Path(folder) / PAGE
    write_atomic(path, html)
    return path


def bar_of(row: Row) -> Bar:
    """A row of the table as the page has it."""
    right = f"{row.share.right} of {row.share.judged}" if row.share else f"mean of {row.count}"
    return Bar(row, row.name.strip(), row.name.startswith(" "), right)


def _inlined(path: Path, left: int) -> tuple[str, bool, str]:
    """(data URI, whether the picture is small, ""), or ("", False, why there is none)."""
    try:
        picture = open_image(path.name, path.parent, MAX_PIXELS)
    except PictureError as error:
        return "", False, str(error)
    uri = data_uri(picture)
    if len(uri) > left:
        return "", False, f"left out to keep this file small: {path.name}"
    return uri, max(picture.size) < SMALL, ""
