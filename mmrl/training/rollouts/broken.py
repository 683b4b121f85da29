"""Pictures and sounds that turn out broken when first decoded: their prompts leave the rollout, or stop the run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from mmrl.config import ConfigError
from mmrl.media import MediaError

T = TypeVar("T")
Made = TypeVar("Made")


def without_broken(
    roll: Callable[[list[T]], list[Made]], asked: Sequence[T], prompt_id: Callable[[T], str], on_bad: str
) -> tuple[list[T], list[Made]]:
    """(what was asked, but for prompts whose pictures or sounds are broken; what `roll` makes of it, groups say).

    Only the heads are looked at before a run. Where the rest cannot be read, the others are rolled out
    again: their noise is their own, so that they come out as they would have.
    Raises ConfigError that names the prompt unless on_bad (data.on_bad_record) is skip.
    """
    left = list(asked)
    while left:
        try:
            return left, roll(left)
        except MediaError as error:
            rest = [one for one in left if prompt_id(one) != error.prompt]
            if on_bad == "stop" or len(rest) == len(left):
                raise ConfigError(f"{error}; mend it, or set data.on_bad_record: skip") from None
            warnings.warn(f"{error}; it is left out", stacklevel=2)
            left = rest
    return [], []
