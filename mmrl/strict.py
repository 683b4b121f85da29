"""Strict: the base of every configuration section, in a module of its own so that adapters can use it too."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Unknown keys are refused and values are checked, also when they are assigned later."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)
