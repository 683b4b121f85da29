"""The state of every part, side by side, into a checkpoint and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor

from mmrl.modalities.shards import Shards
from mmrl.training import pieces
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

    shards: how the model's weights are divided over processes; None: they are not.
    unsaved: why the last one could not be written, or None.
    """

    def __init__(self, checkpoints: Checkpoints, processes: Processes, shards: Shards | None = None) -> None:
        self.checkpoints, self.processes, self.shards = checkpoints, processes, shards
        self.unsaved: str | None = None

    def save(
        self,
        cursor: Cursor,
        parts: Mapping[str, Part],
        about: Mapping[str, Any],
        save_own: Callable[[Path], None],
        save_policy: Callable[[Path], None],
        required: bool = False,
        weights: Mapping[str, int] = MappingProxyType({}),
    ) -> Path:
        """Write a checkpoint of this very point; on a full disk, warn, and the loop tries again after the next step.

        about: what the run was made with. save_own: writes what each process has of its own; save_policy: the model.
        weights: all rows of divided weights by name; each process writes those that it holds, of these and of what is
        kept beside them.
        required: raise CheckpointError where it cannot be written.
        """
        folder = self.checkpoints.temporary(cursor)
        begin, own = partial(self._begin, cursor), partial(save_own, folder)
        rows = partial(self._write_rows, folder, parts, weights)
        commit = partial(self._commit, cursor, parts, about, save_policy, weights)
        failed: OSError | None = None
        for piece in (begin, own, rows, commit):
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
        weights: Mapping[str, int],
    ) -> None:
        if self.processes.is_main:
            state, tensors = state_of(parts)
            rows = pieces.rows_of(tensors, weights)
            divided = {"divided": {"shards": self.shards.shards, "rows": rows}} if self.shards else {}
            whole = {name: tensor for name, tensor in tensors.items() if name not in rows}
            self.checkpoints.write(cursor, {**about, **divided, "parts": state}, whole, save_policy)
            self.checkpoints.commit(cursor)

    def _write_rows(self, folder: Path, parts: Mapping[str, Part], weights: Mapping[str, int]) -> None:
        """This process's rows of what is divided."""
        if self.shards and self.shards.writes:
            _, tensors = state_of(parts)
            mine = {name: tensors[name] for name in pieces.rows_of(tensors, weights)}
            pieces.write(pieces.place(folder, self.shards.number), mine)
