"""One rollout as tensors: rewards, advantages, and the numbers of samples and actions that an algorithm asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmrl.config import ConfigError
from mmrl.core.advantage import estimate
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.filter import zero_variance
from mmrl.core.library import registry
from mmrl.core.reduce import Reduce, local
from mmrl.core.resolving import needs
from mmrl.modalities.adapter import Adapter
from mmrl.near import short
from mmrl.rewarding.run import table
from mmrl.seeds import seed_of
from mmrl.training.evaluation.conversations import sampled_actions
from mmrl.training.rollouts.collecting import KL
from mmrl.types import Group, Sample

# Features of the policy as it is before an update; all others are fixed by the rollout.
OF_THE_POLICY = frozenset({"logp", "entropy", "proxy_logp", "prob_gap2", "fisher"})
COMPUTED = OF_THE_POLICY | {"logp_reference", "token_class"}

# (samples, names) -> {name: [N, T]}, 0 where a trajectory ends.
Features = Callable[[Sequence[Sample], Iterable[str]], dict[str, Tensor]]


@dataclass(frozen=True)
class Experience:
    """One rollout as the core sees it: [N] rows of this process, [N, T] actions, F rewards.

    batch: what the functions of the core see. advantage: [N], or [N, T] where actions have their own.
    reward: [N], NaN for a sample without. names: of the rewards; scores: [N, F]; known: [N, F] bool, where a number.
    counted: [N] bool, the samples in the loss and in its denominators.
    replayed: [N] bool, those of them whose gradient is not zero.
    fresh: whether all were sampled by the weights of this step.
    """

    samples: list[Sample]
    batch: Batch
    advantage: Tensor
    reward: Tensor
    names: list[str]
    scores: Tensor
    known: Tensor
    counted: Tensor
    replayed: Tensor
    fresh: bool

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        weights: Mapping[str, float],
        algorithm: Algorithm,
        *,
        n_groups: int,
        reduce: Reduce = local,
        step: int = 0,
        features: Features | None = None,
        shuffle: int | None = None,
        draws: int | None = None,
        everyone: bool = False,
    ) -> Experience:
        """Advantages over the whole step: all processes, which must all call.

        groups: this process's, scored; a group's index is its place among the n_groups of all processes.
        weights: of the rewards by name; a KL that comes off them is the score "kl". step: the training step.
        features: computes what hooks need of the policy.
        shuffle: a seed by which rewards are shuffled over the samples, for a control run.
        draws: each sample is trained at so many times of the forward process, its actions in the place of those of its
            trajectory, of which nothing is read.
        everyone: samples without advantage have a gradient, too.
        """
        samples = [s for g in groups for s in g.samples]
        group = torch.tensor([g.index for g in groups for _ in g.samples], dtype=torch.int64)
        scores, valid, applicable = (torch.from_numpy(a) for a in table(groups, list(weights)))
        if shuffle is not None:
            three = torch.stack([scores.double(), valid.double(), applicable.double()])
            three = shuffled(three, group, n_groups, shuffle, reduce)
            scores, valid, applicable = three[0].to(scores), three[1].to(valid), three[2].to(applicable)
        logp_old, mask = padded(samples) if draws is None else undrawn(len(samples), draws)
        stale = any(sample.version != step for sample in samples)
        fresh = not reduce(torch.tensor(float(stale)), "max")  # of all, who compute features together
        known = valid.bool() & applicable.bool()
        early = early_needs(algorithm) & COMPUTED
        batch = Batch(
            group,
            n_groups,
            mask,
            reduce,
            scores={name: torch.where(known[:, f], scores[:, f].double(), torch.nan) for f, name in enumerate(weights)},
            truncated=torch.tensor([s.stop == "length" for s in samples], dtype=torch.bool),
            length=torch.tensor([sampled_actions(s) for s in samples], dtype=torch.int64),
            logp_old=logp_old,
            logp_sampler=stored(samples, "logp_sampler", mask, reduce) if draws is None else None,
            columns=columns(samples, needs(algorithm) - COMPUTED, reduce),
            features=(kept_features(samples, needs(algorithm) - COMPUTED, mask, reduce) if draws is None else {})
            | policy_features(samples, logp_old, early, features, fresh),
            step=step,
        )
        penalty = None
        if algorithm.kl_coef > 0 and algorithm.kl_place == "reward":
            penalty = algorithm.kl_coef * torch.tensor([s.scores[KL].value for s in samples], dtype=torch.float64)
        advantage, reward, counted = estimate(
            scores.double(),
            valid.bool(),
            torch.tensor(list(weights.values()), dtype=torch.float64),
            batch,
            algorithm,
            applicable=applicable.bool(),
            penalty=penalty,
        )
        largest = per_sample(advantage, mask)
        if algorithm.drop_zero_variance:
            counted = zero_variance(largest, counted, group, n_groups, reduce)
        # With a KL in the loss, or another term, samples without advantage have a gradient, too.
        silent = largest == 0 if not (everyone or _beside_advantages(algorithm)) else torch.zeros_like(counted)
        return cls(
            samples,
            batch,
            advantage.float(),
            reward,
            list(weights),
            scores,
            known,
            counted,
            counted & ~silent,
            fresh,
        )

    @property
    def mask(self) -> Tensor:
        """[N, T] bool: actions in the loss and in its denominators."""
        return self.batch.mask & self.counted[:, None]

    @property
    def valid(self) -> Tensor:
        """[N] bool: samples that have a reward."""
        return self.reward.isfinite()


def shuffled(values: Tensor, group: Tensor, n_groups: int, seed: int, reduce: Reduce) -> Tensor:
    """[K, N, F] values of samples, shuffled over the samples of all processes; group [N]. Every process must call."""
    counts = reduce(torch.bincount(group, minlength=n_groups), "sum")
    within = torch.tensor([int((group[:row] == group[row]).sum()) for row in range(len(group))], dtype=torch.int64)
    place = (counts.cumsum(0) - counts)[group] + within
    everyone = values.new_zeros(len(values), int(counts.sum()), values.shape[2])
    everyone[:, place] = values
    order = torch.randperm(everyone.shape[1], generator=torch.Generator().manual_seed(seed))
    return reduce(everyone, "sum")[:, order][:, place]


def annotate(experience: Experience) -> None:
    """Write rewards and advantages into the samples, for the report."""
    advantage = experience.advantage
    largest = per_sample(advantage, experience.batch.mask)
    for row, sample in enumerate(experience.samples):
        sample.reward = float(experience.reward[row]) if experience.valid[row] else None
        sample.advantage = float(largest[row])
        if advantage.ndim == 2 and sample.trajectory is not None:
            sample.advantages = advantage[row, : len(sample.trajectory.logp)].tolist()


def _beside_advantages(algorithm: Algorithm) -> bool:
    """Whether the loss has more than the policy's term."""
    return bool(algorithm.terms) or (algorithm.kl_coef > 0 and algorithm.kl_place == "loss")


