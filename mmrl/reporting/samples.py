"""The sample store: what was shown, said and drawn, with its scores, one folder a step.

samples/<tag>/index.json holds the records, beside it one file per artifact and one per picture that a policy was
shown. Where several processes write one step, each has such a folder of its own, samples/<tag>/part_<number>/, and
readers join them. A folder is built under a hidden name and renamed, so a part is there whole or not at all.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from mmrl.reporting.artifacts import load_artifact, save_artifact
from mmrl.reporting.conversations import GroupPictures, Render, media_record, read_media, read_turn, turn_record
from mmrl.reporting.disk import sync, writing
from mmrl.reporting.files import dumps
from mmrl.reporting.folder import RunFolder
from mmrl.reporting.thinning import thin_out
from mmrl.types import Group, Prompt, Sample, Score

PART = re.compile(r"part_[0-9]{4,}")
MOST_PARTS = 4096
KEPT = ("options_order",)  # of a prompt's record: in which order mmrl.data.choices put its options
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


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
                "groups": [_group_record(g, f"{place:04d}", building, render) for place, g in enumerate(groups)],
                "extra": extra or {},
            }
            (building / "index.json").write_text(dumps(index), encoding="utf-8")
            if parts > 1:
                step.mkdir(exist_ok=True)
            if part == 0 and parts > 1:
                _clear(step, parts)
            _replace(building, step / _part_name(part) if parts > 1 else step)
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


def list_tags(run_dir: Path, prefix: str = "") -> list[str]:
    """Stored tags that start with `prefix`, sorted by name."""
    try:
        names = os.listdir(Path(run_dir) / "samples")
    except OSError:
        return []
    chosen = (name for name in sorted(names) if TAG.fullmatch(name) and name.startswith(prefix))
    return [name for name in chosen if index_names(run_dir, name)]


def read_index(run_dir: Path, tag: str) -> dict[str, Any]:
    """The records of a tag: {"groups": [{"prompt", "index", "samples": [...]}], "extra", "missing"}, all parts joined.

    Files are named from samples/<tag>/. missing: numbers of the parts that are not there.
    Raises FileNotFoundError with the tags that exist, and ValueError where an index is not one, or a file's name leaves
    its folder.
    """
    names = index_names(run_dir, tag)
    if not names:
        known = ", ".join(list_tags(run_dir)) or "none"
        raise FileNotFoundError(f"{Path(run_dir) / 'samples' / tag} has no index.json; stored tags: {known}")
    folder, parts = RunFolder(run_dir), {}
    for name in names:
        try:
            parts[name] = json.loads(folder.file(name).read_text(encoding="utf-8"))
            unsafe = next((file for file in _files(parts[name]) if Path(file).name != file), None)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder.root / name}: is no index of samples ({type(error).__name__}: {error})"
            ) from None
        if unsafe is not None:  # a run folder may come from someone else
            raise ValueError(f"{folder.root / name}: artifact {unsafe!r} must be a file name inside the folder")
    return join_parts(parts)


def index_names(run_dir: Path, tag: str) -> list[str]:
    """The index files of a tag by their names in the run's folder: one, or one for each part that is there."""
    step = f"samples/{tag}"
    folder = RunFolder(run_dir)
    if folder.has(f"{step}/index.json"):
        return [f"{step}/index.json"]
    try:
        parts = sorted(name for name in os.listdir(Path(run_dir) / step) if PART.fullmatch(name))
    except OSError:  # no folder, or one that another process is just replacing
        return []
    return [f"{step}/{part}/index.json" for part in parts if folder.has(f"{step}/{part}/index.json")]


