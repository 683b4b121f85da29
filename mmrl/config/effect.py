"""Options that are given and can change nothing: found through the tables `effects` of the sections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from mmrl.strict import Strict


def without_effect(run: Strict) -> list[str]:
    """One line for each option of a run that is given and has no effect beside the others, naming what it would need.

    Given is what differs from the default: a config that was written out names every option.
    """
    told: dict[str, str] = {}
    for place, section in sections(run):
        for key, when in type(section).effects.items():
            if not when.test(section, run):
                for name in given(section, key.split(".")):
                    told.setdefault(f"{place}{name}", when.needs)
    return [f"{name}: has no effect here, it needs {needs}; leave it out" for name, needs in told.items()]


def sections(section: BaseModel, place: str = "") -> Iterator[tuple[str, Strict]]:
    """(path with a dot behind it, section) of a section and all inside it."""
    if isinstance(section, Strict):
        yield place, section
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from sections(value, f"{place}{name}.")
        elif isinstance(value, list):
            for number, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from sections(item, f"{place}{name}.{number}.")


def given(section: Any, path: list[str]) -> Iterator[str]:
    """Paths of the options at or below `path` that differ from their defaults."""
    name, *rest = path
    value, default = getattr(section, name), _default(type(section), name)
    if isinstance(value, BaseModel) and (rest or isinstance(default, BaseModel)):
        for key in [rest] if rest else [[field] for field in type(value).model_fields]:
            yield from (f"{name}.{found}" for found in given(value, key))
    elif value is not None and isinstance(value, list) and rest:
        for number, item in enumerate(value):
            yield from (f"{name}.{number}.{found}" for found in given(item, rest))
    elif value != default and not rest:
        yield name


def _default(section: type[BaseModel], name: str) -> Any:
    return section.model_fields[name].get_default(call_default_factory=True)
