"""The policy's weights over all stages: what earlier stages trained, the reference, and what else the adapter keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmrl.config import ConfigError
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.training.tensors import CheckpointError, copy_into, under


class Policy:
    """A part of the checkpoint. `parameters` are those that the stage that is on may train, which its learners save as
    far as it does; `past` are all others that earlier stages have trained."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.parameters: dict[str, nn.Parameter] = {}
        self._known: dict[str, nn.Parameter] = {}  # of all stages up to this one
        self._trained: set[str] = set()  # by those before it
        self._held: set[int] = set()  # ids of the parameters that its learners save

    @property
    def past(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._known.items() if name in self._trained and id(p) not in self._held}

    def select(self, components: Sequence[str] | None, stage: str) -> None:
        """Train these parts from now on. Raises ConfigError where that is no choice, or nothing is trained."""
        try:
            self.adapter.select(components)
        except Unsupported as error:
            raise ConfigError(f"stage {stage!r}: {error}") from None
        self.parameters = self.adapter.held_parameters()
        if not self.parameters:
            raise ConfigError(f"stage {stage!r} trains nothing; look at its components and model.train")
        first: dict[int, str] = {}
        for name, parameter in self.parameters.items():
            other = first.setdefault(id(parameter), name)
            if other != name:
                raise ConfigError(
                    f"{type(self.adapter).__name__}.trainable_parameters names one parameter {other!r} and {name!r}; "
                    "name it once"
                )
            if "/" in name:
                raise ConfigError(f"{type(self.adapter).__name__}: a parameter's name has no `/`, {name!r} has one")
        self._known |= self.parameters

    def hold(self, parameters: Iterable[nn.Parameter]) -> None:
        """What the learners of the stage that is on train, and save: a filter stage has none."""
        self._held = {id(p) for p in parameters}

    def hand_on(self) -> None:
        """The stage is over; what it trained is past."""
        self._trained |= {name for name, p in self._known.items() if id(p) in self._held}

    # ---------------------------------------------------------------- a part of a checkpoint

    def state(self) -> dict[str, Any]:
        return {"adapter": self.adapter.state(), "trained": sorted(self._trained)}

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {f"past/{k}": p for k, p in self.past.items()}
        return found | {f"reference/{k}": v for k, v in self.adapter.reference_parameters().items()}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """The inverse; the stages up to the checkpoint's must have been selected before."""
        unknown = sorted(set(state["trained"]) - self._known.keys())
        if unknown:
            raise CheckpointError(
                f"the checkpoint does not fit (weights of earlier stages): {len(unknown)} are not the run's, first "
                f"{unknown[0]}. Resume with the model that the run began with"
            )
        self._trained = set(state["trained"])
        copy_into(self.past, under(tensors, "past/"), "weights of earlier stages")
        self.adapter.load_state(state["adapter"])
        reference = under(tensors, "reference/")
        if reference:  # made by this stage or an earlier one
            self.adapter.prepare_reference()
            known = self.adapter.reference_parameters()
            if not known:
                raise CheckpointError(f"the checkpoint has a reference, and {type(self.adapter).__name__} makes none")
            copy_into(known, reference, "reference")
