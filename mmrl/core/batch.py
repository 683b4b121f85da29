"""The batch: one step's samples of this process, as every function of the core sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmrl.core.reduce import Reduce, local


@dataclass(frozen=True)
class Batch:
    """N samples with up to T actions each. Functions read it and never change it.

    group: [N] int64, global index of each sample's group; n_groups over all processes.
    mask: [N, T] bool, True where an action is trained.
    reduce: the door for statistics over processes.
    truncated: [N] bool, True where the sample was cut off by a budget.
    length: [N] int64, sampled actions; None takes the trained ones.
    scores: reward name -> [N] float64, NaN where the sample has no number.
    logp_old: [N, T], log-prob under the policy that the ratio is measured against.
    logp_sampler: [N, T], log-prob that the sampler reported, where another engine or older weights sampled.
    columns: name -> [N], numbers of a sample: "stratum", "level", "version", "round" ...
    features: name -> [N, T], numbers of an action: "entropy", "logp", "logp_reference", "proxy_logp", "step" ...
    step: the training step, from 0.
    """

    group: Tensor
    n_groups: int
    mask: Tensor
    reduce: Reduce = local
    truncated: Tensor | None = None
    length: Tensor | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    logp_old: Tensor | None = None
    logp_sampler: Tensor | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    features: Mapping[str, Tensor] = field(default_factory=dict)
    step: int = 0

    def __len__(self) -> int:
        return len(self.group)

    @property
    def lengths(self) -> Tensor:
        """[N] int64: sampled actions of each sample."""
        return self.mask.sum(1) if self.length is None else self.length

    def column(self, name: str) -> Tensor:
        """[N] numbers of each sample. Raises ValueError, naming what there is, without them."""
        return _get(self.columns, name, "column", "give it in the records, or by the modality")

    def feature(self, name: str) -> Tensor:
        """[N, T] numbers of each action. Raises ValueError, naming what there is, without them."""
        return _get(self.features, name, "feature", "the modality's `features` must compute it")

    def score(self, name: str) -> Tensor:
        """[N] values of one reward, NaN without a number. Raises ValueError, naming the rewards, without it."""
        return _get(self.scores, name, "reward", "name one of the configured rewards")

    def needed(self, name: str, tensor: Tensor | None) -> Tensor:
        """`tensor`, or a ValueError that says which input of the batch is missing."""
        if tensor is None:
            raise ValueError(f"this batch has no {name}; the algorithm needs it")
        return tensor

    def having(self, *, columns: Mapping[str, Tensor] = {}, features: Mapping[str, Tensor] = {}) -> Batch:
        """The batch with more columns or features."""
        return dataclasses.replace(self, columns={**self.columns, **columns}, features={**self.features, **features})

    def at(self, rows: Tensor, columns: Tensor) -> Batch:
        """The micro-batch of these rows [b] and actions [t]. Its statistics would be those of the micro-batch:
        whatever needs the whole batch must be computed before."""
        where = (rows[:, None], columns[None, :])

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[where]

        return dataclasses.replace(
            self,
            group=self.group[rows],
            mask=self.mask[where],
            truncated=None if self.truncated is None else self.truncated[rows],
            length=self.lengths[rows],
            scores={name: x[rows] for name, x in self.scores.items()},
            logp_old=cut(self.logp_old),
            logp_sampler=cut(self.logp_sampler),
            columns={name: x[rows] for name, x in self.columns.items()},
            features={name: x[where] for name, x in self.features.items()},
        )

    def to(self, device: torch.device) -> Batch:
        """The batch on a device. Nobody waits until it is on a GPU, whose stream has it before all that is behind."""
        ahead = device.type == "cuda"

        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=ahead)

        def moved(table: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: x.to(device, non_blocking=ahead) for name, x in table.items()}

        return dataclasses.replace(
            self,
            group=self.group.to(device, non_blocking=ahead),
            mask=self.mask.to(device, non_blocking=ahead),
            truncated=move(self.truncated),
            length=move(self.length),
            scores=moved(self.scores),
            logp_old=move(self.logp_old),
            logp_sampler=move(self.logp_sampler),
            columns=moved(self.columns),
            features=moved(self.features),
        )


def _get(found: Mapping[str, Tensor], name: str, kind: str, fix: str) -> Tensor:
    if name not in found:
        raise ValueError(f"the batch has no {kind} {name!r} (it has {', '.join(found) or 'none'}); {fix}")
    return found[name]


def full(group: Tensor, n_groups: int | None = None, actions: int = 1, reduce: Reduce = local) -> Batch:
    """A batch of samples without padding, for scripts and tests: group [N], `actions` trained actions each."""
    count = int(group.max()) + 1 if n_groups is None else n_groups
    return Batch(group, count, torch.ones(len(group), actions, dtype=torch.bool), reduce)
