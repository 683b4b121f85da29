"""Roles: what a stage holds by name, and a checkpoint with it. The policy is one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.config import ConfigError
from mmrl.training.following import Follower
from mmrl.training.learner import Learner
from mmrl.training.tensors import copy_into, under

# Names that `Stage.acting` takes for what no stage makes as a role.
TAKEN = ("reference",)


class Role:
    """Weights under a name, and what moves them: a learner, a follower, both, or nothing.

    weights: the policy's own, others that act in their place (`acts`), or those of modules of its own. leader: the role
    that it follows.
    """

    def __init__(
        self,
        name: str,
        weights: Mapping[str, nn.Parameter],
        learner: Learner | None = None,
        follower: Follower | None = None,
        acts: bool = False,
        leader: str = "policy",
    ) -> None:
        if name in TAKEN or "/" in name:
            raise ConfigError(f"a role cannot be called {name!r}; take another name, without `/`")
        self.name, self.weights, self.learner, self.follower, self.acts = name, weights, learner, follower, acts
        self.leader = leader
        self.seen = 0  # updates of what it follows

    def follow(self) -> None:
        """What it follows has been updated once more. Raises RuntimeError for a role that follows nothing."""
        if self.follower is None:
            raise RuntimeError(f"role {self.name} follows nothing; give it `follow`")
        self.seen += 1
        self.follower.follow(self.seen)

    # ---------------------------------------------------------------- a part of a checkpoint

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen, "learner": self.learner.state() if self.learner else None}

    def tensors(self) -> dict[str, Tensor]:
        return self.learner.tensors() if self.learner else {f"param/{k}": p for k, p in self.weights.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """The inverse; a learner that was not there before begins with the weights."""
        self.seen = state["seen"]
        if self.learner and state["learner"]:
            self.learner.load(state["learner"], tensors)
        else:
            copy_into(self.weights, under(tensors, "param/"), f"role {self.name}")
