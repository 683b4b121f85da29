"""Every kind of stage; a kind of your own is `path/file.py:Class`, a subclass of mmrl.training.stages.base.Stage."""

from __future__ import annotations

from typing import Any

from mmrl.config.kinds import own_class
from mmrl.training.cursor import Cursor
from mmrl.training.learner import refuse_shared_averages
from mmrl.training.policy import Policy
from mmrl.training.run import Run
from mmrl.training.stages.base import Stage
from mmrl.training.stages.distill import Distill
from mmrl.training.stages.filtering import Filtering
from mmrl.training.stages.forward_preference import ForwardPreference
from mmrl.training.stages.forward_process import ForwardProcess
from mmrl.training.stages.grpo import Grpo
from mmrl.training.stages.preference import Preference
from mmrl.training.stages.reward_model import RewardModel
from mmrl.training.stages.sft import Sft

KINDS: dict[str, type[Stage[Any]]] = {
    "grpo": Grpo,
    "forward_process": ForwardProcess,
    "distill": Distill,
    "sft": Sft,
    "preference": Preference,
    "forward_preference": ForwardPreference,
    "reward_model": RewardModel,
    "filter": Filtering,
}


def made_stage(run: Run, options: Any, policy: Policy, cursor: Cursor) -> Stage[Any]:
    """The stage of a section, for which the policy has been selected: its data is read, and what it trains is held.

    From now on the adapter samples as this stage does. Raises what is wrong with it as ConfigError.
    """
    if any(getattr(each, "sampling", None) for each in run.config.stages):
        run.adapter.sample_as(run.config.of_stage(options).model)
    stage = stage_class(options.kind)(run, options, policy, cursor)
    refuse_shared_averages(stage.learners.values())
    policy.hold(p for learner in stage.learners.values() for p in learner.parameters.values())
    return stage


def stage_class(kind: str) -> type[Stage[Any]]:
    """The class of a kind; the config has checked that there is one."""
    if kind in KINDS:
        return KINDS[kind]
    found: type[Stage[Any]] = own_class(kind)
    return found
