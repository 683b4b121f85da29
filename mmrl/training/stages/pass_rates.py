"""Pass rates: how often a policy answered each prompt right, in a file beside the records that tells what it was.

The first line says which policy it was, by a hash of all its weights, and how it was asked; each other line is of one
prompt. Rates of another policy, or of other sampling, are others: `check` refuses them unless they are asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmrl.config import ConfigError, FilterStage
from mmrl.modalities.marks import mark_of_weights
from mmrl.share import resolve
from mmrl.training.provenance import differences, mark_of_prompts
from mmrl.training.run import Run
from mmrl.types import Prompt

# Of the model section: where the weights are, which the hash tells, and how fast they are used.
_NOT_SAMPLING = frozenset({
    *("path", "revision", "build", "trust_remote_code", "train", "lora", "head", "first_share", "precise"),
    *("precise_weight", "evaluation"),
    *("engine", "rollout_batch", "logits_chunk", "attention", "gradient_checkpointing", "compile", "picture_cache"),
    "media_cache",
    *("audio", "vision"),  # whether a tower is trained
})  # fmt: skip


@dataclass(frozen=True)
class Rate:
    """Of one prompt: the share of right answers among those that have a reward, `answers` of them, and the number of
    the first right one, answers + 1 where none is."""

    pass_rate: float
    attempts: int
    answers: int


def rate_of(rewards: Sequence[float | None], correct_at: float) -> Rate | None:
    """The rate of answers in the order in which they were sampled; None where none has a reward."""
    right = [reward >= correct_at for reward in rewards if reward is not None]
    return Rate(sum(right) / len(right), (*right, True).index(True) + 1, len(right)) if right else None


class Known:
    """Rates that an earlier run measured.

    path: its data/NAME.pass_rates.jsonl. mark: a hash of the file. Raises ConfigError for a file that is none.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            raw = Path(resolve(path)).read_bytes()
            header, *lines = [json.loads(line) for line in raw.splitlines()]
            self.model, self.how = header["model"], dict(header["how"])
            self._rates = {line["id"]: (line["prompt"], Rate(*(line[f] for f in _FIELDS))) for line in lines}
        except OSError as error:
            raise ConfigError(f"pass_rates: {path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            told = f"{type(error).__name__}: {error}"
            raise ConfigError(f"pass_rates: {path} is no file of pass rates ({told:.100})") from None
        self.mark = hashlib.sha256(raw).hexdigest()[:12]

    def check(self, measured: Mapping[str, Any]) -> None:
        """Raise ConfigError, naming what differs, where the rates are not those of `measured`, see `described`."""
        told = [f"model {self.model} -> {measured['model']}"] if self.model != measured["model"] else []
        told += [str(difference) for difference in differences(self.how, measured["how"])]
        if told:
            raise ConfigError(
                f"pass_rates: {self.path} was measured in another way: {'; '.join(told[:4])}. Leave it out to measure "
                "anew, or take it as it is with pass_rates_of: any"
            )

    def of(self, prompt: Prompt) -> Rate | None:
        """The prompt's rate; None for one that is not there, or has changed since."""
        mark, rate = self._rates.get(prompt.id, ("", None))
        return rate if mark == mark_of_prompts([prompt]) else None


_FIELDS = ("pass_rate", "attempts", "answers")


def line_of(prompt: Prompt, rate: Rate) -> dict[str, Any]:
    """The line of a prompt."""
    return {"id": prompt.id, "prompt": mark_of_prompts([prompt]), **asdict(rate)}


def described(run: Run, options: FilterStage) -> dict[str, Any]:
    """The first line: {"model": hash, "how": what else decides the rates, "seed": which draw of them it is}."""
    config = run.config.model_dump(mode="json")
    model = run.config.of_stage(options).model.model_dump(mode="json")
    rewards = [{key: reward[key] for key in ("name", "alias", "weight", "options")} for reward in config["rewards"]]
    how = {
        "samples": options.samples,
        "correct_at": options.correct_at,
        "reward": options.reward,
        "rewards": rewards,
        "modality": config["modality"],
        "model": {key: value for key, value in model.items() if key not in _NOT_SAMPLING},
        "environment": config["environment"],
        **{key: config["data"][key] for key in ("shuffle_options", "videos", "video_frames")},
    }
    return {"model": mark_of_weights(run.adapter), "how": how, "seed": run.seed}
