"""Kinds of stages: which section of a config each has. A kind of one's own is `path/file.py:Class`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import BeforeValidator, Discriminator, SerializeAsAny, Tag, create_model

from mmrl.config.distill import DistillStage
from mmrl.config.filtering import FilterStage
from mmrl.config.forward_preference import ForwardPreferenceStage
from mmrl.config.forward_process import ForwardProcessStage
from mmrl.config.grpo import GrpoStage
from mmrl.config.preference import PreferenceStage
from mmrl.config.reward_model import RewardModelStage
from mmrl.config.sft import SftStage
from mmrl.config.stage import Stage
from mmrl.config.validation import validate
from mmrl.importing import import_file
from mmrl.near import short
from mmrl.share import resolve

OWN = "own"


def own_class(kind: str) -> Any:
    """The class behind a kind `path/file.py:Class`, whose `Options` are its section.

    Raises ValueError where there is none, or where it has no section.
    """
    file, _, name = kind.rpartition(":")
    found = getattr(import_file(Path(resolve(file))), name, None)
    section = getattr(found, "Options", None)
    stage = isinstance(found, type) and all(hasattr(found, name) for name in ("step", "make_roles", "done"))
    if not (stage and isinstance(section, type) and issubclass(section, Stage)):
        raise ValueError(
            f"kind {short(kind)}: {name} in that file is no stage; write a subclass of mmrl.training.stages.base.Stage "
            "with `Options`, a subclass of mmrl.config.Stage"
        )
    return found


def _own_section(value: Any) -> Stage:
    """The section of a stage of one's own."""
    if isinstance(value, Stage):
        return value
    return validate(_open(own_class(value["kind"]).Options), value)


@functools.cache
def _open(section: type[Stage]) -> type[Stage]:
    """The section with any kind, where it is that of a built-in stage that was subclassed."""
    if get_origin(section.model_fields["kind"].annotation) is not Literal:
        return section
    return create_model(section.__name__, __base__=section, kind=(str, ""))


def _tag(stage: Any) -> str | None:
    kind = stage.get("kind") if isinstance(stage, Mapping) else getattr(stage, "kind", None)
    if not isinstance(kind, str):
        return None
    return OWN if kind.rpartition(":")[0].endswith(".py") else kind


AnyStage = Annotated[
    Annotated[GrpoStage, Tag("grpo")]
    | Annotated[ForwardProcessStage, Tag("forward_process")]
    | Annotated[DistillStage, Tag("distill")]
    | Annotated[SftStage, Tag("sft")]
    | Annotated[PreferenceStage, Tag("preference")]
    | Annotated[ForwardPreferenceStage, Tag("forward_preference")]
    | Annotated[RewardModelStage, Tag("reward_model")]
    | Annotated[FilterStage, Tag("filter")]
    | Annotated[SerializeAsAny[Stage], BeforeValidator(_own_section), Tag(OWN)],
    Discriminator(_tag),
]
