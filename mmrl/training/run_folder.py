"""The folder of a run: claimed, locked, described; and where stages find what others left there."""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mmrl.config import Config
from mmrl.config.folder import CONFIG
from mmrl.data.prompts import load_prompts
from mmrl.reporting.files import write_atomic
from mmrl.training.notes import clear_notes
from mmrl.training.plan import plan_text
from mmrl.training.presence import clear_places
from mmrl.training.provenance import PLACE, Difference
from mmrl.training.run import Run
from mmrl.types import Prompt


class RunFolderError(RuntimeError):
    """The run's folder is in use, or holds a run that would be overwritten."""


_locks: dict[Path, IO[str]] = {}


def claim(folder: Path, resume: bool, fresh: bool) -> None:
    """Take the folder for this process; refuse one in use, or one whose run would be overwritten."""
    used = (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists()
    if used and fresh and not resume:
        _lock(folder)
        number = next(n for n in range(1, 10**6) if not folder.with_name(f"{folder.name}.{n}").exists())
        os.rename(folder, folder.with_name(f"{folder.name}.{number}"))
        _locks.pop(folder.resolve(), None)
    elif used and not resume:
        raise RunFolderError(
            f"{folder} already holds a run: go on with it (--resume), move it aside (--fresh), or take another name "
            "(name=...)"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot make the run folder {folder}: {error}") from None
    _lock(folder)
    clear_notes(folder)
    clear_places(folder)


def _lock(folder: Path) -> None:
    key = folder.resolve()
    if key in _locks:
        _locks.pop(key).close()
    file = open(folder / ".lock", "w", encoding="utf-8")  # noqa: SIM115 - held as long as the process lives
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        raise RunFolderError(f"{folder} is being written by another run; stop that one, or take another name") from None
    except OSError as error:  # as of a Lustre that was mounted without them
        warnings.warn(
            f"the file system of {folder} has no locks ({error.strerror}): a second run in this folder would not be "
            "refused; start none",
            stacklevel=2,
        )
    _locks[key] = file


@contextmanager
def released(folder: Path) -> Iterator[None]:
    """Give the folder up at the end of the block (a process that trains several runs)."""
    try:
        yield
    finally:
        file = _locks.pop(Path(folder).resolve(), None)
        if file:
            file.close()


def describe(config: Config, said: Sequence[str] = ()) -> None:
    """Write config.yaml, with comments at its top, and plan.txt."""
    write_atomic(config.run_dir / CONFIG, "\n".join([*said, config.dump()]))
    write_atomic(config.run_dir / "plan.txt", plan_text(config))


def record_resume(config: Config, step: int, differences: Sequence[Difference]) -> None:
    """Where a resume goes on with other values: config.yaml has them from now on, behind a line for each that says what
    was before. A folder that was moved is no such change."""
    told = [difference for difference in differences if difference.key not in PLACE]
    path = config.run_dir / CONFIG
    if path.exists() and not told:
        return
    old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    said = [line for line in old if line.startswith("#")]
    new = [f"# from step {step + 1} on, {difference}" for difference in told]
    describe(config, [*said, *(line for line in new if line not in said)])


# -------------------------------------------------------------------- what stages leave for others


def result_path(folder: Path, stage: str) -> Path:
    """Where the filter stage of this name writes its records."""
    return folder / "data" / f"{stage}.jsonl"


def prompts_of(run: Run, data_from: str | None) -> Sequence[Prompt]:
    """The run's prompts, or those that a filter stage kept."""
    if data_from is None:
        return run.data.prompts
    data, kept = run.config.data, str(result_path(run.folder, data_from))
    return load_prompts(kept, {}, "stop", max_pixels=data.max_pixels, max_seconds=data.max_seconds)
