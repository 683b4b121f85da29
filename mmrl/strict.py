"""Strict: the base of every configuration section, in a module of its own so that adapters can use it too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from mmrl.numeric import problem


class When(NamedTuple):
    """When an option has an effect. test: of (its section, the whole run's config). needs: that in words."""

    test: Callable[[Any, Any], object]
    needs: str


class Strict(BaseModel):
    """Unknown keys are refused and values are checked, also when they are assigned later.

    Numbers are numbers (mmrl.numeric), and finite: a field to which infinity means something is declared with
    `allow_inf_nan=True` and a bound, which NaN does not pass.

    effects: options that change something in some runs only, and when; a key is a field, or a path such as
    `curriculum.window`. Given elsewhere, such an option is refused (mmrl.config.effect).
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True, allow_inf_nan=False)
    effects: ClassVar[Mapping[str, When]] = {}

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        wrong = problem(value, cls.model_fields[str(info.field_name)].annotation)
        if wrong:
            raise ValueError(wrong)
        return value
