"""A learner: parameters that an optimizer moves, with its schedule and averaged weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.config import OptimConfig
from mmrl.training import optim
from mmrl.training.processes import Processes
from mmrl.training.tensors import copy_into, under


class NonFiniteError(RuntimeError):
    """A loss, a gradient or weights that are not numbers; says whether they reached the weights."""


class Learner:
    """Parameters, their optimizer, learning rate and average. A stage holds one, or several by name.

    name: what a checkpoint and error messages call it.
    updates: optimizer steps that its schedule is over.
    """

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, nn.Parameter],
        options: OptimConfig,
        updates: int,
        processes: Processes,
    ) -> None:
        self.name, self.options, self.updates, self.processes = name, options, updates, processes
        self.parameters = dict(parameters)
        self.optimizer = optim.build(options, self.parameters)
        self.average = optim.Average(options.ema, self.parameters) if options.ema else None
        self.steps = 0  # that are done
        self.rate = 0.0  # of the last one

    def step(self) -> float:
        """Sum gradients over processes, clip, step, average; returns the norm before clipping.

        Raises NonFiniteError, before the weights are touched, for a norm that is not finite.
        """
        self.processes.sum_gradients(self.parameters.values())
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.options.max_grad_norm)
        if not torch.isfinite(norm):
            raise NonFiniteError(f"gradient norm of {self.name} is {float(norm)}")
        self.rate = optim.learning_rate(self.options, self.steps, self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.step()
        self.forget_gradient()
        self.steps += 1
        if self.average:
            self.average.update(self.steps)
        return float(norm)

    def forget_gradient(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def refuse_non_finite(self) -> None:
        """Raise NonFiniteError where a weight is no number."""
        norms = torch._foreach_norm([p.detach() for p in self.parameters.values() if p.numel()])
        if norms and not bool(torch.isfinite(torch.stack([n.float().cpu() for n in norms])).all()):
            raise NonFiniteError(
                f"weights of {self.name} are not finite after {self.steps} optimizer steps; they are not saved: lower "
                "optim.lr, and go on from the last checkpoint with --resume"
            )

    # ---------------------------------------------------------------- a part of a checkpoint

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "rate": self.rate}

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
            found |= {f"ema/{k}": v for k, v in self.average.values.items()}
        return found

    @torch.no_grad()
    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """The inverse. Raises CheckpointError for a tensor that is missing, or of another shape."""
        self.steps, self.rate = state["steps"], state["rate"]
        where = f"learner {self.name}"
        copy_into(self.parameters, under(tensors, "param/"), where)
        if self.average:
            copy_into(self.average.values, under(tensors, "ema/"), f"{where}, averages")
        gradients = under(tensors, "grad/")
        for key, parameter in self.parameters.items():
            parameter.grad = gradients[key].to(parameter) if key in gradients else None
            remembered = under(tensors, f"optim/{key}/")
            if remembered:
                self.optimizer.state[parameter] = {
                    k: v.clone() if k == "step" else v.to(parameter.device, copy=True) for k, v in remembered.items()
                }


@contextmanager
def averaged(learners: Iterable[Learner]) -> Iterator[None]:
    """Inside, the parameters are their averages, where there are any: what is evaluated, saved and handed on."""
    averages: Sequence[optim.Average] = [learner.average for learner in learners if learner.average]
    for average in averages:
        average.swap()
    try:
        yield
    finally:
        for average in averages:
            average.swap()
