"""What the benchmarks of an image step share: prompts, the reward, the clock, and mmrl's side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from sides import Clock
from torch import Tensor

from mmrl.config import OptimConfig
from mmrl.core.algorithm import Algorithm
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.training.learner import Learner
from mmrl.training.processes import Processes
from mmrl.training.stages.experience import Experience
from mmrl.training.stages.update import gradient, micro_batches, plan_update
from mmrl.types import Group, Prompt, Sample, Score

GROUPS, SAMPLES = 4, 8
STEPS, TRAINED = 10, 9
GUIDANCE, LEVEL = 4.5, 0.7
SEED = 0
OPTIM = OptimConfig(lr=1e-4)

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "moon")
CORPUS = [f"a {colour} {shape} on a table" for shape in SHAPES for colour in COLOURS]


def prompts_of(number: int) -> list[Prompt]:
    """Four prompts that no step before this one had, as long as the corpus lasts."""
    texts = [CORPUS[(GROUPS * number + i) * 13 % len(CORPUS)] for i in range(GROUPS)]
    return [Prompt(text, text) for text in texts]


def redness(image: Image.Image) -> float:
    """Mean of red minus the mean of green and blue: cheap, and never the same for two pictures."""
    red, green, blue = np.asarray(image, dtype=np.float64).mean(axis=(0, 1))
    return float(red - (green + blue) / 2)


@dataclass
class Rollout:
    """What both sides must agree on. before, after: [N, T, C, h, w]; logp: [N, T]; reward: [N]."""

    before: Tensor
    after: Tensor
    logp: Tensor
    reward: Tensor
    groups: Sequence[Group] = ()
    embeds: Tensor | None = None
    pooled: Tensor | None = None
    steps: Sequence[int] = range(TRAINED)


class Library:
    """mmrl's adapter with the update and the learner of its training."""

    def __init__(
        self,
        size: int,
        micro_batch: int,
        plan: dict[str, Any],
        algorithm: Algorithm | None = None,
        model: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> None:
        """sampling: options besides the plan, in the place of those of Flow-GRPO. model: others of the model."""
        sampling = {"steps": STEPS, "guidance": GUIDANCE, "noise_level": LEVEL, "size": size, "plan": plan, **sampling}
        build = {"seed": SEED, "corpus": CORPUS, "grid": size // 8}
        self.adapter = ImageAdapter(
            ModelConfig(
                path="built",
                family="sd3",
                build=build,
                sampling=sampling,
                decode_batch=GROUPS * SAMPLES,
                **(model or {}),
            )
        )
        self.parameters = self.adapter.trainable_parameters()
        self.learner = Learner("policy", self.parameters, OPTIM, updates=1, processes=Processes("cpu"))
        self.algorithm = (algorithm or Algorithm()).with_defaults(*self.adapter.default_clip)
        self.micro_batch = micro_batch
        self.clock = Clock()
        self._time("encode", "text encode")
        self._time("decode", "decode")

    def _time(self, method: str, phase: str) -> None:
        inner = getattr(self.adapter.family, method)

        def timed(*args, **kwargs):
            with self.clock.phase(phase):
                return inner(*args, **kwargs)

        setattr(self.adapter.family, method, timed)

    def sample(self, prompts: Sequence[Prompt], number: int) -> tuple[list[Group], list[Sample], Tensor]:
        """(scored groups, their samples, rewards [N])."""
        with self.clock.phase("sampling"):
            groups = [Group(prompt, i) for i, prompt in enumerate(prompts)]
            groups = self.adapter.rollout(groups, SAMPLES, number, SEED)
        samples = [s for g in groups for s in g.samples]
        with self.clock.phase("reward"):
            reward = torch.tensor([redness(s.artifact) for s in samples], dtype=torch.float64)
            for sample, value in zip(samples, reward.tolist(), strict=True):
                sample.scores["redness"] = Score(value)
        return groups, samples, reward

    def rollout(self, prompts: Sequence[Prompt], number: int) -> Rollout:
        groups, samples, reward = self.sample(prompts, number)

        def stored(key: str) -> Tensor:
            return torch.stack([s.actions.tensors[key] for s in samples])

        logp = torch.stack([s.actions.logp for s in samples])
        return Rollout(stored("x"), stored("x_next"), logp, reward, groups)

    def gradients(self, rollout: Rollout, groups: Tensor | None = None) -> float:
        """Accumulate the gradient of mmrl's GRPO loss over all micro-batches; returns its value. groups: [GROUPS] bool,
        those of the update; None: all."""
        with self.clock.phase("train"):
            experience = Experience.of(rollout.groups, {"redness": 1.0}, self.algorithm, n_groups=GROUPS)
            update = plan_update(experience, self.algorithm, groups)
            slices = micro_batches(self.adapter, update, self.micro_batch)
            return sum(part.loss for part in gradient(self.adapter, update, slices))

    def update(self) -> None:
        with self.clock.phase("optimizer"):
            self.learner.step()


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest, relative to the largest entry."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
