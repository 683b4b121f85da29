"""Muon for the matrices of repeated blocks, AdamW for everything else: one optimizer to whoever steps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from mmrl.config import ConfigError
from mmrl.modalities.acting import rows_of
from mmrl.modalities.shards import Shards
from mmrl.training.adamw import adamw

# Options of a group that torch's Muon takes.
MUON = ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")


class MuonAdamW(torch.optim.Optimizer):
    """torch's own Muon (Jordan et al. 2024) beside torch's own AdamW, with one state and one list of groups.

    matrices: what `is_hidden_matrix` says of parameters by name; they move by an orthogonalised momentum whose size is
        matched to AdamW's (0.2 times the root of the longer side; Liu et al. 2025, arXiv 2502.16982), at `ratio` times
        the learning rate. Embeddings, heads, vectors and convolutions are AdamW's.
    shards: how weights are divided, of which the parameters are parts then. Each matrix is gathered for its step, whose
        direction is of the whole of it, and every process makes that step.
    betas, eps: AdamW's. momentum: Muon's. weight_decay: of both, decoupled.

    Raises ConfigError where no parameter is a hidden matrix.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        momentum: float,
        ratio: float,
        shards: Shards | None = None,
    ) -> None:
        self.shards = shards
        matrices = [p for name, p in parameters.items() if is_hidden_matrix(name, p)]
        others = [p for name, p in parameters.items() if not is_hidden_matrix(name, p)]
        if not matrices:
            raise ConfigError(
                "optim.name: muon moves the matrices of repeated blocks, and none is trained here; take adamw"
            )
        super().__init__(parameters.values(), {"lr": lr})
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices,
                lr=lr,
                weight_decay=weight_decay,
                momentum=momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        ]
        if others:
            self.parts.append(adamw(others, lr, betas, eps, weight_decay))
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.parts[0].param_groups[0]["ratio"] = ratio
        for part in self.parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.shards is None:
            self.parts[0].step()
        else:
            for matrix in self.parts[0].param_groups[0]["params"]:
                self._gathered_step(matrix, self.shards)
        for part in self.parts[1:]:
            part.step()
        return loss

    def _gathered_step(self, part: nn.Parameter, shards: Shards) -> None:
        """Muon's step of one matrix, made of all its rows; this process keeps its own."""
        if part.grad is None:  # on all processes
            return
        rows, is_divided = rows_of(part), hasattr(part, "rows")

        def gathered(mine: torch.Tensor) -> torch.Tensor:
            return shards.gather_rows(mine, rows) if is_divided else mine

        def own(whole: torch.Tensor) -> torch.Tensor:
            return shards.cut(whole).clone() if is_divided else whole

        whole = nn.Parameter(gathered(part.detach()))
        whole.grad = gathered(part.grad)
        options = self.parts[0].param_groups[0]
        alone = torch.optim.Muon([whole], **{name: options[name] for name in MUON})
        alone.state[whole] = {name: gathered(kept) for name, kept in self.state[part].items()}
        alone.step()
        part.copy_(own(whole))
        self.state[part] = {name: own(kept) for name, kept in alone.state[whole].items()}


def is_hidden_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Whether it is a matrix of a block that is repeated: a part of its dotted name is a number."""
    return parameter.ndim == 2 and any(part.isdecimal() for part in name.split("."))
