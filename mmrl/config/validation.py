"""Checking a section: every problem in one line that names the key and what is near it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mmrl.config.errors import ConfigError, near
from mmrl.config.filtering import TAKES


def validate(section: type[BaseModel], values: dict[str, Any], at: tuple[str | int, ...] = ()) -> Any:
    """`section(**values)`, with every problem told in one line that names the key and what is near it."""
    try:
        return section(**values)
    except ValidationError as error:
        lines = [_explain(section, problem, at) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _explain(section: type[BaseModel], problem: Mapping[str, Any], at: tuple[str | int, ...]) -> str:
    loc = problem["loc"]
    tags = {n for n in range(1, len(loc)) if loc[n] in TAKES and isinstance(loc[n - 1], int)}  # stages.0.grpo.steps
    place = [str(p) for p in (*at, *(part for n, part in enumerate(loc) if n not in tags))]
    name = ".".join(place) or "config"
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(section, problem["loc"][:-1])
        return f"{name}: unknown key; {near(place[-1], fields)}"
    if problem["type"] == "missing":
        return f"{name}: missing; it is required"
    if problem["type"] == "value_error":
        return f"{name}: {problem['ctx']['error']}" if place else str(problem["ctx"]["error"])
    return f"{name}: {problem['msg']}, got {problem['input']!r}"


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
