"""Checkpoints: written to a temporary name, synced, renamed; `latest` always names a whole one. No pickle."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmrl.reporting.disk import WriteError
from mmrl.reporting.files import strict
from mmrl.reporting.samples import read_step, write_step
from mmrl.types import Group, Sample, Trajectory


@dataclass
class Cursor:
    """Where a run stands. A step is one rollout (or one supervised batch); an update one optimizer step.

    phase: "step" before a step, "update" between rollout and the end of its updates, "end" after a stage.
    """

    stage: int = 0
    step: int = 0
    phase: str = "step"
    update: int = 0
    micro: int = 0
    optimizer_steps: int = 0
    samples: int = 0
    actions: int = 0
    wall_s: float = 0.0
    total_steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    evaluations: dict[str, dict[str, float]] = field(default_factory=dict)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; says which and what to do."""


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

    def write(self, cursor: Cursor, tensors: dict[str, Tensor], extra: dict, save_policy: Callable) -> Path:
        """Write what the main process knows into the temporary folder (made by `begin`)."""
        folder = self.temporary(cursor)
        save_file(
            {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
            folder / "trainer.safetensors",
        )
        state = {"cursor": asdict(cursor), **extra}
        (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        save_policy(folder / "policy")
        return folder

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
        link = self.root / ".latest"
        link.unlink(missing_ok=True)
        link.symlink_to(final.name)
        os.replace(link, self.root / "latest")
        _sync(self.root)
        old = sorted((p for p in self.root.glob("step_*") if p != final), key=lambda p: p.stat().st_mtime)
        for path in old[: max(0, len(old) - self.keep + 1)]:
            shutil.rmtree(path, ignore_errors=True)
        return final

    def abandon(self, cursor: Cursor) -> None:
        shutil.rmtree(self.temporary(cursor), ignore_errors=True)

    def read(self) -> tuple[Path, Cursor, dict[str, Tensor], dict[str, Any]]:
        """(folder, cursor, tensors, state) of the latest checkpoint; CheckpointError when there is none."""
        folder = self.latest
        if folder is None:
            raise CheckpointError(f"nothing to resume: no checkpoint in {self.root}; start anew with --fresh")
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "trainer.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"checkpoint {folder} cannot be read ({error}); point checkpoints/latest at an older one"
            ) from error
        return folder, Cursor(**state["cursor"]), tensors, state


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


def save_queue(folder: Path, rank: int, queue: Sequence[Sequence[Group]]) -> None:
    """One process's part of the rollouts that are not used up, oldest first."""
    for number, groups in enumerate(queue):
        save_groups(folder / f"pending_{number:03d}_{rank}", groups)


def load_queue(folder: Path, rank: int, world: int) -> list[list[Group]]:
    """This process's share of the saved rollouts, oldest first, whatever number of processes saved them."""
    numbers = sorted({place.name.split("_")[1] for place in folder.glob("pending_*")})
    return [load_groups(sorted(folder.glob(f"pending_{number}_*")), rank, world) for number in numbers]


def save_groups(place: Path, groups: Sequence[Group]) -> None:
    """Groups with artifacts, scores and trajectories, losslessly, in a new folder `place`."""
    place.mkdir()
    write_step(place, "groups", groups)
    tensors = {
        f"{g}/{s}/{key}": value.contiguous()
        for g, group in enumerate(groups)
        for s, sample in enumerate(group.samples)
        if sample.trajectory is not None
        for key, value in {
            "logp": sample.trajectory.logp,
            "mask": sample.trajectory.mask,
            **{f"tensors/{k}": v for k, v in sample.trajectory.tensors.items()},
        }.items()
    }
    save_file(tensors, place / "trajectories.safetensors")
    places = [group.index for group in groups]
    (place / "indices.json").write_text(json.dumps(places), encoding="utf-8")
    loose = [[_loose(sample) for sample in group.samples] for group in groups]
    (place / "loose.json").write_text(json.dumps(strict(loose, finite=False)), encoding="utf-8")


def load_groups(places: Sequence[Path], rank: int, world: int) -> list[Group]:
    """This process's share of the groups in these folders, in the order of their indices."""
    found: list[Group] = []
    for place in places:
        groups, _ = read_step(place, "groups")
        tensors = load_file(place / "trajectories.safetensors")
        indices = json.loads((place / "indices.json").read_text(encoding="utf-8"))
        loose = json.loads((place / "loose.json").read_text(encoding="utf-8"))
        for g, (group, index) in enumerate(zip(groups, indices)):
            group.index = index
            for s, sample in enumerate(group.samples):
                sample.info = loose[g][s]["info"]
                details = loose[g][s]["details"]
                sample.scores = {k: replace(v, details=details[k]) for k, v in sample.scores.items()}
                mine = {k.removeprefix(f"{g}/{s}/"): v for k, v in tensors.items() if k.startswith(f"{g}/{s}/")}
                if mine:
                    rest = {k.removeprefix("tensors/"): v for k, v in mine.items() if k.startswith("tensors/")}
                    sample.trajectory = Trajectory(mine["logp"], mine["mask"], rest)
            if index % world == rank:
                found.append(group)
    return sorted(found, key=lambda group: group.index)


def _loose(sample: Sample) -> dict[str, Any]:
    """What is not typed, and would lose NaN and infinities in the sample store."""
    return {"info": sample.info, "details": {name: score.details for name, score in sample.scores.items()}}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """The optimizer's state by parameter name."""
    parameters = optimizer.param_groups[0]["params"]
    return {
        f"optim/{name}/{key}": torch.as_tensor(value)
        for name, parameter in zip(names, parameters)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: dict[str, Tensor]) -> None:
    """The inverse of optimizer_tensors."""
    for name, parameter in zip(names, optimizer.param_groups[0]["params"]):
        prefix = f"optim/{name}/"
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if state:
            optimizer.state[parameter] = {
                k: v if k == "step" else v.to(parameter.device, parameter.dtype) for k, v in state.items()
            }
