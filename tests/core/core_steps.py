"""A whole optimizer step of the core on numbers that every hook can read, for properties over all presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mmrl.core.advantage import estimate
from mmrl.core.aggregate import weights
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.filter import zero_variance
from mmrl.core.presets import PRESETS
from mmrl.core.resolving import resolve
from mmrl.core.step import policy_loss
from mmrl.core.update import prepare_update
from mmrl.types import ActionLogProbs

GROUPS, SAMPLES, T = 6, 4, 9
N = GROUPS * SAMPLES


def made(preset: str, **overrides: object) -> Algorithm:
    """The preset with the clip range of tokens, and with the options that it cannot do without."""
    needed = {"constant_length": T} if preset == "dr_grpo" else {}
    return resolve(preset, {**needed, **overrides}).with_defaults(0.2, 0.2)


@dataclasses.dataclass
class Numbers:
    """What a step is made of. The policy is `logp` and `entropy`, [N, T] leaves; all of it is float64."""

    batch: Batch
    reward: Tensor
    k1: Tensor
    logp: Tensor
    entropy: Tensor
    reference: Tensor

    def moved(self, rows: Sequence[int], groups: Sequence[int]) -> Numbers:
        """The same samples in another order (`rows`), the groups at other places: group g at groups[g]."""
        index = torch.tensor(rows)
        batch = self.batch.at(index, torch.arange(T))
        group = torch.tensor(groups)[batch.group]
        return Numbers(
            dataclasses.replace(batch, group=group),
            *(x[index].detach().requires_grad_(x.requires_grad) for x in dataclasses.astuple(self)[1:]),
        )


def numbers(seed: int = 0) -> Numbers:
    """Rewards of 1 and -1: group 0 is all wrong, the others have different shares. No two samples are alike."""
    g = torch.Generator().manual_seed(seed)

    def normal(scale: float = 1.0) -> Tensor:
        return scale * torch.randn(N, T, generator=g, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    group, place = torch.arange(N) // SAMPLES, torch.arange(N) % SAMPLES
    mask = torch.arange(T)[None, :] < torch.randint(2, T + 1, (N, 1), generator=g)
    reward = torch.where(place < torch.tensor([0, 1, 2, 3, 1, 2])[group], 1.0, -1.0).double()
    old = -uniform(N, T) - 0.1
    logp = (old + normal(0.4)).clamp(max=-1e-3)
    gap2 = uniform(N, T) / 3
    step = torch.arange(T) // 3
    batch = Batch(
        group,
        GROUPS,
        mask,
        truncated=uniform(N) < 0.2,
        scores={"process": uniform(N), "a": uniform(N)},
        logp_old=old,
        logp_sampler=old + normal(0.7),
        columns={
            "stratum": place % 2,
            "level": torch.where(reward > 0, 1.0, 2.0 + place % 2),
            "version": torch.zeros(N),
            "round": 1 + place,
            "rounds": torch.full((N,), SAMPLES),
            "vote": torch.randint(3, (N,), generator=g),
            "id": 70 + group,
            "pair": 70 + (group ^ 1),
            "plan": place % 2,
            "expert": (place == 3).double(),
            "episode": place // 2,
            "step": place % 2,
            "step_reward": 0.6 + 0.4 * uniform(N),
            **{name: (uniform(N) < 0.5).double() for name in ("miss", "over", "malformed")},
        },
        features={
            "logp": logp,
            "entropy": 3 * uniform(N, T) ** 3,
            "logp_reference": old + normal(0.3),
            "proxy_logp": logp + normal(0.8),
            "prob_gap2": gap2,
            "fisher": gap2 * uniform(N, T),
            "token_class": (uniform(N, T) < 0.3).long(),
            "decision": (uniform(N, T) < 0.2).long(),
            "std": 0.2 + uniform(N, T),
            "divergence": 3e-5 * uniform(N, T),
            "segment": torch.where(uniform(N, T) < 0.9, step, -1),
            "step": step.expand(N, T),
            "step_reward": uniform(N, 3).repeat_interleave(3, 1),
        },
    )
    return Numbers(
        batch,
        reward,
        torch.where(mask, old - batch.feature("logp_reference"), 0.0).sum(1),
        logp.clone().requires_grad_(),
        (uniform(N, T) * 2).requires_grad_(),
        batch.feature("logp_reference"),
    )


def gradient(algorithm: Algorithm, given: Numbers, cuts: Iterable[Sequence[int]] | None = None) -> Tensor:
    """[2, N, T]: the gradient of one optimizer step by log-probs and entropies, summed over micro-batches `cuts`."""
    batch, scores = given.batch, given.reward[:, None]
    penalty = algorithm.kl_coef * given.k1 if algorithm.kl_place == "reward" else None
    one = torch.ones(1, dtype=torch.float64)
    advantage, _, valid = estimate(scores, scores.isfinite(), one, batch, algorithm, penalty=penalty)
    whole = dataclasses.replace(batch, mask=batch.mask & valid[:, None])
    if algorithm.drop_zero_variance:
        signal = advantage.abs() if advantage.ndim == 1 else torch.where(whole.mask, advantage, 0.0).abs().amax(1)
        kept = zero_variance(signal, valid, batch.group, batch.n_groups, batch.reduce)
        whole = dataclasses.replace(whole, mask=whole.mask & kept[:, None])
    whole, weight, _ = prepare_update(whole, advantage, algorithm)
    shares = weights(
        algorithm.aggregate, whole.mask, batch.group, batch.n_groups, batch.reduce, algorithm.constant_length
    )
    given.logp.grad = given.entropy.grad = None
    for cut in [range(N)] if cuts is None else cuts:
        rows = torch.tensor(cut)
        replay = ActionLogProbs(
            given.logp[rows],
            entropy=given.entropy[rows],
            logp_reference=given.reference[rows],
            kl=(given.logp - given.reference)[rows] ** 2,
        )
        loss, _ = policy_loss(
            replay,
            batch.logp_old[rows],
            whole.mask[rows],
            advantage[rows],
            shares[rows],
            algorithm,
            batch=whole.at(rows, torch.arange(T)),
            action_weight=None if weight is None else weight[rows],
        )
        if loss.requires_grad:
            loss.backward()
    found = [torch.zeros(N, T) if x.grad is None else x.grad for x in (given.logp, given.entropy)]
    return torch.stack([x.double() for x in found])


__all__ = ["GROUPS", "PRESETS", "SAMPLES", "N", "Numbers", "T", "gradient", "made", "numbers"]
