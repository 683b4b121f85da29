"""Groups and samples as the records of the sample store, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrl.reporting.artifacts import load_artifact, save_artifact
from mmrl.reporting.conversations import GroupPictures, Render, media_record, read_media, read_turn, turn_record
from mmrl.reporting.folder import RunFolder
from mmrl.reporting.sample_index import read_index
from mmrl.types import Group, Prompt, Sample, Score

KEPT = ("options_order",)  # of a prompt's record: in which order mmrl.data.choices put its options


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


def _kept(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored of a prompt's record."""
    return {name: record[name] for name in KEPT if record.get(name) is not None}


def group_record(group: Group, stem: str, folder: Path, render: Render | None) -> dict[str, Any]:
    pictures = GroupPictures(folder, stem, render) if render else None
    return {
        "prompt": {"id": group.prompt.id, "text": group.prompt.text, **_kept(group.prompt.record)},
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
