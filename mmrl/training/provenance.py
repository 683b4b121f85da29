"""What a run was made with, and whether a resume may go on with something else."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrl import objects
from mmrl.config import Config, ForwardPreferenceStage, PreferenceStage, RewardModelStage
from mmrl.config.data import is_function
from mmrl.data.sources import files_of
from mmrl.share import resolve
from mmrl.training.cursor import Cursor
from mmrl.training.run import Run
from mmrl.training.tensors import CheckpointError
from mmrl.types import Prompt

# Sections and keys that say where a run is, what is shown of it and how fast it goes, not what it computes.
PLACE = ("name", "out")
RUNNING = ("device", "threads", "timeout", "sharding.shards", "sharding.sync")
FREE = (*PLACE, *RUNNING, "about", "trackers", "checkpoint", "report", "eval", "data.eval_prompts")
FREE_OF_STAGE = ("micro_batch", "expert.micro_batch", "rollout_chunk", "max_invalid")
FREE_OF_REWARD = ("timeout",)
LISTED = ("stages.", "rewards.")
_MISSING = "(not there)"
_SHOWN = 60
_OF_FILES = " of files"  # behind a hash of what files hold, not of the prompts that were made of them


@dataclass(frozen=True)
class Difference:
    """A key of the config whose value, or whose file's content, is not the one that the run began with."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_short(self.before)} -> {_short(self.now)}"


def made_with(run: Run) -> dict[str, Any]:
    """What a checkpoint records of its run: config, those of its keys that have another value than their default,
    processes, and what its files held."""
    return {
        "config": run.config.model_dump(mode="json"),
        "chosen": _chosen(run.config),
        "world": run.processes.world,
        "content": dict(_content(run)),
        "code": dict(_code(run.config)),
    }


def all_differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Between two of `made_with`: keys of the configs, and keys whose files have another content.

    An option that the saved config does not know and that is at its default is none: an earlier mmrl began the run. So
    is a whole section; a stage or a reward is one.
    """
    found = differences(saved["config"], now["config"])
    known = {_owner(key) for key in _flat(_by_name(saved["config"]))}
    found = [d for d in found if d.before != _MISSING or d.key in now["chosen"] or _is_added(d.key, known)]
    told = {difference.key for difference in found}
    before, after = saved["content"], now["content"]
    changed = [key for key in after if key in before and _is_other(before[key], after[key]) and key not in told]
    return found + [Difference(key, before[key], after[key]) for key in changed]


def _is_other(before: str, after: str) -> bool:
    """Whether data has another content. Of hashes of two kinds, as of a run that an earlier mmrl began, only the
    numbers can be compared."""
    if before.endswith(_OF_FILES) == after.endswith(_OF_FILES):
        return before != after
    return before.partition(",")[0] != after.partition(",")[0]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Keys that differ between two dumped configs, stages by their names."""
    one, other = _flat(_by_name(before)), _flat(_by_name(now))
    keys = list(dict.fromkeys([*one, *other]))
    return [
        Difference(key, one.get(key, _MISSING), other.get(key, _MISSING))
        for key in keys
        if one.get(key, _MISSING) != other.get(key, _MISSING)
    ]


def refuse_other_run(saved: Mapping[str, Any], now: Mapping[str, Any], cursor: Cursor, allow: Sequence[str]) -> None:
    """Compare what the checkpoint's run was made with (of `made_with`) and what this one is.

    Free are keys that change nothing of what is computed, more steps of the last stage that began, and stages that have
    not begun. Raises CheckpointError with the other differences, unless `allow` names their keys, or sections that they
    are in; for a key of `allow` that does not differ; and for fewer steps than are done.
    """
    found = all_differences(saved, now)
    _refuse_fewer_steps(now["config"], cursor)
    idle = [key for key in allow if not any(_within(d.key, key) for d in found)]
    if idle:
        known = ", ".join(d.key for d in found) or "nothing does"
        raise CheckpointError(f"--allow {idle[0]}: this does not differ from what the run began with ({known})")
    begun = _begun(saved["config"], now["config"], cursor)
    refused = [d for d in found if not any(_within(d.key, key) for key in allow) and not _is_free(d.key, begun, cursor)]
    if refused:
        lines = "\n".join(f"  {difference}" for difference in refused)
        raise CheckpointError(
            f"the run began with another config, and its checkpoint would not go on as it was:\n{lines}\ngive the same "
            f"values as before (its config.yaml), or take the new ones with --resume --allow {refused[0].key}"
        )


