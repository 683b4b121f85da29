"""From sizes to memory, phase by phase. Numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Numbers of the parameter's size that an optimizer keeps: the two moments of Adam.
MOMENTS = 2


@dataclass(frozen=True)
class Sizes:
    """What a stage holds, in bytes.

    weights: of all parameters and buffers. rewards: of weights that rewards hold on the same device. trained: of the
    parameters that one optimizer steps (float32). scratch: what a step of it works with. moments: of what the
    optimizers keep. average: of averaged weights. roles: of all roles but the policy. reference: of what is kept of it.
    sampling: a rollout's peak besides these. update: a micro-batch's forward and backward, gradients included. graphs:
    of rollouts, kept until the first update. turns: of each kind of update, where a stage has several.
    """

    weights: int
    rewards: int = 0
    trained: int = 0
    scratch: int = 0
    moments: int = 0
    average: int = 0
    roles: int = 0
    reference: int = 0
    sampling: int = 0
    update: int = 0
    graphs: int = 0
    turns: Mapping[str, int] = field(default_factory=dict)

    @property
    def resident(self) -> int:
        """What is there all the time, once the optimizer has made its first step."""
        return self.weights + self.rewards + self.moments + self.average + self.roles + self.reference

    @property
    def saved(self) -> int:
        """What a checkpoint copies before it writes it; the policy itself is written from where it is."""
        return self.trained + self.moments + self.average + self.roles + self.reference


def phases(sizes: Sizes) -> dict[str, int]:
    """Bytes on the device in each phase of a stage."""
    found = {"rollout": sizes.resident + sizes.sampling + sizes.graphs}
    if sizes.trained:
        found["update"] = sizes.resident + sizes.update + sizes.graphs
        found["optimizer"] = sizes.resident + sizes.trained + sizes.scratch
    return found


def checkpoint(sizes: Sizes, on_host: bool) -> int:
    """Bytes of main memory while a checkpoint is written. on_host: the model is there, too, not on a GPU."""
    return sizes.saved + (sizes.resident if on_host else 0)


def largest_phase(found: dict[str, int]) -> tuple[str, int]:
    """(name, bytes) of the phase that takes most."""
    name = max(found, key=lambda phase: found[phase])
    return name, found[name]


def shown(size: float) -> str:
    """Bytes for a reader, in powers of 10: 512 MB, 12.3 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"
