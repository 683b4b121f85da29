"""The processes of a run that is planned: as many as it would have, of which this one stands for the first."""

from __future__ import annotations

from typing import Any

import torch

from mmrl.core.reduce import local
from mmrl.training.processes import Processes


class PlannedProcesses(Processes):
    """One of `world` processes that are not there: nothing is started, and nobody answers."""

    def __init__(self, world: int) -> None:
        self.rank, self.world = 0, world
        self.device = torch.device("cpu")
        self._reduce = local

    def gather(self, value: Any) -> list[Any]:
        """The others would say the same."""
        return [value] * self.world
