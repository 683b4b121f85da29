"""Strict: the base of every configuration section, in a module of its own so that adapters can use it too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from mmrl.numeric import problem


class When(NamedTuple):
    """When an option has an effect. test: of (its section, the whole run's config). needs: that in words."""

    test: Callable[[Any, Any], object]
    needs: str


class Strict(BaseModel):
    """Unknown keys are refused and values are checked, also when they are assigned later.

    Numbers are numbers (mmrl.numeric), and finite: a field to which infinity means something is declared with
    `allow_inf_nan=True` and a bound, which NaN does not pass. A key without a value (null) whose field cannot be null,
    as a section whose lines are all commented out, is a key that is not there.

    effects: options that change something in some runs only, and when; a key is a field, or a path such as
    `curriculum.window`. Given elsewhere, such an option is refused (mmrl.config.effect).
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True, allow_inf_nan=False)
    effects: ClassVar[Mapping[str, When]] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_empty_keys(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        fields = cls.model_fields
        return {
            key: value
            for key, value in values.items()
            if value is not None or key not in fields or _takes_null(fields[key].annotation)
        }

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        wrong = problem(value, cls.model_fields[str(info.field_name)].annotation)
        if wrong:
            raise ValueError(wrong)
        return value


def _takes_null(annotation: Any) -> bool:
    kind = get_origin(annotation)
    if kind is Literal:
        return None in get_args(annotation)
    if kind is Annotated:
        return _takes_null(get_args(annotation)[0])
    if kind in (Union, UnionType):
        return any(_takes_null(each) for each in get_args(annotation))
    return annotation in (Any, None, NoneType)
