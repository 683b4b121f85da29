"""Models from disk that compare: what of a run or a checkpoint they are made of, and how they are shown pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmrl.config import is_run, load, validate
from mmrl.content import mark_of
from mmrl.environments.load import load_environment, parts_of
from mmrl.judging.base import Comparer
from mmrl.judging.generative import Generative
from mmrl.judging.options import Count, Device, Temperature
from mmrl.judging.words import FORMS
from mmrl.modalities.adapter import Adapter
from mmrl.modalities.load import adapter_class, config_class, modality_of
from mmrl.near import near, short
from mmrl.training.assemble import with_checkpoint

MAX_PIXELS = 50_000_000  # of a picture that is opened
ENVIRONMENT = "pairs"  # shows candidates side by side


def of_model(
    folder: str,
    *,
    temperature: Temperature = 0.0,
    max_tokens: Count | None = None,
    form: str = "answer",
    environment: Mapping[str, Any] | None = None,
    device: Device | None = None,
    batch: Count | None = None,
    dtype: str | None = None,
) -> Comparer:
    """A model that compares: a run's folder, of which it is the last checkpoint, or one that `from_pretrained` loads.

    temperature: 0 is greedy. max_tokens: of a verdict; left out: the run's, 1024 for a folder.
    form: of its verdicts, see words.verdict_in. environment: {template: ..., system: ...} of the environment `pairs`;
    left out: the run's own where it has that. device, dtype: of a folder; a run has its own. batch: sampled together.
    """
    path = Path(folder)
    if is_run(path):
        if device is not None or dtype is not None:
            raise ValueError("device and dtype are those of the run; leave them out")
        made = _of_run(path)
    else:
        made = _of_folder(path, device or "auto", dtype or "float32")
    if form not in FORMS:
        raise ValueError(f"form {form!r}: {near(form, FORMS)}")
    made = _comparing(_sampled(made, temperature, max_tokens, batch), environment)
    shown = {"temperature": temperature, "max_tokens": max_tokens, "environment": environment, "dtype": dtype}
    told = json.dumps(shown, sort_keys=True, default=str)
    return Generative(_adapter(made), f"{path.resolve().name} {mark_of(path)} {form} {told}", form)


@dataclass(frozen=True)
class _Model:
    """What an adapter is made of: sections of a config."""

    modality: str
    model: Any
    environment: Any = None
    device: str = "auto"


def _of_run(folder: Path) -> _Model:
    config = with_checkpoint(load(folder), folder)
    return _Model(config.modality, config.model, config.environment, config.device)


def _of_folder(folder: Path, device: str, dtype: str) -> _Model:
    """A checkpoint's folder alone; the base of LoRA weights is the one that they name."""
    model: dict[str, Any] = {"path": str(folder), "dtype": dtype, "sampling": {"max_tokens": 1024}}
    modality = modality_of(folder)
    if (folder / "adapter_config.json").is_file():
        told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = told.get("base_model_name_or_path")
        if not base or not Path(base).is_dir():
            raise ValueError(f"its LoRA weights are on {short(base)}, which is no folder here; give the run's folder")
        modality = modality_of(Path(base))
        model |= {"path": base, "train": "lora", "lora": {"path": str(folder)}}
    return _Model(modality, validate(config_class(modality), model), None, device)


def _sampled(made: _Model, temperature: float = 0.0, max_tokens: int | None = None, batch: int | None = None) -> _Model:
    """The model as it is to be sampled."""
    budget = {"max_tokens": max_tokens} if max_tokens else {}
    changes = {
        "evaluation": made.model.evaluation.model_copy(update={"temperature": temperature, **budget}),
        "sampling": made.model.sampling.model_copy(update=budget),  # the prompt's room is what the longer one leaves
    }
    changes |= {"rollout_batch": batch} if batch is not None else {}
    return replace(made, model=made.model.model_copy(update=changes))


def _comparing(made: _Model, environment: Mapping[str, Any] | None) -> _Model:
    """The model as it is shown pairs."""
    own = environment is None and parts_of(made.environment)[0] == ENVIRONMENT
    section = made.environment if own else {"name": ENVIRONMENT, **(environment or {})}
    load_environment(section)  # what is wrong with it is told before anything heavy is loaded
    return replace(made, environment=section)


def _adapter(made: _Model) -> Adapter:
    adapter = adapter_class(made.modality)(made.model)
    if made.environment is not None:
        adapter.environment = load_environment(made.environment)
    adapter.max_pixels = MAX_PIXELS
    cuda = made.device == "auto" and torch.cuda.is_available()
    adapter.to(torch.device("cuda" if cuda else "cpu" if made.device == "auto" else made.device))
    return adapter
