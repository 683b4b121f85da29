"""The log-probabilities of stored steps once more, under the weights as they are now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from mmrl.copying import to_device
from mmrl.modalities.image.kernels import Transition, gaussian_kl, ratio_norm
from mmrl.modalities.image.sampling import Run, Sampler
from mmrl.types import ActionLogProbs, Sample, Slice, Trajectory


class Replay:
    """Replays what `sampler` stored; `reference` is the adapter's context in which the weights are the frozen ones."""

    def __init__(self, sampler: Sampler, reference: Callable[[], AbstractContextManager[None]]) -> None:
        self.sampler = sampler
        self.policy = sampler.policy
        self.reference = reference

    def __call__(
        self, samples: Sequence[Sample], columns: Tensor, run: Run, with_reference: bool = False
    ) -> ActionLogProbs:
        """See Adapter.logprobs; the samples are of a rollout `run`."""
        sampler, policy, device, size = self.sampler, self.policy, self.policy.family.device, run.size
        trajectories = _trajectories(samples)
        b, t = len(samples), len(columns)

        def gather(key: str) -> Tensor:
            return to_device(torch.stack([kept.tensors[key][columns] for kept in trajectories]).flatten(0, 1), device)

        schedule = sampler.schedule(run.steps, size)
        index, latents, after = gather("step"), gather("x"), gather("x_next")
        time = schedule.time.to(device)[index].float()
        asked = [one for s in samples for one in [sampler.asked(s.prompt)] * t]

        def transition() -> Transition:
            """Of the weights as they are now, text encoders included: the policy's, or the reference's."""
            empty = gather("unconditional") if self._unconditional_holds(trajectories) else None
            unconditional = sampler.unconditional(asked, run.scales, size) if empty is None else None
            condition = sampler.conditions(asked, size)
            output, _ = policy.predict(latents, time, condition, run.scales, size, unconditional, empty)
            return policy.transition(latents, output, schedule, index)

        step = self._kept(trajectories, columns) or transition()
        logp = policy.log_prob(after, step)
        found = ActionLogProbs(logp=logp.view(b, t))
        if sampler.keeps_mean:
            with torch.no_grad():
                found.divergence = gaussian_kl(step.mean, gather("mean"), step.std).view(b, t)
        if policy.sampling.ratio_norm:
            old = to_device(torch.stack([kept.logp[columns] for kept in trajectories]).flatten(), device)
            log_ratio, weight = ratio_norm(logp, old, step.mean, gather("mean"), step.std, step.dt)
            found.log_ratio, found.weight = log_ratio.view(b, t), weight.view(b, t)
        if with_reference:
            with torch.no_grad(), self.reference():
                frozen = transition()
            found.kl = policy.kl(step, frozen).view(b, t)
            found.logp_reference = policy.log_prob(after, frozen).view(b, t)
        return found

    def _kept(self, trajectories: Sequence[Trajectory], columns: Tensor) -> Transition | None:
        """What the rollout computed, with its graph, where that is kept and of the weights as they are now."""
        if not torch.is_grad_enabled() or any("batch" not in kept.tensors for kept in trajectories):
            return None
        tag = self.sampler.tag()
        if tag is None:
            return None
        names = ("batch", "step", "row")
        each = [zip(*(kept.tensors[name][columns].tolist() for name in names)) for kept in trajectories]
        return self.sampler.graphs.take(tag, [place for places in each for place in places])

    def _unconditional_holds(self, trajectories: Sequence[Trajectory]) -> bool:
        """Whether all have stored unconditional outputs, and those are of the weights as they are now."""
        if any("unconditional" not in kept.tensors for kept in trajectories):
            return False
        tag = self.sampler.tag()
        return tag is not None and all(bool((kept.tensors["weights"] == tag).all()) for kept in trajectories)


def slices(samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
    """Rows first: all trained steps of a sample stay together unless they alone are over the budget.

    Rows that were denoised together, and whose graphs are kept, stay together, however many: one backward frees all.
    """
    if not samples:
        return
    kept = _trajectories(samples)
    columns = torch.arange(len(kept[0].logp))
    if not len(columns):  # of a plan that trains no step
        return
    if all("batch" in one.tensors for one in kept):
        batches: dict[int, list[int]] = {}
        for row, one in enumerate(kept):
            batches.setdefault(int(one.tensors["batch"][0]), []).append(row)
        for together in batches.values():
            for some in columns.split(max(1, budget // len(together))):
                yield Slice(torch.tensor(together), some)
        return
    rows = torch.arange(len(samples))
    for part in rows.split(max(1, budget // len(columns))):
        for some in columns.split(min(len(columns), budget)):
            yield Slice(part, some)


def _trajectories(samples: Sequence[Sample]) -> list[Trajectory]:
    """Those of rolled-out samples; evaluation's have none."""
    kept = [sample.trajectory for sample in samples if sample.trajectory is not None]
    if len(kept) < len(samples):
        raise ValueError("a sample has no trajectory: only rollouts can be replayed, not evaluations")
    return kept
