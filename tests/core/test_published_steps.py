"""A whole optimizer step of the presets, from rewards to the gradient, against the published form in plain loops.

Where a paper and its released code part, docs/algorithms.md says which of them a preset is.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from core_steps import GROUPS, SAMPLES, Numbers, T, gradient, made, numbers
from torch import Tensor

EPS = 1e-6  # what verl adds to a standard deviation


class Step:
    """What a published loss is made of. `now` and `entropy` are differentiated; kl: its coefficient."""

    def __init__(self, given: Numbers, kl: float) -> None:
        self.batch, self.kl = given.batch, kl
        self.now, self.entropy, self.old, self.mask = given.logp, given.entropy, self.batch.logp_old, self.batch.mask
        self.ratio, self.gap = (self.now - self.old).exp(), self.now - given.reference
        self.reference = given.reference
        self.reward = given.reward.tolist()
        self.k1 = [float(row[m].sum()) for row, m in zip(self.old - given.reference, self.mask)]

    def by_group(self, values: Sequence[float], of: Callable[[Sequence[float]], list[float]]) -> list[float]:
        return [x for g in range(GROUPS) for x in of(values[g * SAMPLES : (g + 1) * SAMPLES])]

    @property
    def less_kl(self) -> list[float]:
        return [r - self.kl * k for r, k in zip(self.reward, self.k1)]

    @property
    def loud(self) -> Tensor:
        """The actions of groups whose rewards differ."""
        differ = self.by_group(self.reward, lambda rs: [float(max(rs) > min(rs))] * len(rs))
        return self.mask & (torch.tensor(differ)[:, None] > 0)


def standard(values: Sequence[float], ddof: int = 1, eps: float = EPS) -> list[float]:
    mean = statistics.fmean(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - ddof))
    return [(v - mean) / (std + eps) if std > 1e-6 else 0.0 for v in values]


def centred(values: Sequence[float]) -> list[float]:
    return [v - statistics.fmean(values) for v in values]


def whitened(step: Step, values: Sequence[float], ddof: int = 1) -> list[float]:
    """Over tokens: each value stands at all of its sample's."""
    tokens = [v for v, m in zip(values, step.mask) for _ in range(int(m.sum()))]
    mean = statistics.fmean(tokens)
    std = math.sqrt(sum((v - mean) ** 2 for v in tokens) / (len(tokens) - ddof))
    return [(v - mean) / (std + EPS) for v in values]


