"""The `sharding:` section: how a model's weights are divided over the processes of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from mmrl.strict import Strict, When


class ShardingConfig(Strict):
    """Weights, gradients, averages and the optimizer's memory in parts, one for each of some processes (FSDP2)."""

    shards: int = Field(
        1,
        ge=1,
        description="Processes that a copy of the weights is divided over; 1: each has all of them. With more "
        "processes there are several copies, whose gradients are summed (docs/sharding.md).",
    )
    sync: Literal["micro_batch", "update"] = Field(
        "micro_batch",
        description="When gradients are summed over processes. micro_batch: behind each, so that they are divided as "
        "the weights are. update: once, which sends less; until then each process holds those of all weights.",
    )
    gathered: Literal["bfloat16"] | None = Field(
        None,
        description="Type in which weights are gathered for a block, which halves what is sent and held for it; the "
        "parts that are trained stay float32, and gradients are summed in float32. null: their own.",
    )

    effects: ClassVar[Mapping[str, When]] = {
        "sync": When(lambda s, _: s.shards > 1, "`shards` above 1"),
        "gathered": When(
            lambda s, run: s.shards > 1 and _dtype(run) == "bfloat16", "`shards` above 1 and `model.dtype: bfloat16`"
        ),
    }


def _dtype(run: Any) -> str | None:
    """What the model computes in."""
    return getattr(run.model, "dtype", None)
