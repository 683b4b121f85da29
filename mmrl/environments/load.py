"""An environment from its section of a configuration: a name and options, all checked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from mmrl.environments.base import Environment
from mmrl.environments.find import find
from mmrl.near import near

BUILT_IN = {
    "single": "mmrl.environments.single:SingleTurn",
    "mgpo": "mmrl.environments.mgpo:Mgpo",
    "visionthink": "mmrl.environments.visionthink:VisionThink",
    "zoom": "mmrl.environments.zoom:Zoom",
    "ui_s1": "mmrl.environments.ui_s1:UiS1",
    "rounds": "mmrl.environments.rounds:Rounds",
}


def load_environment(section: Mapping[str, Any] | str | None, files: bool = True) -> Environment:
    """The environment of `{name: mgpo, min_side: 14, ...}`, or of a name alone; None is `single`.

    name: one of BUILT_IN, or a class of your own as path/file.py:Class. A class with `Options` (mmrl.strict.Strict) is
    built from those, another one from keyword arguments. files: whether Python files may be named, whose code then
    runs; a dataset's records should not. Raises ValueError, saying what is near or wrong, for a name
    or an option that is not there, a value that does not fit, and a class that is no environment.
    """
    section = {"name": "single"} if section is None else {"name": section} if isinstance(section, str) else section
    name, options = section.get("name"), {key: value for key, value in section.items() if key != "name"}
    if not isinstance(name, str):
        raise ValueError(f"environment: needs a `name`; {near('', BUILT_IN)}")
    named = [value for value in section.values() if isinstance(value, str) and ".py:" in value]
    if named and not files:
        raise ValueError(f"environment {named[0]!r}: code is named by the run's config alone, not by data")
    made = find(name, BUILT_IN, "environment")
    lacking = [method for method in ("open", "respond") if not callable(getattr(made, method, None))]
    if lacking:
        raise ValueError(f"environment {name!r}: {made.__name__} lacks {', '.join(lacking)}")
    schema = getattr(made, "Options", None)
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return made(_checked(name, schema, options))
    _check_names(name, list(inspect.signature(made).parameters), options)
    return made(**options)


def _checked(name: str, schema: type[BaseModel], options: Mapping[str, Any]) -> BaseModel:
    _check_names(name, list(schema.model_fields), options)
    try:
        return schema(**options)
    except ValidationError as error:
        wrong = error.errors()
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in wrong)
        raise ValueError(f"environment {name!r}: {told}") from None


def _check_names(name: str, known: list[str], options: Mapping[str, Any]) -> None:
    for option in options:
        if option not in known:
            raise ValueError(f"environment {name!r} has no option {option!r}; {near(option, known)}")
