"""The processes of a run that is planned: as many as it would have, of which this one stands for the first."""

from __future__ import annotations

import os

import torch

from mmrl.core.reduce import local
from mmrl.training.processes import Processes


class PlannedProcesses(Processes):
    """One of `world` processes that are not there: nothing is started, and nobody answers."""

    def __init__(self, world: int) -> None:
        self.rank, self.world = 0, world
        self.device = torch.device("cpu")
        self._reduce = local


def processes_of_environment() -> int:
    """How many processes a launcher (torchrun, accelerate) has started, by what it has set; 1 without."""
    number = os.environ.get("WORLD_SIZE", "")
    return int(number) if number.isdecimal() and int(number) else 1
