"""Pairs: candidates for a prompt with the preference among them, read from any source and written as records."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from mmrl import objects
from mmrl.config import ConfigError, RecordFormat
from mmrl.config.data import has_splits
from mmrl.data.candidates import COLUMNS, pair_columns
from mmrl.data.checks import MAX_PIXELS, Checker, identity, line, refuse_unsound
from mmrl.data.formats import normalised
from mmrl.data.pair_formats.kinds import WITH_VIDEO
from mmrl.data.rows import Row
from mmrl.data.shown import listed
from mmrl.data.sources import HUB, absolute, folder_of, function_of, function_rows, read_rows
from mmrl.near import short
from mmrl.types import Candidate, Pair, Prompt

OnBad = Literal["stop", "skip", "keep"]
FUNCTION_COUNT = 100  # records of a function, where nobody says how many
VIDEO_FRAMES = 32  # most frames of a video, as MM-RLHF's benchmark shows it
_READ = ("prompt", "messages", "images", "video", "videos", "chosen", "rejected", "id")  # beside COLUMNS
_WARNINGS = 10  # broken records told one by one


@dataclass(frozen=True)
class Broken:
    """A record that is no pair: where it stands, and why it is none. category, unit: as of a Pair, "" where it does not
    say them."""

    where: str
    why: str
    category: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Pairs:
    """The pairs of a source, and its records that are none. `len` counts both: it is the denominator."""

    pairs: list[Pair] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pairs) + len(self.broken)


def pair_of(prompt: Prompt) -> Pair:
    """The pair that a prompt's record holds (columns: mmrl.data.candidates).

    Raises ValueError that names the record and says what is wrong.
    """
    try:
        return _pair(prompt)
    except ValueError as error:
        raise ValueError(f"pair {prompt.id!r:.60}: {error}") from None


def record_of(pair: Pair) -> dict[str, Any]:
    """The pair as a record: its prompt's columns with those of the pair. `pair_of` makes the pair of it again."""
    told: dict[str, Any] = {
        "candidates": [{"answer": one.answer, "images": list(one.images)} for one in pair.candidates],
        "shares": list(pair.shares),
        "margin": pair.margin,
        "confidence": pair.confidence,
        "category": pair.category or None,
        "unit": pair.unit or None,
    }
    others = {key: value for key, value in pair.prompt.record.items() if key not in (*COLUMNS, "chosen", "rejected")}
    record = {"id": pair.id, "prompt": pair.prompt.text, **others}
    return {**record, **{column: value for column, value in told.items() if value is not None}}


