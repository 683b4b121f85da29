"""Every kind of stage; a kind of your own is `path/file.py:Class`, a subclass of mmrl.training.stages.base.Stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmrl.importing import import_file
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
    file, _, name = kind.rpartition(":")
    found: type[Stage[Any]] = getattr(import_file(Path(file)), name)
    return found
