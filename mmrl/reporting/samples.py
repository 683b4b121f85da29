"""The sample store: what was shown, said and drawn, with its scores, one folder a step.

samples/<tag>/index.json holds the records, beside it one file per artifact and one per picture that a policy was
shown. A folder is built under a hidden name and renamed, so a tag is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrl.reporting.artifacts import load_artifact, save_artifact
from mmrl.reporting.conversations import GroupPictures, Render, media_record, read_media, read_turn, turn_record
from mmrl.reporting.files import dumps
from mmrl.types import Group, Prompt, Sample, Score

TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def write_step(
    run_dir: Path,
    tag: str,
    groups: Sequence[Group],
    extra: Mapping[str, Any] | None = None,
    render: Render | None = None,
) -> Path:
    """Store `groups` as samples/<tag>/ and return that folder. Writing a tag again replaces it.

    tag: "step_000012", "eval_before", "eval_000050", "eval_after" ...; letters, digits, `_ . -`.
    extra: anything else worth keeping with the step (strict JSON).
    render: makes the pictures that the policy was shown, of which each different one is stored once per group.
    Raises ValueError for another tag, TypeError for an artifact whose type nobody registered.
    """
    if not TAG.fullmatch(tag):
        raise ValueError(f"sample tag {tag!r} is not a file name; use letters, digits, '_', '.' and '-'")
    final = Path(run_dir) / "samples" / tag
    building = final.with_name(f".{tag}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    index = {
        "tag": tag,
        "groups": [_group_record(group, f"{place:04d}", building, render) for place, group in enumerate(groups)],
        "extra": extra or {},
    }
    (building / "index.json").write_text(dumps(index, indent=1), encoding="utf-8")
    if final.exists():
        shutil.rmtree(final)
    os.replace(building, final)
    return final


def write_offending(run_dir: Path, groups: Sequence[Group], why: str, render: Render | None = None) -> Path:
    """Keep the groups that broke a step under samples/offending_XXXXXX/, with the reason in extra["why"]."""
    numbers = [tag.removeprefix("offending_") for tag in list_tags(run_dir, "offending_")]
    last = max((int(number) for number in numbers if number.isdecimal()), default=0)
    return write_step(run_dir, f"offending_{last + 1:06d}", groups, {"why": why}, render)


def list_tags(run_dir: Path, prefix: str = "") -> list[str]:
    """Stored tags that start with `prefix`, sorted by name."""
    found = (Path(run_dir) / "samples").glob("*/index.json")
    names = (path.parent.name for path in found)
    return sorted(name for name in names if TAG.fullmatch(name) and name.startswith(prefix))


def read_index(run_dir: Path, tag: str) -> dict[str, Any]:
    """index.json of a tag: {"tag", "groups": [{"prompt", "index", "samples": [...]}], "extra"}.

    Raises FileNotFoundError with the tags that exist, and ValueError when a file name leaves the folder.
    """
    path = Path(run_dir) / "samples" / tag / "index.json"
    if not path.is_file():
        known = ", ".join(list_tags(run_dir)) or "none"
        raise FileNotFoundError(f"{path} does not exist; stored tags: {known}")
    index = json.loads(path.read_text(encoding="utf-8"))
    for group in index["groups"]:
        for sample in group["samples"]:
            for name in (sample["file"], *(shown.get("file") for shown in sample.get("media", ()))):
                if name is not None and Path(name).name != name:  # a run folder may come from someone else
                    raise ValueError(f"{path}: artifact {name!r} must be a file name inside the folder")
    return index


def read_step(run_dir: Path, tag: str) -> tuple[list[Group], dict[str, Any]]:
    """The groups of a tag, artifacts loaded, and its `extra`. Trajectories and records are not stored."""
    index = read_index(run_dir, tag)
    folder = Path(run_dir) / "samples" / tag
    groups = []
    for record in index["groups"]:
        prompt = Prompt(**record["prompt"])
        samples = [_sample(entry, prompt, folder) for entry in record["samples"]]
        groups.append(Group(prompt, record["index"], samples))
    return groups, index["extra"]


def _group_record(group: Group, stem: str, folder: Path, render: Render | None) -> dict[str, Any]:
    pictures = GroupPictures(folder, stem, render) if render else None
    return {
        "prompt": {"id": group.prompt.id, "text": group.prompt.text},
        "index": group.index,
        "samples": [
            _sample_record(sample, f"{stem}_{number:03d}", folder, pictures)
            for number, sample in enumerate(group.samples)
        ],
    }


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


def _sample(entry: Mapping[str, Any], prompt: Prompt, folder: Path) -> Sample:
    return Sample(
        prompt=prompt,
        index=entry["index"],
        artifact=None if entry["file"] is None else load_artifact(folder / entry["file"]),
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
