"""Checking a section: every problem in one line that names the key and what is near it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mmrl.config.errors import ConfigError
from mmrl.config.filtering import TAKES
from mmrl.config.places import OTHERS, elsewhere
from mmrl.near import near, short

Section = TypeVar("Section", bound=BaseModel)
LONGEST = 600  # characters of a line
CLOSE = 0.85  # difflib's likeness of a slip: a letter too many or too few


def validate(section: type[Section], values: Mapping[str, Any], at: tuple[str | int, ...] = ()) -> Section:
    """The section with these values, or every problem told in one line that names the key and what is near it."""
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        told = [_explain(section, values, problem, at) for problem in error.errors(include_url=False)]
        lines = [line for text in told for line in text.splitlines()]
        raise ConfigError("\n".join(f"{x[:LONGEST]}..." if len(x) > LONGEST else x for x in lines)) from None


def _explain(
    section: type[BaseModel], values: Mapping[str, Any], problem: Mapping[str, Any], at: tuple[str | int, ...]
) -> str:
    loc = problem["loc"]
    tags = {n for n in range(1, len(loc)) if loc[n] in TAKES and isinstance(loc[n - 1], int)}  # stages.0.grpo.steps
    place = [str(p) for p in (*at, *(part for n, part in enumerate(loc) if n not in tags))]
    name = ".".join(part if len(part) <= 60 else f"{part[:60]}..." for part in place) or "config"
    if problem["type"] == "extra_forbidden":
        return f"{name}: unknown key; {_meant(section, values, problem['loc'][:-1], place[-1][:200], at)}"
    if problem["type"] == "missing":
        return f"{name}: missing; it is required"
    if problem["type"] == "union_tag_invalid":
        return f"{name}.kind: unknown {short(problem['ctx']['tag'])}; {near(problem['ctx']['tag'][:200], TAKES)}"
    if problem["type"] == "union_tag_not_found":
        return f"{name}.kind: missing; {near('', TAKES)}"
    if problem["type"] == "value_error":
        return f"{name}: {problem['ctx']['error']}" if place else str(problem["ctx"]["error"])
    if problem["type"] == "list_type" and isinstance(problem["input"], str):
        return f"{name}: expected a list, got {short(problem['input'])}; write {name}=[{problem['input'][:LONGEST]}]"
    return f"{name}: {problem['msg']}, got {short(problem['input'])}"


def _meant(
    section: type[BaseModel], values: Mapping[str, Any], loc: Iterable[str | int], word: str, at: tuple[str | int, ...]
) -> str:
    """What an unknown key may be: a slip of one here, the same word elsewhere, ours for what others call so, or a word
    like it here."""
    here = _fields_at(section, loc)
    if get_close_matches(word, here, 1, CLOSE):
        return near(word, here)
    others, ours = elsewhere(section, values, word), OTHERS.get(word)
    if ours in here:
        return f"did you mean {ours!r}?"
    if not others and ours:
        others = elsewhere(section, values, ours)
    found = " or ".join(".".join(map(str, (*at, key))) for key in others)
    return f"did you mean {found}?" if found else near(word, here)


def _fields_at(section: type[BaseModel], loc: Iterable[str | int]) -> list[str]:
    """Field names of the section that `loc` points into."""
    here: Any = section
    for part in loc:
        if isinstance(part, int):
            continue
        if isinstance(here, type) and issubclass(here, BaseModel) and part in here.model_fields:
            here = here.model_fields[part].annotation
        here = _section_of(here, part)
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def _section_of(annotation: Any, tag: str | int) -> Any:
    """The BaseModel inside list[...], X | None, or a union told apart by `kind`."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation
    inside = [_section_of(arg, tag) for arg in get_args(annotation)]
    sections = [s for s in inside if isinstance(s, type) and issubclass(s, BaseModel)]
    tagged = [s for s in sections if getattr(s.model_fields.get("kind"), "default", None) == tag]
    if tagged or len(sections) == 1:
        return (tagged or sections)[0]
    return annotation
