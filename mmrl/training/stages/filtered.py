"""Files of a filter stage: the records of each step, which the same step writes again after a crash, and their join."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmrl.config import FilterStage
from mmrl.reporting.disk import WriteError
from mmrl.reporting.files import dumps, write_atomic
from mmrl.training.processes import Processes
from mmrl.training.run import Run
from mmrl.training.run_folder import result_path


class NothingKept(RuntimeError):
    """A filter stage that ended without a single record; says what its rule saw."""


def write_part(run: Run, stage: str, step: int, kept: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """This step's records of all processes, in one file in the order of their prompts."""
    processes, folder = run.processes, parts_of(run, stage)
    with processes.failing_alike(WriteError):
        write_atomic(folder / f"process_{processes.rank}.jsonl", "".join(f"{dumps(entry)}\n" for entry in kept))
    with processes.failing_alike(WriteError):
        _join_pieces(processes, folder, step)


def _join_pieces(processes: Processes, folder: Path, step: int) -> None:
    if processes.is_main:
        pieces = [folder / f"process_{rank}.jsonl" for rank in range(processes.world)]
        entries = [json.loads(line) for piece in pieces for line in piece.read_text(encoding="utf-8").splitlines()]
        entries.sort(key=lambda entry: entry[0])  # stable: the records of a group keep their order
        lines = [f"{dumps(record)}\n" for _, record in entries]
        write_atomic(folder / f"step_{step:06d}.jsonl", "".join(lines))
        for piece in folder.glob("process_*.jsonl"):  # of a run with more processes, too
            piece.unlink()


def join_parts(run: Run, options: FilterStage) -> None:
    """All steps' records as the stage's result; the parts stay until it ends, as a resume may start from one."""
    if not write_result(run, options.name, "", options.steps):
        raise NothingKept(
            f"stage {options.name!r} kept nothing of {options.steps * options.groups} prompts with "
            f"rule={options.rule}: look at filter/correct in metrics.jsonl and at the stage's bounds (correct_at, "
            "margin, low, high)"
        )


def write_result(run: Run, name: str, head: str, steps: int) -> bool:
    """All steps' parts of this name behind `head`, as a file; where all is empty, none is written, and False told."""
    parts = [parts_of(run, name) / f"step_{step:06d}.jsonl" for step in range(steps)]
    text = head + "".join(part.read_text(encoding="utf-8") for part in parts)
    if text:
        with run.processes.failing_alike(WriteError):
            if run.processes.is_main:
                write_atomic(result_path(run.folder, name), text)
    return bool(text)


def rates_of(stage: str) -> str:
    """The name of the file of a stage's pass rates."""
    return f"{stage}.pass_rates"


def parts_of(run: Run, stage: str) -> Path:
    return run.folder / "data" / f"{stage}.parts"
