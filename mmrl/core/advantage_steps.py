"""Estimators that look inside a sample or a group: strata, turns of a conversation, macro actions, tokens.

All but `stratified` and `step_rows` return [N, T] float64, a number for each action: 0 for invalid samples, and where
the mask is False. Importing mmrl.core.advantage registers them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.estimator import ESTIMATORS, agreed, divisor, normalised, without_outliers
from mmrl.core.groups import batch_mean, batch_std, group_count, group_mean, group_sum
from mmrl.core.reduce import local
from mmrl.core.registry import PRESENT, above, at_least, between


@ESTIMATORS.add("stratified", needs=("stratum",), certainty="C", alpha=between(0, 1))
def stratified(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm, *, alpha: float = 0.7) -> Tensor:
    """alpha z_k + (1 - alpha) z_g, normalised inside the stratum of the group and inside the group: SAN.

    Stratified GRPO; the stratum, column "stratum" of whole numbers from 0, is the number of search calls in the
    paper. alpha is recalled. A stratum of one valid sample, or without spread, adds 0 (ours).
    Raises ValueError, on every rank, for other strata.
    """
    given = torch.where(valid, batch.column("stratum").double(), 0.0)
    if agreed(((given < 0) | (given != given.round())).any(), batch):
        raise ValueError("advantage 'stratified': column 'stratum' must hold whole numbers from 0")
    stratum, count = _dense(given.long(), batch)
    inside = normalised(rewards, valid, batch.group * count + stratum, batch.n_groups * count, batch.reduce, algorithm)
    whole = normalised(rewards, valid, batch.group, batch.n_groups, batch.reduce, algorithm)
    return alpha * inside + (1 - alpha) * whole


@ESTIMATORS.add(
    "step_episode",
    needs=("step", "step_reward"),
    certainty="A",
    gamma=between(0, 1),
    episode_weight=at_least(0),
    step_weight=at_least(0),
)
def step_episode(
    rewards: Tensor,
    valid: Tensor,
    batch: Batch,
    algorithm: Algorithm,
    *,
    gamma: float = 0.5,
    correct: float = 1.0,
    episode_weight: float = 1.0,
    step_weight: float = 1.0,
) -> Tensor:
    """episode_weight z(R) in the group + step_weight z(return of the step) among the group's same steps: UI-S1.

    The return of step t is r_t + gamma r_(t+1) + ..., and nothing after a wrong step (reward below `correct`)
    counts for the steps up to it. Feature "step": index of each action's turn, -1 for none (such actions get the
    episode's part alone). Feature "step_reward": the reward of that turn, equal at all its actions; NaN, a reward
    that failed, leaves that step and those whose return it enters out. gamma 0.5 is the release's; the weights
    are ours. Raises ValueError, on every rank, where a step's actions disagree on its reward.
    """
    step, steps = _dense(_index(batch, "step"), batch)
    low, high = (_per_step(batch.feature("step_reward"), step, steps, how) for how in ("amin", "amax"))
    present = high != -torch.inf
    if agreed((present & (low != high) & ~high.isnan()).any(), batch):
        raise ValueError("advantage 'step_episode': the actions of a step must have equal 'step_reward'")
    returns = torch.where(present, high, torch.nan)
    for t in reversed(range(steps - 1)):
        goes_on = present[:, t + 1] & ~(high[:, t] < correct)
        returns[:, t] += torch.where(goes_on, gamma * returns[:, t + 1], 0.0)

    key = (batch.group[:, None] * steps + torch.arange(steps, device=step.device)).flatten()
    ok = (valid[:, None] & returns.isfinite()).flatten()
    z = normalised(returns.flatten(), ok, key, batch.n_groups * steps, batch.reduce, algorithm)
    episode = normalised(rewards, valid, batch.group, batch.n_groups, batch.reduce, algorithm)
    own = _at_actions(z.reshape(len(batch), steps), step)
    return torch.where(batch.mask, episode_weight * episode[:, None] + step_weight * own, 0.0)


@ESTIMATORS.add(
    "step_rows",
    needs=("step", "episode", "step_reward"),
    certainty="A",
    gamma=between(0, 1),
    episode_weight=at_least(0),
    step_weight=at_least(0),
)
def step_rows(
    rewards: Tensor,
    valid: Tensor,
    batch: Batch,
    algorithm: Algorithm,
    *,
    gamma: float = 0.5,
    correct: float = 0.9,
    episode_weight: float = 1.0,
    step_weight: float = 1.0,
    released: bool = False,
) -> Tensor:
    """`step_episode` where each step is a sample of its own: UI-S1 as it is released.

    Columns "episode" and "step", whole numbers from 0, say which episode of its group and which step of that a sample
    is; an episode is worth the mean reward of its samples. Column "step_reward", as in `step_episode`; UI-S1's is 0.9
    or more for a right step.
    released: as the published code has it, in which the episode's part compares each sample's own reward with all of
    the group, and a wrong step's reward does not count for the step before it either.
    Raises ValueError, on every rank, for other columns and for two samples of one step of one episode.
    """
    row, steps = _whole(batch, "step", valid)
    episode, episodes = _whole(batch, "episode", valid)
    present = (row >= 0) & (episode >= 0)
    of_episode = batch.group * episodes + episode.clamp(min=0)
    key = of_episode * steps + row.clamp(min=0)
    n_episodes, n_steps = batch.n_groups * episodes, batch.n_groups * episodes * steps

    count = group_count(present, key, n_steps, batch.reduce)
    if (count > 1).any():
        raise ValueError("advantage 'step_rows': two samples are the same `step` of the same `episode`")
    own = torch.where(present, batch.column("step_reward").double(), 0.0)
    returns = torch.where(count > 0, group_sum(own, key, n_steps, batch.reduce), torch.nan).reshape(-1, steps)
    wrong, known = returns < correct, count.reshape(-1, steps) > 0
    for t in reversed(range(steps - 1)):
        goes_on = known[:, t + 1] & ~wrong[:, t] & ~(wrong[:, t + 1] & released)
        returns[:, t] += torch.where(goes_on, gamma * returns[:, t + 1], 0.0)

    # From here on every rank has all numbers.
    place = torch.arange(n_steps, device=key.device)
    ok = (group_count(valid & present, key, n_steps, batch.reduce) > 0) & returns.flatten().isfinite()
    same_step = place // (episodes * steps) * steps + place % steps
    z = normalised(returns.flatten(), ok, same_step, batch.n_groups * steps, local, algorithm)
    if released:
        whole = normalised(rewards, valid, batch.group, batch.n_groups, batch.reduce, algorithm)
    else:
        score = group_mean(rewards, valid, of_episode, n_episodes, batch.reduce)
        scored = group_count(valid, of_episode, n_episodes, batch.reduce) > 0
        group = torch.arange(n_episodes, device=key.device) // episodes
        whole = normalised(score, scored, group, batch.n_groups, local, algorithm)[of_episode]
    return torch.where(valid, episode_weight * whole + step_weight * z[key], 0.0)


@ESTIMATORS.add(
    "macro", needs=("segment",), certainty="D", gamma=between(0, 1), only_if={"gamma": ("reward_feature", PRESENT)}
)
def macro(
    rewards: Tensor,
    valid: Tensor,
    batch: Batch,
    algorithm: Algorithm,
    *,
    gamma: float = 1.0,
    reward_feature: str | None = None,
) -> Tensor:
    """One advantage per macro action, (G - mean) / (std + eps) over the macro actions of the group.

    After MA-RLHF, whose critic is left out: the return of macro action k of a sample with reward R is
    G_k = m_k + gamma m_(k+1) + ... + R, where m is the mean over its actions of the feature `reward_feature`
    (0 without one). Feature "segment": index of each action's macro action from 0, -1 for none, which gets 0.
    """
    segment, count = _dense(_index(batch, "segment"), batch)
    own = torch.zeros_like(segment, dtype=torch.float64)
    if reward_feature is not None:
        own = batch.feature(reward_feature).double()
    length = _per_step(torch.ones_like(own), segment, count, "sum")
    returns = _per_step(own, segment, count, "sum") / length.clamp(min=1)
    for k in reversed(range(count - 1)):
        returns[:, k] += gamma * returns[:, k + 1]
    returns = returns + rewards[:, None]

    ok = (valid[:, None] & (length > 0) & returns.isfinite()).flatten()
    key = batch.group[:, None].expand(-1, count).flatten()
    z = normalised(returns.flatten(), ok, key, batch.n_groups, batch.reduce, algorithm)
    return _at_actions(z.reshape(len(batch), count), segment)


@ESTIMATORS.add("whiten_tokens", needs=("logp_reference",), certainty="A", beta=at_least(0))
def whiten_tokens(rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm, *, beta: float = 0.01) -> Tensor:
    """REINFORCE++ (arXiv 2501.03262) per token: R - beta (k1 of this and the later actions), whitened over all
    valid actions of the batch.

    k1 = logp_old - logp_reference (feature). The discount is 1. beta is this option, apart from kl_coef.
    """
    return _whitened_returns(rewards, valid, batch, algorithm, beta)[0]


@ESTIMATORS.add("outlier_filter_tokens", needs=("logp_reference",), certainty="A", beta=at_least(0), limit=above(0))
def outlier_filter_tokens(
    rewards: Tensor,
    valid: Tensor,
    batch: Batch,
    algorithm: Algorithm,
    *,
    beta: float = 1e-3,
    limit: float = 3.0,
    released: bool = False,
) -> Tensor:
    """`whiten_tokens`, and 0 where |z| > limit: StableReinforce (R1-Reward) with its KL, token by token.

    beta is its script's. released: the published code's condition, see `outlier_filter`.
    """
    z, mean = _whitened_returns(rewards, valid, batch, algorithm, beta)
    return without_outliers(z, mean, limit, released)


def _whitened_returns(
    rewards: Tensor, valid: Tensor, batch: Batch, algorithm: Algorithm, beta: float
) -> tuple[Tensor, Tensor]:
    """([N, T] z of each action's return, the mean of the returns)."""
    old = batch.needed("logp_old", batch.logp_old).double()
    k1 = torch.where(batch.mask, old - batch.feature("logp_reference").double(), 0.0)
    returns = rewards[:, None] - beta * k1.flip(1).cumsum(1).flip(1)
    ok = (batch.mask & valid[:, None]).flatten()
    flat = returns.flatten()
    mean, std = batch_mean(flat, ok, batch.reduce), batch_std(flat, ok, batch.reduce, algorithm.ddof)
    apart = torch.where(ok, flat - mean, 0.0)
    white = apart * (std > algorithm.std_floor) / divisor(std + algorithm.std_eps)
    return white.reshape(returns.shape), mean


def _index(batch: Batch, name: str) -> Tensor:
    """[N, T] int64 of a feature of indices, -1 where the mask is False."""
    return torch.where(batch.mask, batch.feature(name), -1).long()


def _whole(batch: Batch, name: str, valid: Tensor) -> tuple[Tensor, int]:
    """([N] int64 of a column of whole numbers from 0, -1 for an invalid sample without one; how many on any rank)."""
    given = batch.column(name).double()
    fits = (given >= 0) & (given == given.round()) & given.isfinite()
    if agreed((valid & ~fits).any(), batch):
        raise ValueError(f"column {name!r} must hold whole numbers from 0")
    return _dense(torch.where(fits, given, -1.0).long(), batch)


def _dense(index: Tensor, batch: Batch) -> tuple[Tensor, int]:
    """The index, and how many values from 0 it may take on any rank (1 or more)."""
    top = index.max() if index.numel() else torch.tensor(0, device=index.device)
    return index, int(batch.reduce(top.clamp(min=0).double(), "max")) + 1


def _per_step(values: Tensor, index: Tensor, count: int, how: str) -> Tensor:
    """[N, count] float64: values [N, T] of the actions of each index (-1 is none) put together by `how`."""
    start = {"sum": 0.0, "amax": -torch.inf, "amin": torch.inf}[how]
    found = torch.full((len(values), count + 1), start, dtype=torch.float64, device=values.device)
    return found.scatter_reduce(1, index % (count + 1), values.double(), how)[:, :count]


def _at_actions(values: Tensor, index: Tensor) -> Tensor:
    """[N, T]: values [N, count] at each action's index, 0 where that is -1."""
    return torch.where(index >= 0, values.gather(1, index.clamp(min=0)), 0.0)
