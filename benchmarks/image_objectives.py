"""Rows of the benchmark of an image step besides Flow-GRPO: Flow-DPPO, NFT, distillation, and what a role takes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from image_plain import PlainNft
from image_sides import CORPUS, GROUPS, SAMPLES, SEED, TRAINED, Library, difference
from sides import Clock
from torch import Tensor

from mmrl.config import FollowConfig, ForwardProcessStage, load
from mmrl.core.algorithm import Algorithm
from mmrl.modalities.acting import copies
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.training.assemble import assemble
from mmrl.training.cursor import Cursor
from mmrl.training.following import Follower
from mmrl.training.policy import Policy
from mmrl.training.stages.experience import Experience
from mmrl.training.stages.forward_update import Draws, Others, forward_gradient
from mmrl.training.stages.kinds import made_stage
from mmrl.training.stages.update import plan_update
from mmrl.types import Group, Prompt

ROLE_BAR = 0.05  # of the base's memory


def diverging(size: int, micro_batch: int) -> Library:
    """Flow-DPPO: Flow-GRPO's steps, each mean stored, and a bound on how far it has moved."""
    algorithm = Algorithm(gate={"name": "dppo", "limit": 1e-5})
    return Library(size, micro_batch, {"name": "full"}, algorithm, keep_mean=True)


class Noised(Library):
    """DiffusionNFT: a copy that follows by half samples, and as many draws a picture as Flow-GRPO trains steps."""

    def __init__(self, size: int, micro_batch: int) -> None:
        super().__init__(size, micro_batch, {"name": "untrained"})
        self.options = ForwardProcessStage(
            steps=1,
            groups=GROUPS,
            samples=SAMPLES,
            draws=TRAINED,
            micro_batch=micro_batch,
            times={"share": 0.9},
            algorithm={"preset": "grpo"},
        )
        self.old = copies(self.parameters)
        self.follower = Follower(FollowConfig(decay=0.5), self.old, self.parameters)
        self.updates = 0

    def rollout(self, prompts: Sequence[Prompt], number: int) -> list[Group]:
        self.number = number
        with self.adapter.acting(self.old):
            return self.sample(prompts, number)[0]

    def draws(self, groups: Sequence[Group]) -> Draws:
        return Draws.of(groups, self.options, self.number, self.adapter)

    def gradients(self, groups: Sequence[Group]) -> float:
        with self.clock.phase("train"):
            weights = {"redness": 1.0}
            experience = Experience.of(groups, weights, self.algorithm, n_groups=GROUPS, draws=TRAINED, everyone=True)
            update = plan_update(experience, self.algorithm)
            others = Others(partial(self.adapter.acting, self.old), None)
            parts = forward_gradient(self.adapter, update, self.draws(groups), self.options, others)
            return sum(part.loss for part in parts)

    def update(self) -> None:
        super().update()
        self.updates += 1
        self.follower.follow(self.updates)


class Distilled:
    """A step of the stage that distils, whole: four steps of sampling, then the fake score and the policy.

    stage: options of the stage in the place of distillation alone, such as those of a joint one.
    """

    def __init__(self, size: int, micro_batch: int, stage: Mapping[str, Any] | None = None) -> None:
        self.clock = Clock()
        self.folder = tempfile.TemporaryDirectory()
        prompts = Path(self.folder.name) / "prompts.txt"
        prompts.write_text("\n".join(CORPUS) + "\n", encoding="utf-8")
        sampling = {"steps": 4, "size": size, "kernel": "renoise", "plan": {"name": "full"}}
        build = {"seed": SEED, "corpus": CORPUS, "grid": size // 8}
        own = {"kind": "distill", "steps": 1000, "groups": GROUPS, "samples": SAMPLES, "micro_batch": micro_batch}
        config = {
            "name": "distilled",
            "modality": "image",
            "out": self.folder.name,
            "device": "cpu",
            "seed": SEED,
            "model": {"path": "built", "family": "sd3", "build": build, "sampling": sampling},
            "data": {"prompts": str(prompts)},
            "rewards": [{"name": "jpeg.incompressible"}] if stage and "joint" in stage else [],
            "stages": [{**own, **(stage or {})}],
            "report": {"samples_every": 0},
        }
        run = assemble(load(config))
        policy, self.cursor = Policy(run.adapter), Cursor()
        policy.select(None, "distill")
        self.cursor.begin_stage(0)
        run.adapter.prepare_reference()
        self.stage = made_stage(run, run.config.stages[0], policy, self.cursor)

    def step(self, number: int) -> None:
        with self.clock.phase("train"):
            self.stage.step()
        self.cursor.end_step({})


# ------------------------------------------------------------------ the same numbers


def check_nft(plain: PlainNft, library: Noised, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Largest relative differences of pictures' latents and of the gradient, from weights that the old ones are not."""
    generator = torch.Generator().manual_seed(1)
    for name, mine in plain.old.named_parameters():
        nudge = 0.01 * torch.randn(mine.shape, generator=generator)
        mine.data += nudge
        library.old[f"denoiser.{name}"].data += nudge
    ours, theirs = library.rollout(prompts, 0), plain.rollout(prompts, 0)
    samples = [sample for group in ours for sample in group.samples]
    clean = torch.stack([sample.actions.tensors["clean"] for sample in samples])
    found = {"NFT, latents": difference(clean, theirs.clean)}
    # The same rewards: a pixel on the edge of two 8-bit levels may round either way.
    reward = torch.tensor([sample.scores["redness"].value for sample in samples], dtype=torch.float64)
    losses = library.gradients(ours), plain.gradients(theirs._replace(reward=reward), library.draws(ours))
    found["NFT, loss"] = abs(losses[0] - losses[1])
    gradients: dict[str, Tensor | None] = {f"denoiser.{name}": p.grad for name, p in plain.parameters.items()}
    found["NFT, gradient"] = max(difference(library.parameters[name].grad, g) for name, g in gradients.items())
    plain.optimizer.zero_grad()
    library.learner.forget_gradient()
    return found


# ------------------------------------------------------------------ memory


def role_row(roles: int = 16) -> str:
    """Memory of a role that is made of a LoRA beside the base's, both as resident pages and as tensors."""
    build = {"layers": 8, "heads": 8, "head_dim": 48, "corpus": ["a red dot"], "grid": 16}
    before = _resident()
    adapter = ImageAdapter(
        ModelConfig(path="built", family="sd3", build=build, train="lora", lora={"rank": 8, "alpha": 8})
    )
    base, base_tensors = _resident() - before, sum(t.nbytes for t in adapter.weights())
    before = _resident()
    kept = [copies(adapter.trainable_parameters()) for _ in range(roles)]
    role, role_tensors = (_resident() - before) / roles, sum(t.nbytes for t in kept[0].values())
    share = max(role / base, role_tensors / base_tensors)
    reached = "reached" if share < ROLE_BAR else "NOT reached"
    return (
        f"a role of LoRA weights < {ROLE_BAR:.0%} of the base: {reached} ({share:.1%}; tensors "
        f"{role_tensors / 1e6:.2f} of {base_tensors / 1e6:.1f} MB, resident {role / 1e6:.2f} of {base / 1e6:.1f} MB)"
    )


def _resident() -> int:
    """Bytes of this process in main memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


__all__ = ["Distilled", "Noised", "check_nft", "diverging", "role_row"]
