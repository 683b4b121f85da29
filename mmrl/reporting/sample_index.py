"""What the sample store holds: its tags, and the records of one, the parts of several processes joined."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmrl.reporting.folder import RunFolder

PART = re.compile(r"part_[0-9]{4,}")
MOST_PARTS = 4096
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


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
    wanted = [part_name(number) for number in range(min(world, MOST_PARTS))] if world > 1 else []
    return {"groups": groups, "extra": first["extra"], "missing": [name for name in wanted if name not in there]}


def part_name(part: int) -> str:
    return f"part_{part:04d}"


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
