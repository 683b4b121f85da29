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
    "pairs": "mmrl.environments.pairs:Pairs",
}


# Characters of a name or a value in a message.
SHOWN = 60


def load_environment(section: Any, files: bool = True) -> Environment:
    """The environment of `{name: mgpo, min_side: 14, ...}`, or of a name alone; None is `single`.

    name: one of BUILT_IN, or a class of your own as path/file.py:Class. A class with `Options` (mmrl.strict.Strict) is
    built from those, another one from keyword arguments. files: whether Python files may be named, whose code then
    runs; a dataset's records should not. Raises ValueError, saying what is near or wrong, for a section that is neither
    a name nor a mapping, for a name or an option that is not there, a value that does not fit, and a class that is no
    environment.
    """
    name, options = parts_of(section)
    shown = _short(name)
    named = [value for value in (name, *options.values()) if isinstance(value, str) and ".py:" in value]
    if named and not files:
        raise ValueError(f"environment {_short(named[0])}: code is named by the run's config alone, not by data")
    made = find(name, BUILT_IN, "environment")
    lacking = [method for method in ("open", "respond") if not callable(getattr(made, method, None))]
    if lacking:
        raise ValueError(f"environment {shown}: {made.__name__} lacks {', '.join(lacking)}")
    schema = getattr(made, "Options", None)
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return made(_checked(shown, schema, options))
    signature = inspect.signature(made)
    _check_names(shown, list(signature.parameters), options)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ValueError(f"environment {shown}: {error}") from None
    return made(**options)


def parts_of(section: Any) -> tuple[str, dict[str, Any]]:
    """(name, options) of a section, whatever stands there. Raises ValueError for what is no section."""
    if section is None:
        return "single", {}
    if isinstance(section, str):
        return section, {}
    if not isinstance(section, Mapping) or not all(isinstance(key, str) for key in section):
        raise ValueError(f"environment: {_short(section)} is neither a name nor a mapping of `name` and options")
    name = section.get("name")
    if not isinstance(name, str):
        raise ValueError(f"environment: needs a `name`; {near('', BUILT_IN)}")
    return name, {key: value for key, value in section.items() if key != "name"}


def _checked(shown: str, schema: type[BaseModel], options: Mapping[str, Any]) -> BaseModel:
    _check_names(shown, list(schema.model_fields), options)
    try:
        return schema(**options)
    except ValidationError as error:
        wrong = error.errors()
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in wrong)
        raise ValueError(f"environment {shown}: {told}") from None


def _check_names(shown: str, known: list[str], options: Mapping[str, Any]) -> None:
    for option in options:
        if option not in known:
            raise ValueError(f"environment {shown} has no option {_short(option)}; {near(option[:SHOWN], known)}")


def _short(value: Any) -> str:
    """A value as a message quotes it, on one line and cut short."""
    said = repr(value if not isinstance(value, str) else value[: SHOWN + 1])
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}..."