def early_needs(algorithm: Algorithm) -> set[str]:
    """What the hooks that make advantages need, before any update."""
    early = ("shape", "filters", "advantage")
    return {n for field, hook in algorithm.hooks if field in early for n in registry(field).check(hook).needs}


def per_sample(advantage: Tensor, mask: Tensor) -> Tensor:
    """[N] for the report and for what has no signal: of actions with their own, the advantage farthest from 0."""
    if advantage.ndim == 1 or not advantage.shape[1]:
        return advantage if advantage.ndim == 1 else advantage.new_zeros(len(advantage))
    inside = torch.where(mask, advantage, 0.0)
    return inside.gather(1, inside.abs().argmax(1, keepdim=True))[:, 0]


def padded(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """(logp [N, T], mask [N, T]) of samples whose trajectories may differ in length."""
    longest = max((len(s.actions.logp) for s in samples), default=0)
    logp, mask = torch.zeros(len(samples), longest), torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, sample in enumerate(samples):
        length = len(sample.actions.logp)
        logp[row, :length], mask[row, :length] = sample.actions.logp, sample.actions.mask
    return logp, mask


def undrawn(n: int, draws: int) -> tuple[Tensor, Tensor]:
    """(logp [N, draws] of nothing, mask [N, draws]) of samples that are trained at so many draws each."""
    return torch.zeros(n, draws), torch.ones(n, draws, dtype=torch.bool)


def stored(samples: Sequence[Sample], name: str, mask: Tensor, reduce: Reduce) -> Tensor | None:
    """[N, T] of what trajectories store per action under `name`, 0 where they end; None unless all have it.

    All of every process: one without samples must go the way of the others.
    """
    rows = [s.actions.tensors.get(name) for s in samples]
    without = sum(row is None or row.ndim != 1 for row in rows)
    count, lacking = reduce(torch.tensor([len(rows), without]), "sum").tolist()
    if lacking or not count:
        return None
    found = torch.zeros(mask.shape, dtype=torch.float32)
    for line, row in zip(found, rows):
        if row is not None:
            line[: len(row)] = row
    return found


def kept_features(samples: Sequence[Sample], names: Iterable[str], mask: Tensor, reduce: Reduce) -> dict[str, Tensor]:
    """Those of the names that the trajectories store per action."""
    found = {name: stored(samples, name, mask, reduce) for name in sorted(names)}
    return {name: values for name, values in found.items() if values is not None}


def columns(samples: Sequence[Sample], names: Iterable[str], reduce: Reduce = local) -> dict[str, Tensor]:
    """Those of the names that a score's details, the environment's info or the prompt's record give; NaN elsewhere.

    A text becomes a whole number that is the same for equal texts, on every process. "version" is the training step
    whose weights drew the sample, "id" the record's id, and "pair" another record's. Raises ConfigError for what is
    neither a number nor a text.
    """
    found = {}
    for name in sorted(names):
        values = [s.version if name == "version" else _number(s, name) for s in samples]
        known = any(value is not None for value in values)
        if reduce(torch.tensor(float(known)), "max"):
            given = [torch.nan if value is None else float(value) for value in values]
            found[name] = torch.tensor(given, dtype=torch.float64)
    return found


def _number(sample: Sample, name: str) -> float | None:
    if name in ("id", "pair"):
        record = sample.prompt.id if name == "id" else sample.prompt.record.get("pair")
        return None if record is None else float(seed_of("id", record) % 2**52)
    places = {f"details of the score {score!r}": of.details for score, of in sample.scores.items()}
    places |= {"info of its environment": sample.info, "record": sample.prompt.record}
    for place, source in places.items():
        value = source.get(name)
        if value is None:
            continue
        try:
            return seed_of(name, value) % 2**52 if isinstance(value, str) else float(value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(
                f"prompt {sample.prompt.id!r:.60}: `{name}`, which the algorithm reads, is {short(value)} in the "
                f"{place}; give a number or a text, or leave it out where there is none"
            ) from None
    return None


def policy_features(
    samples: Sequence[Sample], logp_old: Tensor, names: Iterable[str], features: Features | None, fresh: bool
) -> dict[str, Tensor]:
    """[N, T] features of the policy as it is now, without gradient.

    fresh: nothing was updated since the rollout, so that "logp" is what was stored.
    Raises ValueError where there is nothing to compute them with.
    """
    found = {"logp": logp_old} if "logp" in names and fresh else {}
    rest = sorted(set(names) - set(found))
    if not rest:
        return found
    if features is None:
        raise ValueError(f"the algorithm needs {', '.join(rest)} of every action; give `features` to compute them with")
    return found | features(samples, rest)


def adapter_features(adapter: Adapter, micro_batch: int) -> Features:
    """Features that the adapter computes, micro-batch by micro-batch."""

    def compute(samples: Sequence[Sample], names: Iterable[str]) -> dict[str, Tensor]:
        logp, _ = padded(samples)
        wanted = sorted(names)
        found = {name: torch.zeros(logp.shape) for name in wanted}
        for part in adapter.slices(samples, micro_batch):
            made = adapter.features([samples[r] for r in part.rows], part.columns, wanted)
            for name in wanted:
                found[name][part.rows[:, None], part.columns[None, :]] = made[name].float().cpu()
        return found

    return compute
