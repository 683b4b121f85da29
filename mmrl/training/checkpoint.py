"""Checkpoints: written to a temporary name, synced, renamed; `latest` always names a whole one. No pickle."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from mmrl.modalities.shards import Shards
from mmrl.reporting.disk import WriteError
from mmrl.training import pieces
from mmrl.training.cursor import Cursor
from mmrl.training.tensors import CheckpointError

STATE, IN_POLICY = "state.json", "in_policy"


class Checkpoints:
    """The `checkpoints/` folder of a run."""

    def __init__(self, run_dir: Path, keep: int) -> None:
        self.root = Path(run_dir) / "checkpoints"
        self.keep = keep

    @property
    def latest(self) -> Path | None:
        """The newest whole checkpoint, or None."""
        link = self.root / "latest"
        return link.resolve() if link.is_symlink() and link.resolve().is_dir() else None

    def temporary(self, cursor: Cursor) -> Path:
        """The folder that the next checkpoint is written into, the same on every process."""
        return self.root / f".writing_{self._name(cursor)}"

    def _name(self, cursor: Cursor) -> str:
        name = f"step_{cursor.total_steps:06d}"
        return f"{name}_u{cursor.update}_m{cursor.micro}" if cursor.phase == "update" else name

    def begin(self, cursor: Cursor) -> Path:
        """An empty temporary folder; leftovers of writes that were cut off are removed."""
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob(".writing_*"):
            shutil.rmtree(leftover, ignore_errors=True)
        folder = self.temporary(cursor)
        folder.mkdir()
        return folder

    def commit(self, cursor: Cursor) -> Path:
        """Sync, rename, repoint `latest`, and drop the oldest beyond `keep`."""
        folder, final = self.temporary(cursor), self.root / self._name(cursor)
        for path in [*folder.rglob("*"), folder]:
            _sync(path)
        for number in range(2, 10**6):  # a folder that `latest` may name is never replaced
            if not final.exists():
                break
            final = self.root / f"{self._name(cursor)}_{number}"
        os.rename(folder, final)
        before = self.latest
        link = self.root / ".latest"
        link.unlink(missing_ok=True)
        link.symlink_to(final.name)
        os.replace(link, self.root / "latest")
        _sync(self.root)
        # A copied folder has new times: what `latest` named until now is the newest of the old, whatever they say.
        others = [p for p in self.root.glob("step_*") if p != final]
        old = sorted(others, key=lambda p: (before is not None and p.name == before.name, p.stat().st_mtime))
        for path in old[: max(0, len(old) - self.keep + 1)]:
            shutil.rmtree(path, ignore_errors=True)
        return final

    def abandon(self, cursor: Cursor) -> None:
        shutil.rmtree(self.temporary(cursor), ignore_errors=True)

    def read(
        self,
        shards: Shards | None = None,
        weights: Mapping[str, int] = MappingProxyType({}),
        share: tuple[int, int] = (0, 1),
    ) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
        """(folder, state, tensors) of the latest checkpoint; CheckpointError when there is none.

        shards, weights: how weights are divided now, and all rows of those that are by name (see pieces.rows_of): of
        these the tensors are this process's rows. However many processes wrote it. share: (rank, world), of what all
        processes look at together (see within.opened).
        """
        folder = self.latest
        if folder is None:
            raise CheckpointError(f"nothing to resume: no checkpoint in {self.root}; start anew with --fresh")
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            wanted = shards.range if shards else lambda rows: (0, rows)
            divided, in_policy = state.get("divided", {}), state.get(IN_POLICY, {})
            tensors = pieces.read(folder, divided, weights, wanted, in_policy, share)
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"checkpoint {folder} cannot be read ({error}); point checkpoints/latest at an older one"
            ) from error
        return folder, state, tensors


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn what safetensors and the sample store raise on a bad disk into the OSError of Python's own writes."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
    except WriteError as error:
        raise OSError(error.errno or errno.EIO, str(error)) from error


def explain_write_error(error: OSError, folder: Path) -> str:
    """One line for a checkpoint that could not be written."""
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(folder.parent if folder.parent.exists() else Path(".")).free
        return (
            f"checkpoint not written: the disk of {folder.parent} is full ({free / 1e6:.0f} MB free). Free some space "
            "or lower checkpoint.keep; the last checkpoint is whole, and saving is tried again after the next step"
        )
    return f"checkpoint not written: {error}; the last checkpoint is whole, and saving is tried again"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
