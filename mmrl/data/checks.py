"""What a record must hold, whatever its source: the same questions of all, and one way to stop or to skip."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from mmrl.config import ChainConfig, ConfigError, DataConfig, RecordFormat
from mmrl.config.data import is_range
from mmrl.data.candidates import as_preference
from mmrl.data.flat import Flat
from mmrl.data.formats import PLAIN, as_ours
from mmrl.data.forms.chains import COT, with_completion
from mmrl.data.heard import check_sounds
from mmrl.data.held import Held, Names
from mmrl.data.images import check_images
from mmrl.data.messages import are_messages
from mmrl.data.pair_formats.kinds import WITH_VIDEO
from mmrl.data.rows import Flaw, Row
from mmrl.data.videos import film_refs, with_frames

MAX_PIXELS = DataConfig.model_fields["max_pixels"].default
MAX_SECONDS = DataConfig.model_fields["max_seconds"].default
VIDEO_FRAMES = DataConfig.model_fields["video_frames"].default
DEPTH = 64  # lists in lists; far more ends whatever walks a record
_WARNINGS = 10  # bad records told one by one; the rest is counted
_TOLD = 400  # characters of a record's problem
_PREFERENCE = {"chosen", "rejected"}
_ANSWERS = ("completion", "chosen", "rejected")


class Checker:
    """Checks the raw records of one source and makes them ours; a column that nobody sees is told once.

    columns: what each needs besides `prompt`. mapping: our name of a column -> the source's. form, every_turn: see
    formats.normalised. root, max_pixels: of its pictures, see mmrl.pictures. max_seconds: of its sounds. video_frames,
    whole_videos: see videos.with_frames. chain: see chains.with_completion.
    """

    def __init__(
        self,
        columns: Sequence[str] = (),
        mapping: Mapping[str, str] | None = None,
        form: RecordFormat = "auto",
        root: str | None = None,
        max_pixels: int = MAX_PIXELS,
        every_turn: bool = False,
        video_frames: int = VIDEO_FRAMES,
        whole_videos: bool = False,
        max_seconds: float = MAX_SECONDS,
        chain: ChainConfig | None = None,
    ) -> None:
        self.columns, self.mapping, self.form, self.every_turn = columns, mapping or {}, form, every_turn
        self.root, self.max_pixels, self.max_seconds = root, max_pixels, max_seconds
        self.video_frames, self.whole_videos, self.chain = video_frames, whole_videos, chain
        self._unseen: set[str] = set()
        self._flat = Flat()

    def record(self, row: Row, media: bool = True) -> dict[str, Any]:
        """The row's record in our form. media: whether its pictures and sounds are looked at, too (see `look`).

        Raises ValueError, without the row's place, for one that cannot be used.
        """
        if row.problem:
            raise ValueError(row.problem)
        given = self._named(row.record)
        covered = any(ours in row.record and row.record[ours] is not given[ours] for ours in self.mapping)
        if not covered and self._flat.is_same(given):  # what is covered is not seen in `given`
            return given
        record, hidden, form = self._checked(row.record, given)
        if media:
            self.look(record)
        if form == PLAIN and not hidden and self.chain is None:
            self._flat.note(given, record)
        self._tell(row, hidden - set(self.columns))
        return record

    def look(self, record: Mapping[str, Any]) -> None:
        """Look at a record's pictures and sounds, none of which is decoded. Raises ValueError for one that cannot be
        used."""
        targets = [record["image"]] if "image" in self.columns else []
        targets += film_refs(record["video"], self.root, self.video_frames) if "video" in self.columns else []
        check_images(record, self.root, self.max_pixels, targets)
        check_sounds(record, self.root, self.max_seconds)

    def _named(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record with the columns that have our names beside those of the source."""
        try:
            return {**record, **{ours: _reach(record, ours, theirs) for ours, theirs in self.mapping.items()}}
        except ValueError:
            refuse_unsound(record)
            raise

    def _checked(self, record: Mapping[str, Any], given: dict[str, Any]) -> tuple[dict[str, Any], set[str], str]:
        """(the record in our form, its columns that nobody sees, the name of its format): the long way."""
        refuse_unsound(record)
        shown = self.form in WITH_VIDEO
        raw = with_frames(given, self.root, self.video_frames, self.whole_videos, shown)
        made, hidden, form = as_ours(raw, self.form, self.every_turn)
        prompt = made.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(
                "needs a non-empty string `prompt`, or a list of messages (data.columns maps other names); it has "
                f"{', '.join(made)}"
            )
        if set(self.columns) >= _PREFERENCE:
            made |= as_preference(made)
        if self.chain is not None and "completion" in self.columns:
            made = with_completion(made, self.chain)
        missing = [column for column in self.columns if made.get(column) is None]
        if missing:
            hint = "; it has `cot`: see data.chain" if "completion" in missing and COT in made else ""
            raise ValueError(f"lacks {', '.join(missing)}{hint}")
        _check_identity(made)
        _check_environment(made)
        _check_answers(made, self.columns)
        return made, hidden, form

    def _tell(self, row: Row, columns: set[str]) -> None:
        for column in sorted(columns - self._unseen):
            self._unseen.add(column)
            warnings.warn(f"{row.where}: the column `{column}` is not shown to the policy", stacklevel=4)


