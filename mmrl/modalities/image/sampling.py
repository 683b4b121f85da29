"""Pictures from noise: rollouts that store their trained steps, and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mmrl.modalities.image.conditions import Conditions
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.ended import ended
from mmrl.modalities.image.families.asked import Asked, Condition, Extent
from mmrl.modalities.image.families.base import Schedule
from mmrl.modalities.image.graphs import Graphs
from mmrl.modalities.image.guidance import Scales
from mmrl.modalities.image.kernels import Transition, sample
from mmrl.modalities.image.plans import StepPlan
from mmrl.modalities.image.policy import StepPolicy
from mmrl.seeds import seed_of
from mmrl.types import Group, Prompt, Sample, Trajectory


@dataclass(frozen=True)
class Run:
    """How one batch of pictures is sampled; without a plan by the ODE (or DDIM with eta 0), and nothing is stored.

    stores: whether there are trajectories at all; decodes: whether there are pictures; shows: whether there are latents
    for rewards to look at.
    """

    steps: int
    scales: Scales
    size: Extent
    plan: StepPlan | None = None
    stores: bool = True
    decodes: bool = True
    shows: bool = False


class Noise:
    """The random numbers of one sample: its first latent, then one draw per stochastic step."""

    def __init__(self, start_seed: int, step_seed: int) -> None:
        self._start = torch.Generator().manual_seed(start_seed)
        self._steps = torch.Generator().manual_seed(step_seed)

    def start(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._start)

    def next(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._steps)


class Sampler:
    """Samples the policy. tag: a number of the weights as they are now, or None; asked: what a prompt asks for."""

    def __init__(
        self,
        policy: StepPolicy,
        conditions: Conditions,
        config: ModelConfig,
        tag: Callable[[], int | None],
        asked: Callable[[Prompt], Asked],
    ) -> None:
        self.policy = policy
        self.family = policy.family
        self.conditions = conditions
        self.config = config
        self.tag = tag
        self.asked = asked
        self.graphs = Graphs()

    @property
    def keeps_mean(self) -> bool:
        """Whether the mean of each trained step is stored, from which a replay tells how far it has moved."""
        return self.config.sampling.ratio_norm or self.config.sampling.keep_mean

    @lru_cache(maxsize=8)  # noqa: B019  one adapter lives as long as the process
    def schedule(self, steps: int, size: Extent) -> Schedule:
        return self.family.schedule(steps, size)

    def unconditional(self, asked: Sequence[Asked], scales: Scales, size: Extent) -> Condition | None:
        """What the branch that guidance leads away from is told, or None where there is no such branch."""
        if self.policy.second(scales) is None:
            return None
        negative = self.config.sampling.negative_prompt
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.policy.both_branches):
            return self.conditions([Asked(negative, one.pictures, against=True) for one in asked], size)

    @torch.no_grad()
    def fill(self, groups: Sequence[Group], n: int, noise: Sequence[Noise], run: Run) -> list[Group]:
        """The groups with n samples each; noise has one entry a sample, group by group."""
        prompts = [group.prompt for group in groups for _ in range(n)]
        samples: list[Sample] = []
        for start in range(0, len(prompts), self.config.rollout_batch):
            rows = slice(start, start + self.config.rollout_batch)
            latents, kept = self._denoise(prompts[rows], noise[rows], run)
            samples += self.made(prompts[rows], range(start, len(prompts)), latents, kept, run, n)
        return [replace(g, samples=samples[i * n : (i + 1) * n]) for i, g in enumerate(groups)]

    def made(
        self,
        prompts: Sequence[Prompt],
        numbers: Iterable[int],
        latents: Tensor,
        kept: Sequence[Trajectory | None],
        run: Run,
        n: int,
    ) -> list[Sample]:
        """Samples of finished latents, with what `run` wants for rewards to look at. numbers: of all samples, n of a
        prompt."""
        drawn = self.decode(latents, run.size) if run.decodes else [None] * len(latents)
        shown = self._shown(latents, kept, run) if run.shows else [{}] * len(latents)
        parts = zip(prompts, numbers, drawn, kept, shown)
        return [Sample(prompt, number % n, artifact, way, latents=own) for prompt, number, artifact, way, own in parts]

    def _denoise(
        self, prompts: Sequence[Prompt], noise: Sequence[Noise], run: Run
    ) -> tuple[Tensor, Sequence[Trajectory | None]]:
        policy, device, size, plan = self.policy, self.family.device, run.size, run.plan
        schedule = self.schedule(run.steps, size)
        asked = [self.asked(prompt) for prompt in prompts]
        condition = self.conditions(asked, size)
        unconditional = self.unconditional(asked, run.scales, size)
        shape = self.family.latent_shape(size)
        latents = torch.stack([source.start(shape) for source in noise]).to(device)
        storing = plan is not None and unconditional is not None and not policy.both_branches
        keeps = self.config.keep_graph and plan is not None and run.stores and bool(plan.trained)
        tag = self.tag() if storing or keeps else None
        batch = self._batch(prompts, latents, run, tag) if keeps and tag is not None else None
        kept: list[dict[str, Tensor]] = []
        way: list[Tensor] = []
        for i in range(run.steps):
            if plan is not None and plan.boundaries:
                way.append(latents.cpu())
            index = torch.full((len(prompts),), i, device=device)
            time = schedule.time[i].float().to(device).expand(len(prompts))
            stochastic = plan is not None and i in plan.stochastic
            trained = plan is not None and i in plan.trained
            with torch.set_grad_enabled(batch is not None and trained):
                output, empty = policy.predict(latents, time, condition, run.scales, size, unconditional)
                transition = policy.transition(latents, output, schedule, index, stochastic)
            if batch is not None and trained:
                self.graphs.keep(batch, i, transition)
            if not stochastic:
                latents = transition.mean.to(policy.storage).float()
                continue
            draw = torch.stack([source.next(shape) for source in noise]).to(device)
            after = sample(transition, draw, policy.storage)
            if trained:
                kept.append(self.keep(latents, after, transition, index, empty, tag if storing else None))
                if batch is not None:
                    kept[-1] |= {"batch": torch.full_like(index, batch).cpu(), "row": torch.arange(len(prompts))}
            latents = after
        if plan is None or not run.stores:
            return latents, [None] * len(prompts)
        return latents, trajectories(kept, len(prompts)) if plan.trained else _ended(latents, way)

    def _batch(self, prompts: Sequence[Prompt], latents: Tensor, run: Run, tag: int) -> int:
        """A number of a batch whose graphs are kept: of all that decides its numbers, so that no other one has it."""
        self.graphs.begin(tag)
        bits = latents.view(torch.int32).flatten(1).sum(1).tolist()
        return seed_of(tag, run, *bits, *(self.asked(prompt).key for prompt in prompts))

    def keep(
        self,
        latents: Tensor,
        after: Tensor,
        transition: Transition,
        index: Tensor,
        empty: Tensor | None,
        tag: int | None,
    ) -> dict[str, Tensor]:
        """What is stored of a trained step; tag: of the weights, where their unconditional outputs are stored, too."""
        stored = {
            "x": latents,
            "x_next": after,
            "step": index,
            "std": transition.std.flatten(),
            "logp": self.policy.log_prob(after, transition),
        }
        if self.keeps_mean:
            stored["mean"] = transition.mean
        if tag is not None and empty is not None:
            stored["unconditional"] = empty
            stored["weights"] = torch.full_like(index, tag)
        return {key: value.cpu() for key, value in stored.items()}

    def _shown(
        self, latents: Tensor, trajectories: Sequence[Trajectory | None], run: Run
    ) -> list[Mapping[str, Tensor]]:
        """See Sample.latents: in the layout of the autoencoder, and on the denoiser's scale."""
        level = self.schedule(run.steps, run.size).level[:-1].float()
        noise = level if self.family.is_flow else (1 - level).sqrt()  # of DDIM it is the signal's share
        found: list[Mapping[str, Tensor]] = []
        for clean, kept in zip(self.family.unpack(latents.float(), run.size).cpu(), trajectories):
            way = {} if kept is None or "x" not in kept.tensors else kept.tensors
            noisy = {"noisy": self.family.unpack(way["x"], run.size), "level": noise[way["step"]]} if way else {}
            found.append({"clean": clean, **noisy})
        return found

    @torch.no_grad()
    def decode(self, latents: Tensor, size: Extent) -> list[Any]:
        """Pictures, or films, of latents, `decode_batch` at a time."""
        drawn: list[Any] = []
        for part in latents.split(self.config.decode_batch):
            drawn += self.family.draws.drawn(self.family.decode(part, size))
        return drawn

    # ---------------------------------------------------------------- what `mmrl plan` estimates from

    def blank(self, prompt: Prompt, run: Run) -> Sample:
        """A sample as long as a rollout makes them; see Adapter.blank."""
        assert run.plan is not None
        trained = run.plan.trained
        latents = torch.zeros(len(trained), *self.family.latent_shape(run.size))
        if not trained:
            latent = torch.zeros(1, *self.family.latent_shape(run.size))
            return Sample(prompt, 0, None, _ended(latent, [latent] * run.steps if run.plan.boundaries else [])[0])
        names = ("x", "x_next", *(("mean",) if self.keeps_mean else ()))
        tensors = {**dict.fromkeys(names, latents), "step": torch.tensor(trained)}
        mask = torch.ones(len(trained), dtype=torch.bool)
        return Sample(prompt, 0, None, Trajectory(torch.zeros(len(trained)), mask, tensors))

    @torch.no_grad()
    def trial(self, prompts: Sequence[Prompt], run: Run) -> None:
        """A denoising step of the pictures that are denoised together, then those decoded together; prompts are encoded
        one by one. See Adapter.trial."""
        asked = [self.asked(prompt) for prompt in prompts[: self.config.rollout_batch]]
        shape = (len(asked), *self.family.latent_shape(run.size))
        condition = self.conditions(asked, run.size)
        unconditional = self.unconditional(asked, run.scales, run.size)
        time = self.schedule(run.steps, run.size).time[:1].float().expand(len(asked))
        output, _ = self.policy.predict(torch.zeros(shape), time, condition, run.scales, run.size, unconditional)
        self.family.decode(output[: self.config.decode_batch], run.size)


def _ended(latents: Tensor, way: Sequence[Tensor] = ()) -> list[Trajectory]:
    """way: the latents before each step, where they are stored."""
    before = [{"x": torch.stack(some)} for some in zip(*way)] if way else [{}] * len(latents)
    steps = {"step": torch.arange(len(way))} if way else {}
    return [ended(latent.clone(), {**one, **steps}) for latent, one in zip(latents.cpu(), before)]


def trajectories(kept: list[dict[str, Tensor]], rows: int) -> list[Trajectory]:
    """Of what `keep` stored of each step, for so many samples."""
    columns = {key: torch.stack([step[key] for step in kept], dim=1) for key in kept[0]}
    logp = columns.pop("logp")
    return [
        Trajectory(
            logp=logp[i].clone(),
            mask=torch.ones(len(kept), dtype=torch.bool),
            tensors={key: value[i].clone() for key, value in columns.items()},
        )
        for i in range(rows)
    ]
