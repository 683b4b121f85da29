"""What a run was made with, and whether a resume may go on with something else."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmrl.config import Config
from mmrl.training.cursor import Cursor
from mmrl.training.tensors import CheckpointError

# Sections and keys that say where a run is, what is shown of it and how fast it goes, not what it computes.
FREE = ("name", "about", "out", "trackers", "checkpoint", "report", "eval", "device", "threads", "timeout", "data.eval_prompts")
FREE_OF_STAGE = ("micro_batch", "rollout_chunk", "max_invalid")
_MISSING = "(not there)"
_SHOWN = 60


@dataclass(frozen=True)
class Difference:
    """A key of the config whose value is not the one that the run began with."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_short(self.before)} -> {_short(self.now)}"


def made_with(config: Config, world: int) -> dict[str, Any]:
    """What a checkpoint records of its run."""
    return {"config": config.model_dump(mode="json"), "world": world}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Keys that differ between two dumped configs, stages by their names."""
    one, other = _flat(_by_name(before)), _flat(_by_name(now))
    keys = list(dict.fromkeys([*one, *other]))
    return [
        Difference(key, one.get(key, _MISSING), other.get(key, _MISSING))
        for key in keys
        if one.get(key, _MISSING) != other.get(key, _MISSING)
    ]


def refuse_other_run(
    saved: Mapping[str, Any], config: Config, cursor: Cursor, allow: Sequence[str]
) -> list[Difference]:
    """Compare the config with the one that the checkpoint's run was made with; returns what differs and is allowed.

    Free are keys that change nothing of what is computed, more steps of a stage that has not begun or is the last that
    did, and stages behind it. Raises CheckpointError with the other differences, unless `allow` names their keys, or
    sections that they are in; and for a key of `allow` that does not differ.
    """
    found = differences(saved["config"], config.model_dump(mode="json"))
    stages = [stage.name for stage in config.stages]
    told, refused = [], []
    for difference in found:
        if any(_within(difference.key, key) for key in allow):
            told.append(difference)
        elif not _is_free(difference, stages, cursor):
            refused.append(difference)
    idle = [key for key in allow if not any(_within(d.key, key) for d in found)]
    if idle:
        known = ", ".join(d.key for d in found) or "nothing does"
        raise CheckpointError(f"--allow {idle[0]}: this does not differ from what the run began with ({known})")
    if refused:
        lines = "\n".join(f"  {difference}" for difference in refused)
        raise CheckpointError(
            f"the run began with another config, and its checkpoint would not go on as it was:\n{lines}\ngive the same "
            f"values as before (its config.yaml), or take the new ones with --resume --allow {refused[0].key}"
        )
    return told


def _is_free(difference: Difference, stages: Sequence[str], cursor: Cursor) -> bool:
    if any(_within(difference.key, key) for key in FREE):
        return True
    section, _, rest = difference.key.partition(".")
    if section != "stages":
        return False
    name, _, key = rest.partition(".")
    number = stages.index(name) if name in stages else -1
    if number > cursor.stage:  # has not begun
        return True
    if key == "steps" and number == cursor.stage:
        return isinstance(difference.now, int) and difference.now >= cursor.step
    return key in FREE_OF_STAGE


def _within(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def _by_name(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its stages as a mapping by name, in which their order shows, too."""
    made = copy.deepcopy(dict(config))
    made["stages"] = {stage["name"]: {**stage, "number": i} for i, stage in enumerate(made.get("stages", ()))}
    return made


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not (isinstance(value, Mapping) and value):
        return {key: value}
    for name, inner in value.items():
        found |= _flat(inner, f"{key}.{name}" if key else str(name))
    return found


def _short(value: Any) -> str:
    text = repr(value) if value != _MISSING else _MISSING
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
