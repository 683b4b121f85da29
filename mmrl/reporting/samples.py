"""The sample store: what was shown, said and drawn, with its scores, one folder a step.

samples/<tag>/index.json holds the records, beside it one file per artifact and one per picture that a policy was
shown. Where several processes write one step, each has such a folder of its own, samples/<tag>/part_<number>/, and
readers join them. A folder is built under a hidden name and renamed, so a part is there whole or not at all.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from mmrl.reporting.conversations import Render
from mmrl.reporting.disk import sync, writing
from mmrl.reporting.files import dumps
from mmrl.reporting.sample_index import TAG, list_tags, part_name
from mmrl.reporting.sample_records import group_record
from mmrl.reporting.thinning import thin_out
from mmrl.types import Group


class SampleStore:
    """The sample store of one process of a run.

    render: makes the pictures that the policy was shown, of which each different one is stored once per group.
    part, parts: which of how many processes this is; every process writes the same tags, in any order.
    """

    def __init__(self, run_dir: Path, render: Render | None = None, part: int = 0, parts: int = 1) -> None:
        self.run_dir, self.render, self.part, self.parts = Path(run_dir), render, part, parts
        self._unsynced: list[Path] = []

    def write(self, tag: str, groups: Sequence[Group], extra: Mapping[str, Any] | None = None) -> Path:
        """See write_step."""
        return self._kept(write_step(self.run_dir, tag, groups, extra, self.render, self.part, self.parts))

    def thin_out(self, kind: str, step: int, every: int, most: int) -> None:
        """See thinning.thin_out; the first process does it, when all have written the step."""
        if self.part == 0:
            thin_out(self.run_dir, kind, step, every, most)

    def offending(self, groups: Sequence[Group], why: str) -> Path:
        """See write_offending."""
        return self._kept(write_offending(self.run_dir, groups, why, self.render))

    def sync(self) -> None:
        """Have all that was written since the last call on the disk when this returns. Raises WriteError."""
        for folder in self._unsynced:
            sync_step(folder)
        self._unsynced = []

    def _kept(self, folder: Path) -> Path:
        self._unsynced.append(folder)
        return folder


def write_step(
    run_dir: Path,
    tag: str,
    groups: Sequence[Group],
    extra: Mapping[str, Any] | None = None,
    render: Render | None = None,
    part: int = 0,
    parts: int = 1,
) -> Path:
    """Store `groups` as samples/<tag>/ and return that folder. Writing a tag again replaces it.

    tag: "step_000012", "eval_before", "eval_000050", "eval_after" ...; letters, digits, `_ . -`.
    extra: anything else worth keeping with the step (strict JSON); of several parts, that of the first is read.
    part, parts: the number of this process, from 0, and how many of them write their groups of this step, none waiting
    for another.
    Raises ValueError for another tag, TypeError for an artifact whose type nobody registered, WriteError where the
    disk does not take it; then nothing is left of it, and what was there before stays.
    """
    if not TAG.fullmatch(tag):
        raise ValueError(f"sample tag {tag[:80]!r} is not a file name; use letters, digits, '_', '.' and '-'")
    if not 0 <= part < parts:
        raise ValueError(f"part {part} of {parts} of the samples {tag!r}: parts are counted from 0")
    step = Path(run_dir) / "samples" / tag
    building = step.with_name(f".{tag}.{part}.tmp")
    with writing(step):
        shutil.rmtree(building, ignore_errors=True)
        try:
            building.mkdir(parents=True)
            index = {
                "tag": tag,
                "parts": parts,
                "groups": [group_record(g, f"{place:04d}", building, render) for place, g in enumerate(groups)],
                "extra": extra or {},
            }
            (building / "index.json").write_text(dumps(index), encoding="utf-8")
            if parts > 1:
                step.mkdir(exist_ok=True)
            if part == 0 and parts > 1:
                _clear(step, parts)
            _replace(building, step / part_name(part) if parts > 1 else step)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    return step


def write_offending(run_dir: Path, groups: Sequence[Group], why: str, render: Render | None = None) -> Path:
    """Keep the groups that broke a step under samples/offending_XXXXXX/, with the reason in extra["why"].

    Each call has a folder of its own, also where several processes call at once.
    """
    numbers = [tag.removeprefix("offending_") for tag in list_tags(run_dir, "offending_")]
    last = max((int(number) for number in numbers if number.isdecimal()), default=0)
    folders = (Path(run_dir) / "samples" / f"offending_{number:06d}" for number in count(last + 1))
    mine = next(folder for folder in folders if _claimed(folder))
    return write_step(run_dir, mine.name, groups, {"why": why}, render)


def sync_step(folder: Path) -> None:
    """Have a folder that write_step returned, and its name, on the disk when this returns. Raises WriteError."""
    with writing(folder):
        for path in [*folder.rglob("*"), folder, folder.parent]:
            try:
                sync(path)
            except FileNotFoundError:  # another process replaces its part
                continue


def _claimed(folder: Path) -> bool:
    """Make the folder; False where it is there already."""
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            return False
    return True


def _replace(building: Path, final: Path) -> None:
    """Put a finished folder in its place; the one that was there stays if that fails."""
    retired = building.with_suffix(".old")
    shutil.rmtree(retired, ignore_errors=True)
    try:
        os.replace(building, final)  # nothing there, or an empty folder
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    os.replace(final, retired)
    try:
        os.replace(building, final)
    except OSError:
        os.replace(retired, final)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _clear(step: Path, parts: int) -> None:
    """Remove what an earlier writing of the step left that no part of this one replaces, its index first."""
    (step / "index.json").unlink(missing_ok=True)
    current = {part_name(number) for number in range(parts)}
    for path in step.iterdir():
        if not path.is_dir():
            path.unlink()
        elif path.name not in current:
            (path / "index.json").unlink(missing_ok=True)
            shutil.rmtree(path)
