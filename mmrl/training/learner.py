"""A learner: parameters that an optimizer moves, with its schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.config import ConfigError, FollowConfig, OptimConfig
from mmrl.modalities.acting import copies, exchange
from mmrl.modalities.adapter import Adapter
from mmrl.training import optim
from mmrl.training.following import Follower
from mmrl.training.processes import Processes
from mmrl.training.tensors import copy_into, refuse_misfit, under


class NonFiniteError(RuntimeError):
    """A loss, a gradient or weights that are not numbers; says whether they reached the weights."""


def refuse_non_finite(what: str, loss: float, step: int, ids: Iterable[str]) -> None:
    """Raises NonFiniteError for a loss that is no number. step: of the stage, from 1. ids: of the records behind it."""
    if not math.isfinite(loss):
        where = f"at step {step}, records {', '.join(list(ids)[:8])}"
        raise NonFiniteError(f"{what} is {loss} {where}; lower optim.lr or look at these records")


class Learner:
    """Parameters, their optimizer, learning rate and average; what trains a role.

    name: what error messages call it.
    updates: optimizer steps that its schedule is over.
    adapter: whose weights, or a role's in their place, the parameters are.
    """

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, nn.Parameter],
        options: OptimConfig,
        updates: int,
        processes: Processes,
        adapter: Adapter | None = None,
    ) -> None:
        self.adapter = adapter
        self.name, self.options, self.updates, self.processes = name, options, updates, processes
        self.parameters = dict(parameters)
        self.optimizer = optim.build(options, self.parameters, adapter.shards if adapter else None)
        self.average = self._averaging(options.ema) if options.ema else None
        self.steps = 0  # that are done
        self.rate = 0.0  # of the last one

    def step(self) -> float:
        """Sum gradients over processes, clip, step, average; returns the norm before clipping.

        Raises NonFiniteError, before the weights are touched, for a norm that is not finite; RuntimeError while others
        than the policy act, as parameters hold each other's weights then.
        """
        if self.adapter and not self.adapter.policy_acts:
            raise RuntimeError(f"a step of {self.name} inside of a block `acting`: take it behind the block")
        norm = self._summed()
        if not torch.isfinite(norm):
            raise NonFiniteError(f"gradient norm of {self.name} is {float(norm)}")
        self.rate = optim.learning_rate(self.options, self.steps, self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group.get("ratio", 1.0)
        self.optimizer.step()
        self.forget_gradient()
        self.steps += 1
        if self.average:
            self.average.follow(self.steps)
        return float(norm)

    def _summed(self) -> Tensor:
        """Sum gradients over processes and clip them; returns the norm before."""
        shards, parameters = self.adapter.shards if self.adapter else None, self.parameters.values()
        if shards is None:
            self.processes.sum_gradients(parameters)
            return nn.utils.clip_grad_norm_(parameters, self.options.max_grad_norm)
        shards.collect()
        self.processes.sum_gradients(p for p in parameters if not hasattr(p, "rows"))
        norm = shards.norm(parameters)
        nn.utils.clip_grads_with_norm_(parameters, self.options.max_grad_norm, norm)
        return norm

    def _averaging(self, decay: float) -> Follower:
        return Follower(FollowConfig(decay=decay, rise="average"), copies(self.parameters), self.parameters)

    def swap_average(self) -> None:
        """The parameters become their averages, where there are any; a second call puts them back."""
        if self.average:
            exchange(self.parameters, self.average.weights)

    def forget_gradient(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def refuse_non_finite(self, step: int | None = None) -> None:
        """Raise NonFiniteError where a weight is no number; step: of the run, for the message."""
        norms = torch._foreach_norm([p.detach() for p in self.parameters.values() if p.numel()])
        odd = bool(norms) and not bool(torch.isfinite(torch.stack([n.float().cpu() for n in norms])).all())
        if self.adapter is not None and self.adapter.shards is not None:  # each process looks at its own parts
            odd = self.processes.any(odd)
        if odd:
            raise NonFiniteError(
                f"weights of {self.name} are not finite after {self.steps} optimizer steps"
                f"{f' (step {step})' if step else ''}; they are neither saved nor evaluated: lower the stage's "
                "optim.lr, and go on from the last checkpoint with --resume --allow stages.NAME.optim.lr"
            )

    # ---------------------------------------------------------------- a part of a checkpoint

    def state(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "rate": self.rate,
            "optimizer": self.options.name,
            "remembered": self._remembered(),
            "averaged": self.average is not None,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Weights, gradients so far, what the optimizer remembers, averages."""
        found: dict[str, Tensor] = {f"param/{k}": p for k, p in self.parameters.items()}
        found |= {f"grad/{k}": p.grad for k, p in self.parameters.items() if p.grad is not None}
        found |= {
            f"optim/{key}/{what}": torch.as_tensor(value)
            for key, parameter in self.parameters.items()
            for what, value in self.optimizer.state.get(parameter, {}).items()
        }
        if self.average:
            found |= {f"ema/{k}": v for k, v in self.average.weights.items()}
        return found

    @torch.no_grad()
    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """The inverse. Raises CheckpointError, before anything changes, for a tensor that is missing or does not fit.

        Another optimizer than was saved begins with nothing remembered, an average that was not there before with the
        weights.
        """
        where = f"learner {self.name}"
        weights, gradients = under(tensors, "param/"), under(tensors, "grad/")
        refuse_misfit(self.parameters, weights, where)
        refuse_misfit({k: p for k, p in self.parameters.items() if k in gradients}, gradients, f"{where}, gradients")
        remembered = self._fitting(state, tensors, where) if state["optimizer"] == self.options.name else {}
        averages = under(tensors, "ema/") if state["averaged"] else weights
        if self.average:
            copy_into(self.average.weights, averages, f"{where}, averages")
        copy_into(self.parameters, weights, where)
        self.steps, self.rate = state["steps"], state["rate"]
        for key, parameter in self.parameters.items():
            parameter.grad = gradients[key].to(parameter) if key in gradients else None
            if key in remembered:
                self.optimizer.state[parameter] = self._remembering(parameter, remembered[key])

    def _remembering(self, parameter: nn.Parameter, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the optimizer kept, where it wants it: a fused one counts steps where the parameter is."""
        groups = self.optimizer.param_groups
        counts = any(group.get("fused") and any(p is parameter for p in group["params"]) for group in groups)
        on_cpu = set() if counts else {"step"}
        return {k: v.clone() if k in on_cpu else v.to(parameter.device, copy=True) for k, v in kept.items()}

    def _remembered(self) -> dict[str, list[str]]:
        """What the optimizer keeps, by the parameter's name."""
        kept = {key: self.optimizer.state.get(parameter, {}) for key, parameter in self.parameters.items()}
        return {key: sorted(values) for key, values in kept.items() if values}

    def _fitting(
        self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
    ) -> dict[str, dict[str, Tensor]]:
        """What the optimizer kept by parameter and name; all of it, each a number or of the parameter's shape."""
        found = {}
        for key, names in state["remembered"].items():
            kept = found[key] = under(tensors, f"optim/{key}/")
            shape = self.parameters[key].shape
            wanted = {
                n: kept[n] if n in kept and not kept[n].ndim else torch.empty(shape, device="meta") for n in names
            }
            refuse_misfit(wanted, kept, f"{where}, optimizer's state of {key}")
        return found


def refuse_shared_averages(learners: Iterable[Learner]) -> None:
    """Raise ConfigError where two learners move a parameter of which one keeps an average: which were the weights?"""
    seen: dict[int, Learner] = {}
    for learner in learners:
        for name, parameter in learner.parameters.items():
            other = seen.setdefault(id(parameter), learner)
            if other is not learner and (other.average or learner.average):
                raise ConfigError(
                    f"learners {other.name} and {learner.name} both move {name}, of which an average is kept; set "
                    "optim.ema: null, or give them parameters of their own"
                )


@contextmanager
def averaged(learners: Iterable[Learner]) -> Iterator[None]:
    """Inside, the parameters are their averages, where there are any: what is evaluated, saved and handed on."""
    learners = list(learners)
    for learner in learners:
        learner.swap_average()
    try:
        yield
    finally:
        for learner in learners:
            learner.swap_average()
