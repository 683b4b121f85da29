"""What a stage takes, from its sizes to words."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from mmrl.training.estimate.memory import Sizes, checkpoint, largest_phase, phases, shown
from mmrl.training.stages.base import Stage

# Measured (benchmarks/memory.py). REST: what a training imports and allocates in main memory beyond what a plan has
# loaded. KERNELS: what oneDNN compiles and keeps for the shapes of 16-bit products on a CPU. CUDA: its own of a GPU.
REST, KERNELS, CUDA = 100 << 20, 150 << 20, 500 << 20
# On a CPU, what rollouts and updates take over the tensors that live at one time: malloc keeps some of what was freed.
HEAP = 1.25


@dataclass(frozen=True)
class Estimate:
    """Of a stage. base: bytes of main memory that a process takes before it has a model. gpu: whether it trains on one.
    wide: whether it computes in float32. behind: whether checkpoints are written while it goes on.

    peak: bytes of the device, in `phase`. host: bytes of main memory.
    """

    sizes: Sizes
    base: int
    gpu: bool
    wide: bool = True
    behind: bool = False

    @property
    def phase(self) -> str:
        return self._largest[0]

    @property
    def peak(self) -> int:
        return self._largest[1] + (CUDA if self.gpu else self.host_base)

    @property
    def host(self) -> int:
        return self.host_base + checkpoint(self.sizes, on_host=False) if self.gpu else self.peak

    @property
    def host_base(self) -> int:
        return self.base + REST + (0 if self.gpu or self.wide else KERNELS)

    @property
    def _largest(self) -> tuple[str, int]:
        sizes, heap = self.sizes, 1.0 if self.gpu else HEAP
        passing = dataclasses.replace(
            sizes, sampling=int(heap * sizes.sampling), update=int(heap * sizes.update), graphs=int(heap * sizes.graphs)
        )
        found = phases(passing)
        if self.behind and not self.gpu:
            found = {phase: size + self.sizes.saved for phase, size in found.items()}
        return largest_phase(found if self.gpu else found | {"checkpoint": checkpoint(self.sizes, on_host=True)})

    @property
    def parts(self) -> str:
        """What the sizes are, those that are something."""
        sizes = self.sizes
        named = {
            "libraries and data": self.host_base,
            "weights": sizes.weights,
            "rewards": sizes.rewards,
            "optimizer": sizes.moments,
            "average": sizes.average,
            "roles": sizes.roles,
            "reference": sizes.reference,
            "rollout": sizes.sampling,
            "graphs of rollouts": sizes.graphs,
            "update with gradients": sizes.update,
        }
        return ", ".join(f"{name} {shown(size)}" for name, size in named.items() if size)

    def line(self, stage: str) -> str:
        """The whole in a line."""
        if self.gpu:
            said = f"{shown(self.peak)} of each GPU ({self.phase}), {shown(self.host)} of main memory (checkpoint)"
        else:
            said = f"{shown(self.peak)} of each process ({self.phase})"
        turns = ", ".join(f"{name} {shown(size)}" for name, size in self.sizes.turns.items())
        return f"memory of stage {stage}: about {said}: {self.parts}{f' ({turns})' if turns else ''}"


def on_gpu(stage: Stage[Any]) -> bool:
    """Whether the run would train on a GPU here."""
    return stage.run.config.device == "auto" and torch.cuda.is_available()
