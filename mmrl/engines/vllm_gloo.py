"""A plug-in of vLLM (entry point `vllm.general_plugins`): weights that come over gloo, where there is no NCCL.

Runs inside of a server that is started with --weight-transfer-config '{"backend": "gloo"}'.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from mmrl.engines.vllm_transfer import gloo_broadcast, gloo_group

NAME = "gloo"
TIMEOUT_S = 300.0  # that a worker waits for a trainer that has announced weights


@dataclass
class InitInfo:
    """Where the trainer's store listens, and who is in the group."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int


@dataclass
class UpdateInfo:
    """What comes, tensor by tensor."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


def register() -> None:
    """vLLM calls it in each of its processes, maybe more than once."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if NAME not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(NAME, _engine())


def _engine() -> Any:
    """The class, made where vLLM is."""
    from vllm.distributed.weight_transfer.base import WeightTransferEngine
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    class GlooEngine(WeightTransferEngine):
        """Rank 0 is the trainer. Tensors arrive on the CPU, as a checkpoint has them."""

        init_info_cls, update_info_cls = InitInfo, UpdateInfo
        group: Any = None

        def init_transfer_engine(self, info: InitInfo) -> None:
            from torch.distributed import TCPStore

            config, wait = self.parallel_config, timedelta(seconds=TIMEOUT_S)
            rank = config.data_parallel_index * config.world_size + config.rank + info.rank_offset
            store = TCPStore(info.master_address, info.master_port, info.world_size, False, wait)
            self.group = gloo_group(store, rank, info.world_size, wait)

        def start_weight_update(self) -> None:
            initialize_layerwise_reload(self.model)

        def finish_weight_update(self) -> None:
            finalize_layerwise_reload(self.model, self.model_config)

        def update_weights(self, update_info: dict[str, Any]) -> None:
            # vLLM's own also waits for an accelerator, which a CPU has not.
            self.receive_weights(self.parse_update_info(update_info))

        def receive_weights(self, info: UpdateInfo) -> None:
            for name, dtype, shape in zip(info.names, info.dtype_names, info.shapes, strict=True):
                weight = torch.empty(shape, dtype=getattr(torch, dtype))
                gloo_broadcast(self.group, weight)
                self.model.load_weights([(name, weight)])

        def shutdown(self) -> None:
            self.group = None

    return GlooEngine
