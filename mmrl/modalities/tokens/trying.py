"""How a trial (mmrl.engines.ways) runs a model whose weights are divided: block by block, as an update does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from mmrl.engines.ways import Here
from mmrl.modalities.shards import Shards

Found = TypeVar("Found")


class Divided(Here):
    def __init__(self, shards: Shards, model: nn.Module) -> None:
        self.shards, self.model = shards, model

    def run(self, compute: Callable[[], Found]) -> Found:
        return self.shards.run(self.model, compute)

    def weights(self, module: Any) -> list[Tensor]:
        return [self.shards.gathered_as(p) for p in module.parameters() if p.requires_grad]