@dataclass(frozen=True)
class Good:
    """The records of a source that can be used, in its order: (where it stands, record) of each, and their ids; how
    many others there were; of how many of the first the pictures and sounds were looked at, too."""

    records: Held[tuple[str, dict[str, Any]]]
    names: Names
    bad: int
    looked_at: int

    def __len__(self) -> int:
        return len(self.records)


def good_records(
    rows: Iterable[Row],
    checker: Checker,
    on_bad: str,
    where: Mapping[str, Any] | None = None,
    looked_at: int | None = None,
) -> Good:
    """The checked records whose columns are as `where` says; no two have one id.

    looked_at: of how many of the first the pictures and sounds are looked at, too, which takes opening files; those of
    the others are left to who uses them (Checker.look). None: of all.
    Rows are looked at one by one: only what is used is held. Raises ConfigError at the first bad record when `on_bad`
    is "stop"; otherwise warns of it and skips it.
    """
    records: Held[tuple[str, dict[str, Any]]] = Held()
    names, places = Names(), dict[int | str, int]()
    bad = total = count = 0
    reasons: Counter[str] = Counter()
    for row in rows:
        total += 1
        try:
            media = looked_at is None or count < looked_at
            record = checker.record(row, media)
            if not all(_is_as(record.get(key), wanted) for key, wanted in (where or {}).items()):
                continue
            name = identity(record, row)
            _check_new(name, names, places, records)
        except ValueError as error:
            message = refused(row, error, on_bad)
            bad += 1
            reasons[getattr(error, "reason", "")] += 1
            if bad <= _WARNINGS:
                warnings.warn(message, stacklevel=3)
        else:  # not above: a disk that is full is no bad record
            names.add(name)
            records.add((row.where, record))
            count += 1
    records.flush()
    if bad:
        warnings.warn(f"data: skipped {bad} of {total} records{_counts(reasons)}", stacklevel=3)
    return Good(records, names, bad, count if looked_at is None else min(looked_at, count))


def _counts(reasons: Counter[str]) -> str:
    """How many for which reason, of those that have one in a word."""
    told = [f"{count} {reason}" for reason, count in sorted(reasons.items()) if reason]
    return f" ({', '.join(told)})" if told else ""


def _is_as(value: Any, wanted: Any) -> bool:
    """Whether a column is a value, or a number in a range {min, max}."""
    if not is_range(wanted):
        return bool(value == wanted)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and wanted.get("min", -math.inf) <= value <= wanted.get("max", math.inf)


