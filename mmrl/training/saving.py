"""The state of every part, side by side, into a checkpoint and back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor

from mmrl.modalities.shards import Shards
from mmrl.training import background
from mmrl.training.checkpoint import Checkpoints, disk_errors, explain_write_error
from mmrl.training.cursor import Cursor
from mmrl.training.draft import Draft
from mmrl.training.processes import Processes
from mmrl.training.tensors import CheckpointError, under

LOOK_S = 0.2  # how often a process that waits for a checkpoint looks for other news
# How long a run that ends by an error waits for other processes' parts of the checkpoint under way.
LEAVING_S = 20.0


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
    """Writes checkpoints of a run; every process calls its methods, but for `leave`.

    shards: how the model's weights are divided over processes; None: they are not. behind: whether tensors may be
    written in the background, of one checkpoint at a time.
    unsaved: why the last one could not be written, or None.
    """

    def __init__(
        self, checkpoints: Checkpoints, processes: Processes, shards: Shards | None = None, behind: bool = False
    ) -> None:
        self.checkpoints, self.processes, self.shards, self.behind = checkpoints, processes, shards, behind
        self.unsaved: str | None = None
        self._work: background.Work | None = None  # the checkpoint that is under way
        self._until = float("inf")  # time.monotonic() from which on its other writers are not waited for
        self._broken = threading.Event()  # another process could not do its part, and maybe could leave no mark of it

    def save(
        self,
        cursor: Cursor,
        parts: Mapping[str, Part],
        about: Mapping[str, Any],
        save_own: Callable[[Path], None],
        save_policy: Callable[[Path], None],
        required: bool = False,
        weights: Mapping[str, int] = MappingProxyType({}),
        wait: bool = True,
    ) -> Path:
        """Write a checkpoint of this very point; on a full disk, warn, and the loop tries again after the next step.

        about: what the run was made with. save_own: writes what each process has of its own; save_policy: the model.
        weights: all rows of divided weights by name; each process writes those that it holds, of these and of what is
        kept beside them.
        required: raise CheckpointError where it cannot be written. wait: have it on the disk when this returns; False:
        the tensors may be written while the training goes on.
        """
        self.settle()
        cursor = replace(cursor)  # the training's goes on
        behind = self.behind and not (required or wait)
        folder = self.checkpoints.temporary(cursor)
        state, tensors = state_of(parts)
        draft = Draft(folder, {**about, "parts": state}, tensors, weights, self.shards, self.processes.is_main, behind)
        pieces: list[Callable[[], Any]] = [partial(self._begin, cursor), partial(save_own, folder)]
        pieces.append(partial(draft.save_policy, save_policy))
        rest: list[Callable[[], Any]] = [draft.write_rows, partial(self._commit, cursor, draft)]
        if not self._all_do(pieces, cursor, required):
            return self.checkpoints.root
        # Processes that write in the background tell one another by files of this folder.
        if behind and not self.processes.any(not folder.is_dir()):
            draft.copy()
            self._until = float("inf")
            self._broken.clear()
            self._work = background.Work(partial(self._write, cursor, draft))
        elif self._all_do(rest, cursor, required):
            self.unsaved = None
            return self.checkpoints.latest or self.checkpoints.root
        return self.checkpoints.root

    def _all_do(self, pieces: Sequence[Callable[[], Any]], cursor: Cursor, required: bool) -> bool:
        """One after the other, on all processes. Whether it went well; where not, see `_could_not`."""
        failed: OSError | None = None
        for piece in pieces:
            try:
                with disk_errors():
                    piece()
            except OSError as error:
                failed = error
            if self.processes.any(failed is not None):  # also the barrier between the pieces
                self._could_not(failed, cursor, required)
                return False
        return True

    # ---------------------------------------------------------------- in the background

    def look(self) -> None:
        """Between steps: where the checkpoint under way is done, on all processes, see how it ended."""
        if self._work is not None and not self.processes.any(not self._work.is_done):
            self.settle()

    def settle(self) -> None:
        """Wait for the checkpoint under way. On a full disk, warn as `save` does; raises CheckpointError, on all
        processes, for any other reason that it could not be written for."""
        work = self._work
        if work is None:
            return
        if not self.processes.is_main:
            self._join(work)
        if self.processes.any(not self.processes.is_main and work.error is not None):
            self._broken.set()
        self._join(work)
        self._work = None
        with self.processes.failing_alike(CheckpointError):
            if work.error is not None and not isinstance(work.error, OSError):
                told = f"{type(work.error).__name__}: {work.error}"
                raise CheckpointError(f"writing a checkpoint in the background failed: {told}") from work.error
        if self.processes.any(work.error is not None):
            self._could_not(work.error if isinstance(work.error, OSError) else None)
        else:
            self.unsaved = None

    def _join(self, work: background.Work) -> None:
        while not work.join(LOOK_S):
            self.processes.notes.refuse()

    def leave(self) -> None:
        """Where training ends: let the checkpoint under way be finished, if the others do their part."""
        if self._work is not None:
            self._until = time.monotonic() + LEAVING_S
            while not self._work.join(LOOK_S):
                pass
            self._work = None

    def _write(self, cursor: Cursor, draft: Draft) -> None:
        """In a thread of each process; the main one waits for the others, and gives the whole its name."""
        with disk_errors():
            if not self.processes.is_main:
                with background.marked(draft.folder, self.processes.rank):
                    draft.write_rows()
                return
            try:
                with self.processes.presence.undisturbed():
                    draft.write_rows()
                    began = time.monotonic()
                    background.wait_for_all(draft.folder, self.processes.world, partial(self._given_up, began))
                    self._commit(cursor, draft)
            except BaseException:
                self.checkpoints.abandon(cursor)
                raise

    def _given_up(self, began: float, missing: set[int]) -> str | None:
        """Why these processes, which have not done their part, will not do it."""
        gone = missing.intersection(self.processes.presence.ended())
        now = time.monotonic()
        if self._broken.is_set():
            return "another process could not write its part"
        if gone or now > self._until or now > began + self.processes.timeout:
            return f"process {min(gone or missing)} {'is gone' if gone else 'has not written its part'}"
        return None

    # ---------------------------------------------------------------- pieces

    def _could_not(self, failed: OSError | None, cursor: Cursor | None = None, required: bool = False) -> None:
        failed = failed or OSError("another process could not write its part")
        self.unsaved = explain_write_error(failed, self.checkpoints.root)
        if self.processes.is_main and cursor is not None:
            self.checkpoints.abandon(cursor)
        if required:
            raise CheckpointError(self.unsaved) from failed
        if self.processes.is_main:
            print(f"warning: {self.unsaved}", flush=True)

    def _begin(self, cursor: Cursor) -> None:
        if self.processes.is_main:
            self.checkpoints.begin(cursor)

    def _commit(self, cursor: Cursor, draft: Draft) -> None:
        if self.processes.is_main:
            with self.processes.presence.undisturbed():
                draft.write_rest()
                self.checkpoints.commit(cursor)
