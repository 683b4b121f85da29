"""Every kind of stage; a kind of your own is `path/file.py:Class`, a subclass of mmrl.training.stages.base.Stage."""

from __future__ import annotations

from typing import Any

from mmrl.config.kinds import own_class
from mmrl.training.stages.base import Stage
from mmrl.training.stages.filtering import Filtering
from mmrl.training.stages.grpo import Grpo
from mmrl.training.stages.preference import Preference
from mmrl.training.stages.sft import Sft

KINDS: dict[str, type[Stage[Any]]] = {"grpo": Grpo, "sft": Sft, "preference": Preference, "filter": Filtering}


def stage_class(kind: str) -> type[Stage[Any]]:
    """The class of a kind; the config has checked that there is one."""
    if kind in KINDS:
        return KINDS[kind]
    found: type[Stage[Any]] = own_class(kind)
    return found
