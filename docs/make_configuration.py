"""Writes docs/configuration.md from the configuration classes: every key, its type, default and meaning.

With --check, nothing is written, and a page that is not current is an error.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from mmrl.config import (
    CheckpointConfig,
    Config,
    CurriculumConfig,
    DataConfig,
    EvalConfig,
    ExpertConfig,
    FilterStage,
    GrpoStage,
    HintsConfig,
    OptimConfig,
    PreferenceStage,
    ReportConfig,
    RewardConfig,
    SftStage,
    Stage,
)
from mmrl.core.algorithm import CHOICES, PRESETS, Algorithm
from mmrl.core.library import registries
from mmrl.core.registry import Bound, Entry, Hook
from mmrl.modalities.image.config import EvaluationConfig, LoraConfig, ModelConfig, SamplingConfig

PAGE = Path(__file__).resolve().parent / "configuration.md"

HEAD = """\
# Configuration

<!-- Written by docs/make_configuration.py (`make docs`); change the classes, not this page. -->

A run is one YAML file. An unknown key is an error that names the nearest known one; `mmrl plan CONFIG` checks a file
and says in words what it would do. On the command line, `key.sub=value` changes a key, and a stage is named by its
name, kind or number: `mmrl train image/tiny stages.grpo.steps=20 stages.0.optim.lr=1e-4`. In Python the dots are
double underscores: `mmrl.train("image/tiny", stages__grpo__steps=20)`.

