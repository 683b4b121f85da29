"""Memory of one GPU of a run whose model is sharded: what it keeps, what it gathers, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmrl.training.estimate.lines import CUDA
from mmrl.training.estimate.memory import largest_phase, shown


@dataclass(frozen=True)
class Sharded:
    """Bytes of one of the processes that share a model, in `shards` parts.

    frozen: its part of weights that are not trained. masters: of those that are (float32), whole models; adapters: of
    LoRA's. whole: what is not split: buffers, frozen towers, encoders, decoder. moments, average, roles, reference: its
    part of what optimizers, averages, roles and the reference keep. gradients: its part of them. scratch: what a step
    of an optimizer takes. gathered: whole blocks while the model runs. unreduced: whole gradients of a block on their
    way. copy: the whole model, as rollouts of the policy itself have it. activations: of a micro-batch. sampling:
    caches and what a rollout computes with.
    """

    shards: int
    frozen: int = 0
    masters: int = 0
    adapters: int = 0
    whole: int = 0
    moments: int = 0
    average: int = 0
    roles: int = 0
    reference: int = 0
    rewards: int = 0
    gradients: int = 0
    scratch: int = 0
    gathered: int = 0
    unreduced: int = 0
    copy: int = 0
    sampling: int = 0
    activations: int = 0

    @property
    def resident(self) -> int:
        """What is there all the time, once the optimizer has made its first step."""
        trained = self.masters + self.adapters
        kept = self.moments + self.average + self.roles + self.reference + self.rewards
        return self.frozen + trained + self.whole + kept

    def phases(self) -> dict[str, int]:
        """Bytes in each phase of a step."""
        found = {"rollout": self.resident + self.copy + self.sampling}
        if self.gradients:
            passing = self.gathered + self.unreduced + self.activations
            found["update"] = self.resident + self.gradients + passing
            found["optimizer"] = self.resident + self.gradients + self.scratch
        return found

    @property
    def peak(self) -> int:
        return largest_phase(self.phases())[1] + CUDA

    def parts(self) -> dict[str, Mapping[str, int]]:
        """When -> what it is then, beside what is there all the time."""
        return {
            "always": {
                "masters": self.masters,
                "adapters": self.adapters,
                "frozen weights": self.frozen,
                "not split": self.whole,
                "optimizer": self.moments,
                "average": self.average,
                "roles": self.roles,
                "reference": self.reference,
                "rewards": self.rewards,
            },
            "in a rollout": {"the whole model": self.copy, "caches and computing": self.sampling},
            "in an update": {
                "gradients": self.gradients,
                "gathered blocks": self.gathered,
                "gradients of a block": self.unreduced,
                "activations": self.activations,
            },
        }

    def lines(self, stage: str, processes: int) -> list[str]:
        """The whole in a line, and a line of parts for each time."""
        phase, _ = largest_phase(self.phases())
        copies = processes // self.shards
        among = f"{processes} GPUs, {self.shards} shards" + (f" x {copies} copies" if copies > 1 else "")
        told = [f"memory of stage {stage} on each of {among}: about {shown(self.peak)} ({phase})"]
        for when, parts in self.parts().items():
            named = [f"{name} {shown(size)}" for name, size in parts.items() if size]
            if named:
                told.append(f"  {when}: {', '.join(named)}")
        return told
