"""A saved model with a scalar head as a judge that scores candidates alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmrl.config import ConfigError, validate
from mmrl.content import mark_of
from mmrl.data.showing import SHOW
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.modalities.load import BUILT_IN, adapter_class, config_class
from mmrl.modalities.marks import mark_of_weights
from mmrl.training.scoring import micro_batches, row_of
from mmrl.types import Candidate, Prompt, Sample, Score

TOLD = 300  # characters of a reason


def scalar_folder(place: str | Path) -> Path | None:
    """The policy's folder of a run's last checkpoint, or of a checkpoint, that has a scalar head; None for others."""
    found = (Path(place), Path(place) / "policy", Path(place) / "checkpoints" / "latest" / "policy")
    return next((folder for folder in found if (folder / "head" / "head.json").is_file()), None)


class ScalarModel:
    """Scores candidates as the training of the model showed them, in float32.

    folder: a run, a checkpoint, or its policy. normalise: less the mean, by the standard deviation that the training
    stored. batch: tokens that are computed together, as a stage's micro_batch counts them.
    Raises ConfigError for a folder without a head, or without what `normalise` needs.
    """

    def __init__(self, folder: str | Path, normalise: bool = False, device: str = "auto", batch: int = 16_384) -> None:
        policy = scalar_folder(folder)
        if policy is None:
            raise ConfigError(f"{folder}: no model with a scalar head (looked for head/head.json in its policy)")
        self.notes: Mapping[str, Any] = json.loads((policy / "head" / "head.json").read_text(encoding="utf-8"))
        self.mean, self.std = _spread(self.notes, folder) if normalise else (0.0, 1.0)
        self.adapter, self.batch = _adapter(policy, self.notes, device), batch
        self.show = str(self.notes.get("show", SHOW))
        # Of LoRA the folder holds the smaller part, and of large files not every byte is read: so the weights as well.
        mark = f"{mark_of(policy)}:{mark_of_weights(self.adapter)}"
        self.identity = f"scalar:{mark}:{'normalised' if normalise else 'raw'}"
        self._one = threading.Lock()  # a model computes for one caller at a time

    def scores(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[Score]:
        """See Scorer.scores; a candidate that cannot be read whole (too long, a picture missing) is invalid. Of a head
        with two outputs, `details` has the standard deviation `sigma`."""
        found: list[Score | None] = [None] * len(items)
        samples, places = [], []
        with self._one:
            for place, (prompt, candidate) in enumerate(items):
                try:
                    samples.append(row_of(self.adapter, prompt, candidate, self.show))
                    places.append(place)
                except ValueError as error:
                    found[place] = _invalid(error)
            for part in micro_batches(self.adapter, samples, self.batch):
                for row, score in zip(part, self._scored([samples[r] for r in part])):
                    found[places[row]] = score
        return [score if score is not None else Score.invalid("was not scored") for score in found]

    def export(self, folder: str | Path) -> Path:
        """Write the model, LoRA merged in, as a new `folder` of transformers' model for sequence classification, whose
        logits are the raw scores; vLLM serves it with `--runner pooling`.

        Raises ConfigError for a folder that exists, a model that sees, and one of which transformers has no such class.
        """
        folder = Path(folder)
        if folder.exists():
            raise ConfigError(f"{folder} exists; take another name or remove it")
        try:
            self.adapter.save_classifier(folder)
        except Unsupported as error:
            raise ConfigError(f"{error}; ask it through `mmrl serve-reward`") from error
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return folder

    def _scored(self, samples: Sequence[Sample]) -> list[Score]:
        """Those of a micro-batch; where one sample breaks it, one by one."""
        try:
            with torch.no_grad():
                rows = self.adapter.scores(samples).cpu().tolist()
        except ValueError as error:  # a picture that is broken inside, say
            return [_invalid(error)] if len(samples) == 1 else [s for one in samples for s in self._scored([one])]
        return [self._score(row) for row in rows]

    def _score(self, row: Sequence[float]) -> Score:
        value = (row[0] - self.mean) / self.std
        return Score.of(value, sigma=float(torch.tensor(row[1]).exp()) / self.std) if len(row) > 1 else Score.of(value)


def _adapter(policy: Path, notes: Mapping[str, Any], device: str) -> Adapter:
    """The model of a policy's folder, as its training made it; the notes beside it name no code that is run."""
    modality, section = notes.get("modality"), dict(notes.get("model") or {})
    if modality not in BUILT_IN:
        raise ConfigError(
            f"{policy}: its modality {str(modality)[:60]!r} is one of its maker's own; known: {', '.join(BUILT_IN)}"
        )
    if "trust_remote_code" in section:
        section["trust_remote_code"] = False
    config: Any = validate(config_class(modality), section, ("head.json", "model"))
    try:
        adapter: Adapter = adapter_class(modality)(config.at(policy))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{policy}: {error}") from error
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    adapter.to(torch.device(automatic if device == "auto" else device))
    return adapter


def _spread(notes: Mapping[str, Any], folder: str | Path) -> tuple[float, float]:
    mean, std = notes.get("mean"), notes.get("std")
    if mean is None or not std:
        raise ConfigError(
            f"{folder}: normalise needs the mean and the standard deviation of its scores, which its training did not "
            "store (calibrate: 0, or a merged model), or which is 0"
        )
    return float(mean), float(std)


def _invalid(error: ValueError) -> Score:
    return Score.invalid(" ".join(str(error).split())[:TOLD])


__all__ = ["ScalarModel", "scalar_folder"]
