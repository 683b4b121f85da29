"""The state of every part, side by side, into a checkpoint and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from mmrl.training.checkpoint import Checkpoints, disk_errors, explain_write_error
from mmrl.training.cursor import Cursor
from mmrl.training.processes import Processes
from mmrl.training.tensors import CheckpointError, under


class Part(Protocol):
    """Something with a state that a checkpoint holds: JSON and tensors."""

    def state(self) -> dict[str, Any]: ...

    def tensors(self) -> dict[str, Tensor]: ...

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None: ...


def state_of(parts: Mapping[str, Part]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(JSON by part, tensors by part and name)."""
    tensors = {f"{name}/{key}": value for name, part in parts.items() for key, value in part.tensors().items()}
    return {name: part.state() for name, part in parts.items()}, tensors


def load_parts(parts: Mapping[str, Part], state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """The inverse, part by part in their order. Raises CheckpointError for other parts than were saved."""
    if set(parts) != set(state):
        raise CheckpointError(
            f"the checkpoint holds {', '.join(sorted(state))}, the run has {', '.join(sorted(parts))}: resume with the "
            "stages that the run began with"
        )
    for name, part in parts.items():
        part.load(state[name], under(tensors, f"{name}/"))


class Saver:
    """Writes checkpoints of a run; every process calls `save`.

    unsaved: why the last one could not be written, or None.
    """

    def __init__(self, checkpoints: Checkpoints, processes: Processes) -> None:
        self.checkpoints, self.processes = checkpoints, processes
        self.unsaved: str | None = None

    def save(
        self,
        cursor: Cursor,
        parts: Mapping[str, Part],
        about: Mapping[str, Any],
        save_own: Callable[[Path], None],
        save_policy: Callable[[Path], None],
        required: bool = False,
    ) -> Path:
        """Write a checkpoint of this very point; on a full disk, warn, and the loop tries again after the next step.

        about: what the run was made with. save_own: writes what each process has of its own; save_policy: the model.
        required: raise CheckpointError where it cannot be written.
        """
        begin, commit = partial(self._begin, cursor), partial(self._commit, cursor, parts, about, save_policy)
        failed: OSError | None = None
        for piece in (begin, partial(save_own, self.checkpoints.temporary(cursor)), commit):
            try:
                with disk_errors():
                    piece()
            except OSError as error:
                failed = error
            if self.processes.any(failed is not None):  # also the barrier between the pieces
                break
        else:
            self.unsaved = None
            return self.checkpoints.latest or self.checkpoints.root
        failed = failed or OSError("another process could not write its part")
        self.unsaved = explain_write_error(failed, self.checkpoints.root)
        if self.processes.is_main:
            self.checkpoints.abandon(cursor)
        if required:
            raise CheckpointError(self.unsaved) from failed
        if self.processes.is_main:
            print(f"warning: {self.unsaved}", flush=True)
        return self.checkpoints.root

    def _begin(self, cursor: Cursor) -> None:
        if self.processes.is_main:
            self.checkpoints.begin(cursor)

    def _commit(
        self,
        cursor: Cursor,
        parts: Mapping[str, Part],
        about: Mapping[str, Any],
        save_policy: Callable[[Path], None],
    ) -> None:
        if self.processes.is_main:
            state, tensors = state_of(parts)
            self.checkpoints.write(cursor, {**about, "parts": state}, tensors, save_policy)
            self.checkpoints.commit(cursor)
