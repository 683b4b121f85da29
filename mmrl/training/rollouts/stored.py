"""Groups of samples on disk, losslessly: rollouts that are not used up when a run stops."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from mmrl.data.choices import ORDER, in_order
from mmrl.data.held import ById
from mmrl.reporting.files import strict
from mmrl.reporting.sample_records import read_step
from mmrl.reporting.samples import write_step
from mmrl.training.rollouts.hints import HINT, PLAIN
from mmrl.types import Group, Prompt, Sample, Trajectory


def save_queue(folder: Path, rank: int, queue: Sequence[Sequence[Group]]) -> None:
    """One process's part of the rollouts that are not used up, oldest first."""
    for number, groups in enumerate(queue):
        save_groups(folder / f"pending_{number:03d}_{rank}", groups)


def load_queue(folder: Path, rank: int, world: int, prompts: Sequence[Prompt]) -> list[list[Group]]:
    """This process's share of the saved rollouts, oldest first, whatever number of processes saved them.

    prompts: those that were asked; the store keeps ids and texts only, and they get their records back.
    """
    numbers = sorted({place.name.split("_")[1] for place in folder.glob("pending_*")})
    queue = [load_groups(sorted(folder.glob(f"pending_{number}_*")), rank, world) for number in numbers]
    known = ById(prompts)
    for group in (group for groups in queue for group in groups):
        group.prompt = with_record(group.prompt, known)
        for sample in group.samples:
            sample.prompt = group.prompt
    return queue


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


def with_record(prompt: Prompt, known: Mapping[str, Prompt]) -> Prompt:
    """A prompt of which only id, text and the order of its options were stored, with the record and folder that it had;
    itself if unknown.

    A hinted prompt ("q7#hint2") and a branching ("q7/0/2") have the record of what they were made from.
    """
    origin, _, level = prompt.id.rpartition(HINT)
    if prompt.id in known or origin not in known:
        origin, level = prompt.id, ""
    while origin not in known and re.search(r"/\d+$", origin):
        origin = origin.rpartition("/")[0]
    if origin not in known:
        return prompt
    source = in_order(known[origin], prompt.record.get(ORDER))
    if origin == prompt.id:
        return source
    hint = {PLAIN: {"id": origin, "text": source.text, "level": int(level)}} if level else {}
    return Prompt(prompt.id, prompt.text, {**source.record, **hint}, source.root)
