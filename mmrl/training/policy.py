"""The policy's weights over all stages: what earlier stages trained, the reference, and what else the adapter keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmrl.config import ConfigError
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.training.tensors import CheckpointError, copy_into, under


class Policy:
    """A part of the checkpoint. `parameters` are those of the stage that is on, which its learners save; `past` are all
    that earlier stages trained and this one does not."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.parameters: dict[str, nn.Parameter] = {}
        self._seen: dict[str, nn.Parameter] = {}

    @property
    def past(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._seen.items() if name not in self.parameters}

    def select(self, components: Sequence[str] | None, stage: str) -> None:
        """Train these parts from now on. Raises ConfigError where that is no choice, or nothing is trained."""
        self._seen |= self.parameters
        try:
            self.adapter.select(components)
        except Unsupported as error:
            raise ConfigError(f"stage {stage!r}: {error}") from None
        self.parameters = self.adapter.trainable_parameters()
        if not self.parameters:
            raise ConfigError(f"stage {stage!r} trains nothing; look at its components and model.train")

    # ---------------------------------------------------------------- a part of a checkpoint

    def state(self) -> dict[str, Any]:
        return {"adapter": self.adapter.state()}

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {f"past/{k}": p for k, p in self.past.items()}
        return found | {f"reference/{k}": v for k, v in self.adapter.reference_parameters().items()}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """The inverse; the stages up to the checkpoint's must have been selected before."""
        copy_into(self.past, under(tensors, "past/"), "weights of earlier stages")
        self.adapter.load_state(state["adapter"])
        reference = under(tensors, "reference/")
        if reference:  # made by this stage or an earlier one
            self.adapter.prepare_reference()
            known = self.adapter.reference_parameters()
            if not known:
                raise CheckpointError(f"the checkpoint has a reference, and {type(self.adapter).__name__} makes none")
            copy_into(known, reference, "reference")