`share://` in a path names a file that ships with mmrl, such as `share://datasets/scenes/prompts.jsonl`; any other path
is taken from the folder you are in.
"""

# Keys that the classes leave without a description because their name is the field's own word for them.
MEANINGS = {
    "seed": "Seed of every random number of the run: weights that are made, order of prompts, noise.",
    "data": "Prompts and records; below.",
    "rewards": "Rewards and their weights; below.",
    "stages": "What is done, in order; below.",
    "eval": "Evaluation; below.",
    "checkpoint": "When the run is saved; below.",
    "report": "What the report shows; below.",
    "optim": "The optimizer; below.",
    "kind": "Tells the kinds of stages apart.",
    "lr": "Learning rate after the warm-up.",
    "betas": "AdamW's decay of the two moments.",
    "eps": "AdamW's addition to the denominator.",
    "weight_decay": "AdamW's decoupled weight decay.",
    "gradient_checkpointing": "Recompute the denoiser's activations in the backward pass: slower, far less memory.",
    "sampling": "How training trajectories are drawn; below.",
    "evaluation": "How evaluation samples; below.",
    "lora": "Size and place of LoRA; below.",
    "steps": "Denoising steps of an evaluation sample.",
    "rank": "Rank of the two matrices.",
    "alpha": "Their product is scaled by alpha / rank.",
}

# Heading (the key's path), class, and a line between its docstring and its table.
SECTIONS: list[tuple[str, type[BaseModel], str]] = [
    ("The top of the file", Config, ""),
    ("`data`", DataConfig, ""),
    ("`rewards`, a list", RewardConfig, ""),
    ("`stages`, a list: what all stages have", Stage, ""),
    ("`stages`, `kind: grpo`", GrpoStage, "Besides the keys of all stages:"),
    ("`stages.*.curriculum`", CurriculumConfig, ""),
    ("`stages.*.hints`", HintsConfig, ""),
    ("`stages.*.expert`", ExpertConfig, ""),
    ("`stages`, `kind: sft`", SftStage, "Besides the keys of all stages:"),
    ("`stages`, `kind: preference`", PreferenceStage, "Besides the keys of all stages:"),
    ("`stages`, `kind: filter`", FilterStage, "Besides the keys of all stages:"),
    ("`stages.*.optim`", OptimConfig, ""),
    ("`eval`", EvalConfig, ""),
    ("`checkpoint`", CheckpointConfig, ""),
    ("`report`", ReportConfig, ""),
    ("`model`, image", ModelConfig, ""),
    ("`model.sampling`, image", SamplingConfig, ""),
    ("`model.evaluation`, image", EvaluationConfig, ""),
    ("`model.lora`, image", LoraConfig, ""),
]


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *[section(*entry) for entry in SECTIONS], algorithm(), hooks(), presets()])


def section(title: str, model: type[BaseModel], note: str) -> str:
    inherited = set(getattr(model.__mro__[1], "model_fields", {}))
    lines = [f"## {title}", "", " ".join([_plain(model.__doc__), note]).strip(), "", *_head("key")]
    for name, field in model.model_fields.items():
        if name in inherited and name != "kind":
            continue
        cells = [
            f"`{name}`",
            _type(field.annotation),
            _default(field.default, field.default_factory),
            field.description or MEANINGS[name],
        ]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def algorithm() -> str:
    """The fields of Algorithm, whose meanings stand in its docstring as `name, name: text`."""
    meaning = _meanings(Algorithm.__doc__ or "")
    lines = [
        "## `stages.*.algorithm`",
        "",
        "`preset` names a published algorithm (below); any of these fields may be changed beside it. A hook is a name,",
        "or a mapping with its options: `gate: cispo`, `gate: {name: cispo, cap: 4.0}`. The tables of hooks follow.",
        "",
        *_head("field"),
    ]
    for field in dataclasses.fields(Algorithm):
        kind = " or ".join(f"`{c}`" for c in CHOICES[field.name]) if field.name in CHOICES else _type(field.type)
        lines.append(_row([f"`{field.name}`", kind, _default(field.default, None), meaning[field.name]]))
    return "\n".join(lines) + "\n"


def hooks() -> str:
    """One table for each field that holds hooks: the functions of its registry and their options."""
    lines = [
        "## Hooks",
        "",
        "Certainty: A, as published; B, as published, read once or in a summary; C, formula or numbers from memory;",
        "D, our reading of an idea whose formula is not public. `needs` are numbers of samples or actions, which the",
        "records or the modality give.",
        "",
    ]
    for field, registry in registries().items():
        lines += [f"### `{field}`", "", "| name | options | needs | certainty | what it is |", "|---|---|---|---|---|"]
        for name in registry:
            entry = registry[name]
            options = ", ".join(_option(entry, option) for option in entry.options) or "-"
            needs = ", ".join(f"`{need}`" for need in entry.needs) or "-"
            lines.append(_row([f"`{name}`", options, needs, entry.certainty, entry.about]))
        lines.append("")
    return "\n".join(lines)


def _option(entry: Entry, name: str) -> str:
    default = entry.options[name].default
    bound: Bound | None = entry.bounds.get(name)
    said = f"`{name}`, to be given" if default is entry.options[name].empty else f"`{name}: {_plain_value(default)}`"
    return f"{said} ({bound.words})" if bound else said


def presets() -> str:
    lines = ["## Presets", "", "What each changes in the defaults above.", "", "| preset | changes |", "|---|---|"]
    for name, changes in PRESETS.items():
        said = ", ".join(f"`{key}: {_plain_value(value)}`" for key, value in changes.items())
        lines.append(_row([f"`{name}`", said or "nothing: these are the defaults"]))
    return "\n".join(lines) + "\n"


def _meanings(docstring: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    for line in docstring.splitlines():
        entry = re.match(r"    ([a-z_]+(?:, [a-z_]+)*): (.*)", line)
        if entry:
            names = entry.group(1).split(", ")
            found |= dict.fromkeys(names, entry.group(2))
        elif names and line.startswith("        ") and line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    return found


def _head(first: str) -> list[str]:
    return [f"| {first} | type | default | meaning |", "|---|---|---|---|"]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if not text or "[" in str(annotation) or "|" in str(annotation):
        text = str(annotation)
    text = re.sub(r"(?:\w+\.)+(\w+)", r"\1", text)
    choices = re.search(r"Literal\[(.*?)\]", text)
    if choices:
        text = text.replace(choices.group(0), " or ".join(choices.group(1).replace("'", "`").split(", ")))
    text = re.sub(r"Annotated\[Union\[(.*?)\], .*?\)\]", lambda m: " or ".join(m.group(1).split(", ")), text)
    text = re.sub(r"Optional\[(.*)\]", r"\1 | None", text)
    return text.replace(" | None", " or null").replace(" | ", " or ").replace("'", "")


def _default(value: Any, factory: Any) -> str:
    if factory is not None:
        made = factory()
        return "the section's defaults" if isinstance(made, BaseModel) else f"`{_plain_value(made)}`"
    if value is PydanticUndefined:
        return "required"
    return f"`{_plain_value(value)}`"


def _plain_value(value: Any) -> str:
    if isinstance(value, Hook):
        return value.name
    return json.dumps(value, default=list).replace('"', "") if value != "" else '""'


def _plain(text: str | None) -> str:
    return " ".join((text or "").split())


def main() -> None:
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") != page():
            sys.exit("docs/configuration.md is not current; run: make docs")
        return
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