def read_pairs(
    source: Any,
    form: RecordFormat = "auto",
    *,
    on_bad: OnBad = "stop",
    split: str | None = None,
    subset: str | None = None,
    columns: Mapping[str, str] | None = None,
    count: int | None = None,
    options: Mapping[str, Any] | None = None,
    image_root: str | None = None,
    max_pixels: int = MAX_PIXELS,
    video_frames: int = VIDEO_FRAMES,
) -> Pairs:
    """The pairs of a source (see DataConfig.prompts; in Python also rows), in its order; no two have one id.

    form: a key of formats.FORMATS. on_bad: the first record that is no pair stops with a ConfigError that says where
    and why; or it is warned of and left out; or, "keep", for a measurement, which has to count it, it is only listed.
    Either way `broken` has it. columns, subset, options, image_root: as in DataConfig. split: of a source that has
    splits; None: "test". count: how many records are read, None for
    all; of a function 100. video_frames: most frames of a video.
    Raises ConfigError for a source that is missing or unreadable, or that holds no pairs.
    """
    name = str(source) if isinstance(source, str | Path) else objects.replaced({"pairs": source})["pairs"]
    if on_bad not in get_args(OnBad):
        raise ConfigError(f"on_bad is {on_bad!r:.60}, expected {', '.join(get_args(OnBad))}")
    function = function_of(name, options or {}, "pairs")
    if count is not None and count < 1:
        raise ConfigError(f"pairs: count is {count}, expected 1 or more records; leave it out for all")
    if options and not function:
        raise ConfigError(f"pairs: options are those of a function, `file.py:function`, and {name} is none")
    if split is not None and not has_splits(name):
        raise ConfigError(f"pairs: split {split!r:.60} is of a folder or `hub:`, and {name} has none; leave it out")
    if subset is not None and not name.startswith(HUB):
        raise ConfigError(f"pairs: subset {subset!r:.60} is of a `hub:` source, and {name} is none; leave it out")
    _tell_strangers(columns or {})
    root = absolute(image_root or folder_of(name))
    checker = Checker((), columns, form, root, max_pixels, video_frames=video_frames)
    if function:
        rows = function_rows(name, function, count or FUNCTION_COUNT)
    else:
        rows = read_rows(name, split or "test", subset)
    found = Pairs()
    seen: dict[str, str] = {}
    for row in islice(rows, count):
        try:
            record = checker.record(row)
            pair = _pair(Prompt(identity(record, row), record["prompt"], record, root))
            if pair.id in seen:
                raise ValueError(f"the id {pair.id!r:.60} occurs more than once, first at {seen[pair.id]}")
        except ValueError as error:
            found.broken.append(Broken(row.where, line(str(error)), *_counted_with(row, form)))
            _tell(found.broken, on_bad)
        else:
            seen[pair.id] = row.where
            found.pairs.append(pair)
    if found.broken and on_bad == "skip":
        warnings.warn(f"pairs: skipped {len(found.broken)} of {len(found)} records", stacklevel=2)
    if not found.pairs and (on_bad != "keep" or not found.broken):
        raise ConfigError(f"pairs: {name} holds no pairs ({len(found.broken)} broken)")
    return found


def _pair(prompt: Prompt) -> Pair:
    columns = pair_columns(prompt.record)
    return Pair(
        prompt=prompt,
        candidates=tuple(Candidate(one["answer"], tuple(one["images"])) for one in columns["candidates"]),
        shares=tuple(columns["shares"]),
        margin=columns.get("margin"),
        confidence=columns.get("confidence"),
        category=columns.get("category", ""),
        unit=columns.get("unit", ""),
    )


def _counted_with(row: Row, form: RecordFormat) -> tuple[str, str]:
    """(category, unit) of a record that is no pair, as far as it says them: what it is missing from is to be told."""
    record = row.record
    try:
        refuse_unsound(record)
    except ValueError:
        return "", ""
    with suppress(ValueError):  # the columns as they stand
        film = record.get("video") if form in WITH_VIDEO else None  # its frames may be what is missing
        record = normalised({**record, "images": listed(film)} if film else record, form)
    told = [record.get(column) for column in ("category", "unit")]
    category, unit = (str(word) if isinstance(word, str | int) and not isinstance(word, bool) else "" for word in told)
    return category, unit


def _tell(broken: list[Broken], on_bad: OnBad) -> None:
    """Stop at the last broken record, or warn of it, as `on_bad` says."""
    last = broken[-1]
    if on_bad == "stop":
        raise ConfigError(f"{last.where}: {last.why}; mend the record, or leave it out (on_bad: skip)")
    if on_bad == "skip" and len(broken) <= _WARNINGS:
        warnings.warn(f"{last.where}: {last.why}; skipped", stacklevel=3)


def _tell_strangers(columns: Mapping[str, str]) -> None:
    """Warn of names that are nearly a column's: nothing would read them. Others may be those of a published form."""
    for ours in columns:
        known = {*COLUMNS, *_READ}
        if ours not in known and (close := difflib.get_close_matches(ours, known, n=1, cutoff=0.8)):
            warnings.warn(f"columns: no pair has a column {short(ours)}; did you mean {close[0]!r}?", stacklevel=3)