def column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def clipped(r: Tensor, a: Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    return torch.minimum(r * a, r.clamp(1 - low, 1 + high) * a)


def tokens(values: Tensor, mask: Tensor) -> Tensor:
    return values[mask].mean()


def sequences(values: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([row[m].mean() for row, m in zip(values, mask) if m.any()]).mean()


def k3(gap: Tensor) -> Tensor:
    return (-gap).exp() + gap - 1


# ------------------------------------------------------------------ the published forms


def grpo(s: Step, mask: Tensor | None = None, advantage: Sequence[float] | None = None) -> Tensor:
    mask = s.mask if mask is None else mask
    a = column(s.by_group(s.reward, standard) if advantage is None else advantage)
    return sequences(s.kl * k3(s.gap) - clipped(s.ratio, a), mask)


def dr_grpo(s: Step) -> Tensor:
    return -(clipped(s.ratio, column(s.by_group(s.reward, centred)))[s.mask]).sum() / (len(s.mask) * T)


def dapo(s: Step, mask: Tensor | None = None) -> Tensor:
    a = column(s.by_group(s.reward, standard))
    return tokens(s.kl * k3(s.gap) - clipped(s.ratio, a, 0.2, 0.28), s.loud if mask is None else mask)


def gspo(s: Step, rewards: Sequence[float] | None = None) -> Tensor:
    a = s.by_group(s.reward if rewards is None else rewards, standard)
    ratios = [(now - old)[m].mean().exp() for now, old, m in zip(s.now, s.old, s.mask)]
    return -torch.stack([clipped(r, torch.tensor(x), 3e-4, 4e-4) for r, x in zip(ratios, a)]).mean()


def cispo(s: Step) -> Tensor:
    return -tokens(s.ratio.clamp(max=5).detach() * column(s.by_group(s.reward, standard)) * s.now, s.mask)


def scalerl(s: Step) -> Tensor:
    apart, loud = s.by_group(s.reward, centred), s.loud
    std = statistics.stdev([a for a, m in zip(apart, loud) if m.any()]) + EPS
    terms = s.ratio.clamp(max=5).detach() * column(apart) / std * s.now
    prompts = [terms[g * SAMPLES :][:SAMPLES][loud[g * SAMPLES :][:SAMPLES]] for g in range(GROUPS)]
    return -torch.stack([some.mean() for some in prompts if len(some)]).mean()


def flow_grpo(s: Step) -> Tensor:
    std = statistics.pstdev(s.reward) + 1e-4
    a = column([min(max(x / std, -5), 5) for x in s.by_group(s.reward, centred)])
    return sequences(s.kl * s.gap**2 - clipped(s.ratio, a), s.loud)  # the exact KL of these numbers


def of_whole_sequences(s: Step, of: Callable[[Tensor, Tensor, float], Tensor], advantage: Sequence[float]) -> Tensor:
    """Mean over sequences of a function of (log-prob of the whole, its ratio, A)."""
    joint = [(now[m].sum(), (now - old)[m].sum().exp()) for now, old, m in zip(s.now, s.old, s.mask)]
    return -torch.stack([of(logp, r, a) for (logp, r), a in zip(joint, advantage)]).mean()


def rloo(s: Step) -> Tensor:
    def others(rs: Sequence[float]) -> list[float]:
        return [r - (sum(rs) - r) / (len(rs) - 1) for r in rs]

    a = s.by_group(s.less_kl, others)
    return of_whole_sequences(s, lambda logp, r, a: clipped(r, torch.tensor(a)), a)


def topr(s: Step) -> Tensor:
    return of_whole_sequences(s, lambda logp, r, a: (r.clamp(max=1).detach() if a < 0 else 1) * a * logp, s.reward)


def topr_token(s: Step) -> Tensor:
    a = column(s.reward)
    return -sequences(torch.where(a > 0, 1, s.ratio.clamp(max=1)).detach() * a * s.now, s.mask)


def reinforce_pp(s: Step) -> Tensor:
    return -tokens(clipped(s.ratio, column(whitened(s, s.less_kl))), s.mask)


def reinforce_pp_baseline(s: Step) -> Tensor:
    a = column(whitened(s, s.by_group(s.reward, centred)))
    return tokens(s.kl * s.gap**2 / 2 - clipped(s.ratio, a), s.mask)


def stable_reinforce(s: Step) -> Tensor:
    a = column([z if abs(z) <= 3 else 0.0 for z in whitened(s, s.less_kl, ddof=0)])
    r = (s.now - s.old).clamp(-math.log(1e3), math.log(1e3)).exp()
    return -sequences(clipped(r, a), s.mask)


def stable_reinforce_tokens(s: Step) -> Tensor:
    """The KL of the script, 1e-3, of each token and those after it."""
    gaps = torch.where(s.mask, s.old - s.reference, 0.0)
    returns = [[r - 1e-3 * float(row[t:].sum()) for t in range(len(row))] for r, row in zip(s.reward, gaps)]
    flat = [x for row, m in zip(returns, s.mask) for x, there in zip(row, m) if there]
    mean, std = statistics.fmean(flat), statistics.pstdev(flat)
    z = (torch.tensor(returns, dtype=torch.float64) - mean) / (std + EPS)
    a = torch.where(z.abs() <= 3, z, 0.0)
    r = (s.now - s.old).clamp(-math.log(1e3), math.log(1e3)).exp()
    return -sequences(clipped(r, a), s.mask)


def bapo(s: Step) -> Tensor:
    """From 1.2 to 3.0 by 0.1, then from 0.6 to 0.9 by 0.05, until positive actions have half of the loss."""
    a, r = column(s.by_group(s.reward, standard)).expand(s.mask.shape), s.ratio.detach()

    def reached(low: float, high: float) -> bool:
        size = r * a.abs() * s.mask
        up = size[(a > 0) & (r <= high)].sum()
        return bool(up >= (up + size[(a < 0) & (r >= low) & (r <= 3)].sum()) / 2)

    way = [(0.6, 1.2 + 0.1 * k) for k in range(19)] + [(0.6 + 0.05 * k, 3.0) for k in range(1, 7)]
    low, high = next((bounds for bounds in way if reached(*bounds)), way[-1])
    assert way[0] != (low, high) != way[-1]  # a search
    inner = clipped(s.ratio, a, 1 - low, high - 1)
    return -tokens(torch.where(a < 0, torch.maximum(inner, 3 * a), inner), s.mask)


def trpa(s: Step) -> Tensor:
    """beta 0.1, 2.5 times that where the better answer is of level 1; k3 to the policy that sampled over all tokens."""
    delta = [row[m].mean() for row, m in zip(s.gap, s.mask)]
    level = s.batch.column("level").tolist()
    pairs = [
        F.softplus(-0.1 * (2.5 if level[i] == 1 else 1) * (delta[i] - delta[j]))
        for i, j in itertools.product(range(len(level)), repeat=2)
        if i // SAMPLES == j // SAMPLES and level[i] < level[j]
    ]
    return torch.stack(pairs).mean() + 1e-3 * tokens(k3(s.now - s.old), s.mask)


def ui_s1(s: Step) -> Tensor:
    """Samples are the steps 0 and 1 of the episodes 0 and 1; groups stay whose population std is above 0.3."""
    own, a, kept = s.batch.column("step_reward").tolist(), [], []
    for g in range(GROUPS):
        rewards, steps = s.reward[g * SAMPLES :][:SAMPLES], own[g * SAMPLES :][:SAMPLES]
        kept += [statistics.pstdev(rewards) > 0.3] * SAMPLES
        whole = standard([statistics.fmean(rewards[:2]), statistics.fmean(rewards[2:])])
        first = standard([x + 0.5 * y * (x >= 0.9) for x, y in (steps[:2], steps[2:])])
        second = standard([steps[1], steps[3]])
        a += [whole[e] + part[e] for e in (0, 1) for part in (first, second)]
    return -tokens(clipped(s.ratio, column(a)), s.mask & torch.tensor(kept)[:, None])


def eapo(s: Step) -> Tensor:
    left = (s.batch.column("rounds") - s.batch.column("round")).tolist()
    return gspo(s, [r * 0.995**n for r, n in zip(s.reward, left)])


def top_entropy(s: Step) -> Tensor:
    """The fifth of the tokens with the highest entropy, of those that DAPO trains."""
    entropy = s.batch.feature("entropy")
    inside = sorted(entropy[s.loud].tolist(), reverse=True)
    return dapo(s, s.loud & (entropy >= inside[math.ceil(0.2 * len(inside)) - 1]))


def capo(s: Step) -> Tensor:
    a = s.by_group(s.reward, standard)
    gap2, fisher = s.batch.feature("prob_gap2"), s.batch.feature("fisher")
    policy = (0.05 * column(a) * gap2) ** 2 / 2
    objective = 0.05 * column(a) ** 2 * gap2 + 0.05**2 * column(a) ** 3 * (gap2**2 - fisher) / 2
    return grpo(s, s.mask & (policy < 1e-4) & (objective.abs() < 0.01))


def spine(s: Step) -> Tensor:
    """Tokens above each answer's Otsu threshold; their entropy is held within the median +- MAD, by 0.1 a nat."""
    entropy, kept = s.batch.feature("entropy"), torch.zeros_like(s.mask)
    for row, values in enumerate(entropy.tolist()):
        inside = [v for v, m in zip(values, s.mask[row]) if m]
        splits = {}
        for cut in sorted(inside)[:-1]:
            low, high = [v for v in inside if v <= cut], [v for v in inside if v > cut]
            splits[len(low) * len(high) * (statistics.fmean(high) - statistics.fmean(low)) ** 2] = cut
        kept[row] = s.mask[row] & (entropy[row] > splits[max(splits)])
    middle = statistics.median_low(entropy[kept].tolist())
    spread = statistics.median_low([abs(v - middle) for v in entropy[kept].tolist()])
    outside = (middle - spread - s.entropy).clamp(min=0) + (s.entropy - middle - spread).clamp(min=0)
    return grpo(s, kept) + 0.1 * tokens(outside, kept)


FORMS = [grpo, dr_grpo, dapo, gspo, cispo, scalerl, flow_grpo, rloo, topr, topr_token, reinforce_pp]
FORMS += [
    reinforce_pp_baseline,
    stable_reinforce,
    stable_reinforce_tokens,
    bapo,
    trpa,
    ui_s1,
    eapo,
    top_entropy,
    capo,
    spine,
]
WITH_KL = [grpo, dapo, flow_grpo, rloo, reinforce_pp, reinforce_pp_baseline, stable_reinforce]
CASES = [(form, 0.0) for form in FORMS] + [(form, 0.1) for form in WITH_KL]


@pytest.mark.parametrize(("form", "kl"), CASES, ids=lambda x: getattr(x, "__name__", x))
def test_a_step_of_a_preset_is_the_published_one(form, kl):
    given = numbers()
    if form is ui_s1:  # so small that some groups do not differ enough
        given = dataclasses.replace(given, reward=0.32 * given.reward)
    found = gradient(made(form.__name__, **({"kl_coef": kl} if kl else {})), given)
    parts = torch.autograd.grad(form(Step(given, kl)), (given.logp, given.entropy), allow_unused=True)
    expected = torch.stack([torch.zeros_like(given.logp) if part is None else part for part in parts])
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7 * float(expected.abs().max()))