def refused(row: Row, error: ValueError, on_bad: str) -> str:
    """One line that says where a bad record stands, why it is bad, and that it is skipped.

    Raises ConfigError with it unless `on_bad` is skip.
    """
    message = f"{row.where}: {line(str(error))}"
    if on_bad == "stop":
        raise ConfigError(f"{message}; mend the line or set data.on_bad_record: skip") from None
    return f"{message}; skipped"


def identity(record: Mapping[str, Any], row: Row) -> str:
    """The record's id, its number where it brings none."""
    given = record.get("id")
    return str(row.number if given is None else given)


# -------------------------------------------------------------------- one question each


def refuse_unsound(record: Mapping[str, Any]) -> None:
    """Raise ValueError for what could not be written or computed with later: names of columns that are no texts, lone
    halves of characters, numbers that are not finite or no floats, lists in lists without end."""
    for column, held in record.items():
        if not isinstance(column, str):
            raise ValueError(f"the name of a column is {type(column).__name__}, expected a text")
        left: list[tuple[Any, int]] = [(column, 0), (held, 0)]
        while left:
            value, depth = left.pop()
            why = _flaw(value) if depth <= DEPTH else "is lists in lists, too many deep"
            if why:
                raise ValueError(f"`{column.encode(errors='replace').decode():.60}` {why}")
            if isinstance(value, Mapping):
                left += [(item, depth + 1) for pair in value.items() for item in pair]
            elif isinstance(value, list | tuple):
                left += [(item, depth + 1) for item in value]


def _flaw(value: Any) -> str:
    if isinstance(value, Flaw):
        return value.why
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return "has a lone surrogate, half of a character, in its text"
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, expected a finite number"
    if isinstance(value, int) and value.bit_length() > 1023:
        return "is a whole number too large for a float"
    return ""


def _check_identity(record: Mapping[str, Any]) -> None:
    given = record.get("id")
    if given is None or (isinstance(given, str) and given):
        return
    if not isinstance(given, Integral) or isinstance(given, bool):
        raise ValueError(f"`id` is {given!r:.60}, expected a text or a whole number")


def _check_new(name: str, names: Names, places: dict[int | str, int], records: Held[tuple[str, Any]]) -> None:
    """places: of the ids so far by their hashes, which are shorter; of one whose hash another has, by itself."""
    mark = hash(name)
    first = places.setdefault(mark, len(names))
    if first < len(names) and names[first] != name:
        first = places.setdefault(name, len(names))
    if first < len(names):
        where = records[first][0]
        raise ValueError(f"the id {name!r:.60} occurs more than once, first at {where}; ids tell records apart")


def _check_environment(record: Mapping[str, Any]) -> None:
    given = record.get("environment")
    if not (given is None or isinstance(given, str | Mapping)):
        raise ValueError(f"`environment` is {type(given).__name__}, expected a name, or an object with `name`")


def _check_answers(record: Mapping[str, Any], columns: Sequence[str]) -> None:
    for column in (column for column in _ANSWERS if column in columns):
        given = record[column]
        if isinstance(given, str):
            continue
        if isinstance(given, list) and given and are_messages(given):
            continue
        kinds = {type(part) for part in given} if isinstance(given, list) else {dict}
        if not (kinds <= {str} or kinds <= {int, float}):
            raise ValueError(
                f"`{column}` is {given!r:.60}; answers must be texts, messages, lists of turns as texts, or of ids"
            )
    if set(columns) >= _PREFERENCE and record["chosen"] == record["rejected"]:
        raise ValueError("`chosen` and `rejected` are the same answer")


def _reach(record: Mapping[str, Any], ours: str, theirs: str) -> Any:
    if theirs in record:
        return record[theirs]
    place: Any = record
    for part in theirs.split("."):
        if not isinstance(place, Mapping) or part not in place:
            raise ValueError(f"lacks {theirs!r}, which data.columns gives for {ours!r}; it has {', '.join(record)}")
        place = place[part]
    return place


def line(text: str) -> str:
    """A record's problem as one line that is not too long."""
    text = " ".join(text.split())
    return text if len(text) <= _TOLD else f"{text[:_TOLD]}..."
