"""Stored records as the report can use them: what has another form is left out, field by field, and named."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmrl.reporting.folder import plain
from mmrl.reporting.metrics import lines_of

MOST_STEPS = 2**53  # what a chart's axis can tell apart

PIXELS = 1e9  # farthest from 0 that a coordinate may be
Pixel = Annotated[float, Field(ge=-PIXELS, le=PIXELS, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=int(PIXELS))]
Place = Annotated[int, Field(ge=0, le=2**31)]
Option = Annotated[int, Field(ge=0, lt=26)]
Number = Annotated[float, Field(allow_inf_nan=False)] | None
Size = Annotated[list[Side], Field(min_length=2, max_length=2)]


class _Record(BaseModel):
    """A field that is not asked for is not looked at: a later version may have written it."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Score(_Record):
    value: Number = None
    reason: str = ""
    status: Literal["ok", "na", "invalid"] = "ok"
    details: dict[str, Any] = {}


class _Turn(_Record):
    role: str
    text: str
    media: list[Place] = []
    trained: bool = False


class _Media(_Record):
    picture: Place
    crop: Annotated[list[Pixel], Field(min_length=4, max_length=4)] | None = None
    size: Size | None = None
    original: Size
    seen: Size
    space: str = "seen"
    tokens: Place = 0
    file: str | None = None
    problem: str = "not stored"


class _Heard(_Record):
    sound: Place
    start: Place = 0
    end: Place | None = None
    seconds: Annotated[float, Field(ge=0, le=PIXELS, allow_inf_nan=False)]
    tokens: Place = 0
    file: str | None = None
    problem: str = "not stored"


class _Actions(_Record):
    words: list[str]
    logp: list[Number]
    trained: list[bool]
    advantage: list[Number] | None = None


class _Sample(_Record):
    index: int
    file: str | None = None
    stop: str = "done"
    reward: Number = None
    advantage: Number = None
    actions: _Actions | None = None
    scores: dict[str, _Score] = {}
    turns: list[_Turn] = []
    media: list[_Media | _Heard] = []
    info: dict[str, Any] = {}

    @model_validator(mode="after")
    def _places(self) -> _Sample:
        """Turns show only media that are there."""
        for turn in self.turns:
            turn.media = [place for place in turn.media if place < len(self.media)]
        return self


class _Prompt(_Record):
    id: str
    text: str
    options_order: list[Option] | None = None


class _Group(_Record):
    prompt: _Prompt
    index: int = 0
    samples: list[Any] = []


class _Index(_Record):
    groups: list[Any]
    extra: dict[str, Any] = {}
    parts: int = 1


class _Evaluations(_Record):
    before: dict[str, Number] = {}
    after: dict[str, Number] = {}


class _Summary(_Record):
    main_metric: str = ""
    eval: _Evaluations = _Evaluations()
    steps: Place | None = None
    wall_s: Number = None
    samples: Place | None = None
    actions: Place | None = None
    peak_rss_mb: Number = None
    seed: int | None = None
    config: str = ""


class _Ending(_Record):
    how: Literal["stopped", "failed"]
    step: Place | None = None
    why: str = ""


Model = TypeVar("Model", bound=_Record)


def readable_index(raw: Any, where: str, problems: list[str]) -> dict[str, Any]:
    """An index.json as the report's parts expect it; adds to `problems` what had to be left out."""
    index = _fitting(_Index, raw, where, problems)
    if index is None:
        return {"groups": [], "extra": {}, "parts": 1}
    groups = []
    for number, raw_group in enumerate(index.groups):
        of = f"{where}, group {number}"
        group = _fitting(_Group, raw_group, of, problems)
        if group is None:
            continue
        told = [_fitting(_Sample, sample, f"{of}, sample {n}", problems) for n, sample in enumerate(group.samples)]
        samples = [sample.model_dump() for sample in told if sample is not None]
        groups.append(group.model_dump() | {"samples": samples})
    return {"groups": groups, "extra": index.extra, "parts": index.parts}


def readable_summary(raw: Any, where: str, problems: list[str]) -> dict[str, Any] | None:
    """A summary.json likewise; None where it is no object."""
    summary = _fitting(_Summary, raw, where, problems)
    return summary.model_dump() if summary else None


def readable_ending(raw: Any, where: str, problems: list[str]) -> dict[str, Any] | None:
    """An ended.json likewise; None where it does not say how."""
    ending = _fitting(_Ending, raw, where, problems)
    return ending.model_dump() if ending else None


def readable_rows(data: bytes, where: str, problems: list[str]) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl by step: {"step": int, name: number, or None where it was not finite}.

    Of a step that is told twice the later line counts, name by name; words are left out.
    """
    rows: dict[int, dict[str, Any]] = {}
    faults: dict[str, list[int]] = defaultdict(list)
    names: dict[str, str] = {}
    last = -math.inf
    for number, _, value, problem in lines_of(data):
        step = value.get("step") if isinstance(value, Mapping) else None
        if problem or not isinstance(value, Mapping):
            faults["cut off" if problem == "cut" else "no JSON object"].append(number)
        elif not isinstance(step, int) or isinstance(step, bool) or abs(step) > MOST_STEPS:
            faults["without a whole number as `step`"].append(number)
        else:
            if step in rows:
                faults["of a step that was told before, of which the later counts"].append(number)
            elif step < last:
                faults["behind that of a later step, put in its place"].append(number)
            last = max(last, step)
            rows[step] = rows.get(step, {}) | {
                names.get(key) or names.setdefault(key, plain(key)): plain(v)
                for key, v in value.items()
                if _is_number(v)
            }
    for what, numbers in faults.items():
        count = f"{len(numbers)} line{'s' if len(numbers) > 1 else ''}"
        problems.append(f"{where}: {count} {what} (line {numbers[0]}{' and on' if len(numbers) > 1 else ''})")
    return [rows[step] for step in sorted(rows)]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _fitting(model: type[Model], raw: Any, where: str, problems: list[str]) -> Model | None:
    """The record of the fields that fit; None where a field is missing that it cannot be without."""
    if not isinstance(raw, Mapping):
        problems.append(f"{where}: no object, left out")
        return None
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
    wrong = {str(fault["loc"][0]): fault["msg"] for fault in faults}
    told = ", ".join(f"`{name[:40]}` ({message})" for name, message in list(wrong.items())[:4])
    try:
        record = model.model_validate({key: value for key, value in raw.items() if key not in wrong})
    except ValidationError:
        record = None
    problems.append(f"{where}: left out{'' if record else ', as it has no usable'} {told}"[:300])
    return record
