"""Weights that follow others: averages that are evaluated, old policies, slow copies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmrl.config import FollowConfig


class Follower:
    """Moves `weights` towards those of the same names that they follow, where these are now."""

    def __init__(self, options: FollowConfig, weights: Mapping[str, Tensor], followed: Mapping[str, Tensor]) -> None:
        self.options, self.weights, self.followed = options, weights, followed

    @torch.no_grad()
    def follow(self, updates: int) -> None:
        """Behind so many updates (from 1) of what is followed: nothing is moved where it is not time."""
        kept = self.options.kept_behind(updates)
        if kept < 1:
            theirs = [self.followed[name].detach() for name in self.weights]
            torch._foreach_lerp_(list(self.weights.values()), theirs, 1 - kept)