def changed_code(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Files of rewards and records whose code is not what the run began with: nobody can say what that changes."""
    return [name for name, mark in now["code"].items() if saved["code"].get(name, mark) != mark]


# -------------------------------------------------------------------- what is free


def _refuse_fewer_steps(config: Mapping[str, Any], cursor: Cursor) -> None:
    stages = config["stages"]
    if cursor.stage >= len(stages):
        raise CheckpointError(f"the checkpoint is in stage {cursor.stage + 1}, which the config does not have")
    stage = stages[cursor.stage]
    if stage["steps"] < cursor.open_steps:
        raise CheckpointError(
            f"stages.{stage['name']}.steps: {stage['steps']} are fewer than the {cursor.open_steps} that the run has "
            f"begun; give {cursor.open_steps} or more"
        )


def _begun(before: Mapping[str, Any], now: Mapping[str, Any], cursor: Cursor) -> dict[str, int]:
    """Name -> number of the stages that have begun, or would have, were this the config from the start."""
    found: dict[str, int] = {}
    for config in (before, now):
        for number, stage in enumerate(config["stages"]):
            if number <= cursor.stage:
                found[stage["name"]] = number
    return found


def _is_free(key: str, begun: Mapping[str, int], cursor: Cursor) -> bool:
    if any(_within(key, free) for free in FREE):
        return True
    section, _, rest = key.partition(".")
    name, _, option = rest.partition(".")
    if section == "rewards":
        return option in FREE_OF_REWARD
    if section != "stages":
        return False
    if name not in begun:
        return True
    return option in FREE_OF_STAGE or (option == "steps" and begun[name] == cursor.stage)


def _within(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def _by_name(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its stages as a mapping by name, in which their order shows, too."""
    made = copy.deepcopy(dict(config))
    made["stages"] = {stage["name"]: {**stage, "number": i} for i, stage in enumerate(made.get("stages", ()))}
    return made


def _chosen(config: Config) -> list[str]:
    """The keys whose values are not their defaults."""
    chosen = config.model_dump(mode="json", exclude_defaults=True)
    stages = [{**given, "name": stage.name} for given, stage in zip(chosen.get("stages", ()), config.stages)]
    return list(_flat(_by_name({**chosen, "stages": stages})))


def _is_added(key: str, known: Collection[str]) -> bool:
    """Whether a key is of a stage or a reward that is not among the known owners."""
    return key.startswith(LISTED) and _owner(key) not in known


def _owner(key: str) -> str:
    """The stage or reward that a key is of, or its section: "stages.grpo" of "stages.grpo.optim.lr"."""
    return ".".join(key.split(".")[: 2 if key.startswith(LISTED) else 1])


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Every value by its key with dots; a list of sections (rewards) by their numbers."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = {str(number): item for number, item in enumerate(value)}
    if not (isinstance(value, Mapping) and value):
        return {key: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{key}.{name}" if key else str(name))
    return found


def _short(value: Any) -> str:
    text = repr(value) if value != _MISSING else _MISSING
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


# -------------------------------------------------------------------- what files held


def _content(run: Run) -> Iterator[tuple[str, str]]:
    """(key of the config, what its file holds, in a few words)."""
    data = run.data
    if data.prompts:
        yield "data.prompts", f"{len(data.prompts)} prompts, hash {_mark_of_many(run) or mark_of_prompts(data.prompts)}"
    if data.records is not None:
        mark = _mark_of_source(str(run.config.data.records), run.config.data.split)
        yield "data.records", f"{data.records.count} records" + (f", hash {mark}" if mark else "")
    for stage in run.config.stages:
        if (
            isinstance(stage, PreferenceStage | ForwardPreferenceStage | RewardModelStage)
            and stage.pairs
            and (mark := _mark_of_source(stage.pairs, run.config.data.split))
        ):
            yield f"stages.{stage.name}.pairs", f"hash {mark}"


def _code(config: Config) -> Iterator[tuple[str, str]]:
    """(file or function, mark of its code) of what is the user's own: rewards, data, stages, the modality, the
    environment, and functions that the model section names."""
    names = [*(reward.name for reward in config.rewards), *(stage.kind for stage in config.stages)]
    names += [reward.name for reward in config.eval.rewards or ()]
    data = config.data
    names += [
        data.prompts or "",
        data.eval_prompts or "",
        data.records or "",
        config.modality,
        str((config.environment or {}).get("name", "")),
        *(value for value in config.model_dump(mode="json")["model"].values() if isinstance(value, str)),
    ]
    for name in names:
        if objects.is_function(name):
            yield name, objects.mark_of_code(objects.held(name))
        file, _, _ = name.rpartition(":")
        if file.endswith(".py") and (mark := _mark_of_file(file)):
            yield file, mark


def _mark_of_many(run: Run) -> str | None:
    """Of more prompts than were looked at, what their files hold, which is read a hundred times faster than prompts are
    made; None for fewer, and for prompts that no file holds."""
    data, looked_at = run.config.data, run.config.prompts_looked_at
    if looked_at is None or len(run.data.prompts) <= looked_at or is_function(data.prompts):
        return None
    mark = _mark_of_source(str(data.prompts), data.split)
    return f"{mark}{_OF_FILES}" if mark else None


def mark_of_prompts(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        # Rewards read the record, too: its gold is a part of the question.
        record = json.dumps(prompt.record, sort_keys=True, default=lambda value: type(value).__name__)
        for text in (prompt.id, prompt.text, record):
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()[:12]


def _mark_of_source(name: str, split: str) -> str | None:
    """Of what a file, or the files of a folder or of a pattern, hold; None for what has none, such as the hub's."""
    files = files_of(name, split)
    marks = [_mark_of_file(str(file)) or "" for file in files]
    return hashlib.sha256(" ".join(marks).encode()).hexdigest()[:12] if marks else _mark_of_file(name)


def _mark_of_file(name: str) -> str | None:
    """Of what the file holds; None for what is none, such as a data set of the hub."""
    try:
        path = Path(resolve(name))
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except (OSError, ValueError):
        return None