def join_parts(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What read_index returns, from the index of each part by the name of its file.

    The groups of several parts come in the order of their places in the step (those with the same, by part). Parts that
    another number of processes wrote than the first are left over from before, and not read.
    """
    first = next(iter(parts.values()))
    world = first.get("parts", 1)
    groups: list[Mapping[str, Any]] = []
    there: set[str] = set()
    for name, index in parts.items():
        part = "/".join(name.split("/")[2:-1])
        if index.get("parts", 1) == world:
            there.add(part)
            groups += [_below(part, group) for group in index["groups"]] if part else index["groups"]
    if there != {""}:
        groups.sort(key=lambda group: group["index"])
    wanted = [_part_name(number) for number in range(min(world, MOST_PARTS))] if world > 1 else []
    return {"groups": groups, "extra": first["extra"], "missing": [name for name in wanted if name not in there]}


def read_step(run_dir: Path, tag: str) -> tuple[list[Group], dict[str, Any]]:
    """The groups of a tag, artifacts loaded, and its `extra`. Trajectories and records are not stored, but for the
    order of options.

    Raises what read_index raises, and Unreadable (a ValueError) for an artifact that is not a file in the folder.
    """
    index = read_index(run_dir, tag)
    folder = RunFolder(run_dir)
    groups = []
    for record in index["groups"]:
        asked = record["prompt"]
        prompt = Prompt(asked["id"], asked["text"], _kept(asked))
        samples = [_sample(entry, prompt, folder, tag) for entry in record["samples"]]
        groups.append(Group(prompt, record["index"], samples))
    return groups, index["extra"]


# -------------------------------------------------------------------- folders


def _part_name(part: int) -> str:
    return f"part_{part:04d}"


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
    current = {_part_name(number) for number in range(parts)}
    for path in step.iterdir():
        if not path.is_dir():
            path.unlink()
        elif path.name not in current:
            (path / "index.json").unlink(missing_ok=True)
            shutil.rmtree(path)


# -------------------------------------------------------------------- records


def _files(index: Mapping[str, Any]) -> Iterator[str]:
    """Every file that an index names."""
    for group in index["groups"]:
        for sample in group["samples"]:
            names = (sample["file"], *(shown.get("file") for shown in sample.get("media", ())))
            yield from (name for name in names if name is not None)


def _below(part: str, group: Mapping[str, Any]) -> dict[str, Any]:
    """A group of a part with its files named from the step's folder."""

    def placed(record: Mapping[str, Any]) -> dict[str, Any]:
        return {**record, "file": f"{part}/{record['file']}"} if record.get("file") is not None else {**record}

    samples = [{**placed(sample), "media": [placed(m) for m in sample.get("media", ())]} for sample in group["samples"]]
    return {**group, "samples": samples}


def _group_record(group: Group, stem: str, folder: Path, render: Render | None) -> dict[str, Any]:
    pictures = GroupPictures(folder, stem, render) if render else None
    return {
        "prompt": {"id": group.prompt.id, "text": group.prompt.text, **_kept(group.prompt.record)},
        "index": group.index,
        "samples": [
            _sample_record(sample, f"{stem}_{number:03d}", folder, pictures)
            for number, sample in enumerate(group.samples)
        ],
    }


def _kept(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored of a prompt's record."""
    return {name: record[name] for name in KEPT if record.get(name) is not None}


def _sample_record(sample: Sample, stem: str, folder: Path, pictures: GroupPictures | None) -> dict[str, Any]:
    return {
        "index": sample.index,
        "file": None if sample.artifact is None else save_artifact(sample.artifact, folder, stem),
        "stop": sample.stop,
        "version": sample.version,
        "reward": sample.reward,
        "advantage": sample.advantage,
        "actions": _actions(sample),
        "scores": {
            name: {
                "value": score.value,
                "status": score.status,
                "reason": score.reason,
                "details": score.details,
            }
            for name, score in sample.scores.items()
        },
        "turns": [turn_record(turn) for turn in sample.turns],
        "media": [media_record(m) | (pictures.save(sample, m) if pictures else {}) for m in sample.media],
        "info": sample.info,
    }


def _actions(sample: Sample) -> dict[str, list] | None:
    """Words, log-probs and the mask of the actions, where the modality gives words; and advantages of their own."""
    if not sample.words or sample.trajectory is None:
        return None
    logp = [round(value, 4) for value in sample.trajectory.logp.tolist()]
    own = {"advantage": [round(value, 4) for value in sample.advantages]} if len(sample.advantages) else {}
    return {"words": list(sample.words), "logp": logp, "trained": sample.trajectory.mask.tolist(), **own}


def _sample(entry: Mapping[str, Any], prompt: Prompt, folder: RunFolder, tag: str) -> Sample:
    file = None if entry["file"] is None else folder.file(f"samples/{tag}/{entry['file']}")
    return Sample(
        prompt=prompt,
        index=entry["index"],
        artifact=None if file is None else load_artifact(file),
        stop=entry["stop"],
        scores={name: Score(**score) for name, score in entry["scores"].items()},
        reward=entry["reward"],
        advantage=entry["advantage"],
        words=(entry.get("actions") or {}).get("words", ()),
        turns=tuple(map(read_turn, entry.get("turns", ()))),
        media=tuple(map(read_media, entry.get("media", ()))),
        info=entry.get("info", {}),
        version=entry.get("version", 0),
    )
