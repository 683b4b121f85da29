"""Options of judges as their functions annotate them, checked before anything is opened or asked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_type_hints

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from mmrl.config import ConfigError
from mmrl.near import near, short

Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Patience = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]

_STRICT = ConfigDict(strict=True)  # a text is no number


def check_options(judge: str, opened: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that is no keyword of the function `opened`, or not what it is annotated as."""
    known = [p.name for p in inspect.signature(opened).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if wrong := next((name for name in options if name not in known), None):
        hint = near(wrong, known) if known else "it has no options"
        raise ConfigError(f"judge {short(judge)} has no option {short(wrong)}; {hint}")
    hints = get_type_hints(opened, include_extras=True)
    for name, value in options.items():
        try:
            TypeAdapter(hints[name], config=_STRICT).validate_python(value)
        except ValidationError as error:
            told = error.errors(include_url=False)[0]["msg"]
            raise ConfigError(f"judge {short(judge)}: option {name}: {told}, got {short(value)}") from None
    if str(options.get("device")).startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"judge {short(judge)}: option device: there is no CUDA device here; leave it out")
