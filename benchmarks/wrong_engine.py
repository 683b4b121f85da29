"""A sampler that is wrong about its own tokens, as a quantised or broken engine may be: for effects_reward.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from mmrl.modalities.text.adapter import TextAdapter
from mmrl.modalities.text.config import ModelConfig
from mmrl.seeds import seed_of
from mmrl.types import Group


class WrongEngineConfig(ModelConfig):
    """A text model, and how its sampler is wrong."""

    wrong_share: float = Field(0.01, ge=0, le=1, description="Share of the trained tokens.")
    wrong_nats: tuple[float, float] = Field((8.0, 15.0), description="Least and most that a log-prob is too low by.")
    wrong_from: int = Field(1, ge=0, description="The first training step whose rollout is wrong.")


class WrongEngine(TextAdapter):
    """The text adapter, whose rollout notes a log-prob that is far too low at a small share of its tokens.

    The tokens themselves are drawn as ever: what is wrong is what the trainer is told of them, and with
    `old_logp: sampler` it is what ratios are measured against. Which tokens depends on seed, step, prompt and number
    of the sample alone, so that two trainings of the same seed meet the same mistakes as long as they sample the same.
    The first step is right, as mmrl refuses to begin with a sampler whose log-probs its replay does not give again
    (SelfCheck); for the same reason a run that was cut off cannot go on, and begins anew. mmrl's own engines do not
    bring this about: it puts the trainer's log-probs in the place of theirs.
    """

    Config = WrongEngineConfig
    config: WrongEngineConfig

    def rollout(self, groups: Sequence[Group], n: int, step: int, seed: int) -> list[Group]:
        """See Adapter.rollout."""
        filled = super().rollout(groups, n, step, seed)
        if step < self.config.wrong_from:
            return filled
        share, nats = self.config.wrong_share, self.config.wrong_nats
        for group in filled:
            for sample in group.samples:
                drawn = seed_of("wrong engine", seed, step, group.key, sample.index)
                actions = sample.actions
                actions.logp = too_low(actions.logp, actions.mask, share, nats, drawn)
        return filled


def too_low(logp: Tensor, mask: Tensor, share: float, nats: tuple[float, float], seed: int) -> Tensor:
    """[T] log-probs, each that is trained lowered with probability `share` by a uniform draw from `nats`."""
    draws = torch.rand(2, len(logp), generator=torch.Generator().manual_seed(seed))
    least, most = nats
    return torch.where(mask & (draws[0] < share), logp - least - (most - least) * draws[1], logp)
