"""The whole configuration of a run, typed. An unknown key is an error that names the nearest one.

A config is YAML; `load` reads it, applies `key.sub=value` overrides, and returns a `Config`. Nothing here
imports torch: reading a config, planning and `--help` stay quick.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from mmrl.core.algorithm import PRESETS, Algorithm, resolve
from mmrl.modalities.load import config_class
from mmrl.share import resolve as resolve_path
from mmrl.share import share
from mmrl.strict import Strict


class ConfigError(ValueError):
    """A configuration that cannot be run; the message says which key and what to write instead."""


class DataConfig(Strict):
    """Where prompts and supervised records come from."""

    prompts: str | None = Field(
        None,
        description="Training prompts: a .jsonl file (`prompt`, optional `id`, any columns) or a .txt file, one "
        "prompt a line. `share://` names files that ship with mmrl.",
    )
    eval_prompts: str | None = Field(None, description="Held-out prompts, same formats.")
    where: dict[str, Any] = Field(
        default_factory=dict, description="Keep training prompts whose columns equal these values."
    )
    eval_where: dict[str, Any] = Field(default_factory=dict, description="The same for held-out prompts.")
    records: str | None = Field(
        None,
        description="Supervised records: `file.py:function`, called as function(index, **options) and returning a "
        "dict; or a .jsonl file whose `image` column names pictures beside it.",
    )
    records_count: int = Field(10_000, ge=1, description="How many records of an endless function are used.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the records function.")
    on_bad_record: Literal["stop", "skip"] = Field(
        "stop", description="A record that cannot be read stops the run, or is reported and skipped."
    )
    max_pixels: int = Field(50_000_000, ge=1, description="A larger picture is a bad record.")


class RewardConfig(Strict):
    """One reward, by name, with its weight."""

    name: str = Field(description="`file.function` from rewards/, or `path/to/file.py:function`.")
    weight: float = Field(1.0, description="Weight in the combination; negative turns the reward around.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword options of the reward.")


class EvalConfig(Strict):
    """Evaluation on held-out prompts, sampled as a user of the model would sample."""

    every: int = Field(0, ge=0, description="Steps between evaluations; 0 means before and after only.")
    prompts: int | None = Field(None, ge=1, description="Held-out prompts, drawn once by `seed`; null takes all.")
    samples: int = Field(1, ge=1, description="Samples per prompt.")
    seed: int = Field(1234, description="Seed of the evaluation noise, the same at every evaluation.")
    rewards: list[RewardConfig] | None = Field(
        None, description="Rewards to report; null takes the training rewards. The first is the main metric."
    )


class OptimConfig(Strict):
    """AdamW, its schedule, gradient clipping and weight averaging."""

    lr: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    max_grad_norm: float = Field(1.0, gt=0, description="Global norm that gradients are clipped to.")
    warmup: int = Field(0, ge=0, description="Optimizer steps of linear warm-up.")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="Shape after the warm-up.")
    final_lr: float = Field(0.05, ge=0, le=1, description="Share of lr left at the end of linear and cosine.")
    ema: float | None = Field(
        None, gt=0, lt=1, description="Decay of averaged weights, used by evaluation and saved; null: none."
    )


class Stage(Strict):
    """What every stage of training has."""

    name: str = Field("", description="Name for overrides and metrics; the kind when empty.")
    steps: int = Field(ge=0, description="Steps of this stage.")
    micro_batch: int = Field(
        64,
        ge=1,
        description="Model evaluations per micro-batch: records, tokens, or samples x denoising steps.",
    )
    optim: OptimConfig = Field(default_factory=OptimConfig)
    components: list[str] | None = Field(
        None, description="Parts of the model that are trained; null takes the adapter's default."
    )


class SftStage(Stage):
    """Supervised training on records."""

    kind: Literal["sft"] = "sft"
    objective: str = Field("sft", description="Which supervised loss of the adapter; image: sft, autoencoder.")
    batch: int = Field(64, ge=1, description="Records per optimizer step.")


class GrpoStage(Stage):
    """Reinforcement learning with groups of samples per prompt."""

    kind: Literal["grpo"] = "grpo"
    groups: int = Field(8, ge=1, description="Prompts (groups) per step, over all processes.")
    samples: int = Field(8, ge=1, description="Samples per prompt.")
    updates: int = Field(1, ge=1, description="Optimizer steps per rollout: groups are split evenly over them.")
    epochs: int = Field(1, ge=1, description="Passes over the rollout.")
    rollout_chunk: int | None = Field(
        None,
        ge=1,
        description="Groups rolled out together; their rewards run beside the next. null: all at once.",
    )
    algorithm: dict[str, Any] = Field(
        default_factory=lambda: {"preset": "grpo"},
        description="`preset` and any field of mmrl.core.algorithm.Algorithm to change in it.",
    )
    max_invalid: float = Field(
        0.2, ge=0, le=1, description="Stop when a larger share of a step's samples has an invalid reward."
    )
    shuffle_rewards: bool = Field(
        False,
        description="Control run: rewards are shuffled over the samples, so that nothing can be learned.",
    )

    @field_validator("algorithm")
    @classmethod
    def _known_algorithm(cls, value: dict[str, Any]) -> dict[str, Any]:
        resolve_algorithm(value)
        return value

    @model_validator(mode="after")
    def _updates_divide_groups(self) -> GrpoStage:
        if self.groups % self.updates:
            raise ValueError(
                f"groups={self.groups} cannot be split evenly over updates={self.updates}; "
                f"take groups={self.groups // self.updates * self.updates + self.updates} or updates=1"
            )
        if self.samples < 2 and resolve_algorithm(self.algorithm).advantage not in (
            "none",
            "whiten",
            "batch_std",
        ):
            raise ValueError("samples=1 leaves nothing to compare inside a group; take samples=2 or more")
        return self


class CheckpointConfig(Strict):
    """When the run is saved and how much is kept."""

    every: int = Field(50, ge=0, description="Steps between checkpoints; 0 saves at the end of a stage only.")
    keep: int = Field(2, ge=1, description="Checkpoints kept; the newest always is.")


class ReportConfig(Strict):
    """What is stored for the report."""

    samples_every: int = Field(10, ge=0, description="Steps between stored sample groups; 0 stores none.")
    groups: int = Field(4, ge=0, description="Groups stored each time.")
    eval_prompts: int = Field(12, ge=0, description="Held-out prompts whose samples are stored at evaluations.")


AnyStage = Annotated[Union[GrpoStage, SftStage], Field(discriminator="kind")]  # noqa: UP007


class Config(Strict):
    """A run: a model, data, rewards, and the stages that train it."""

    name: str = Field("run", description="Name of the run; its folder is `out`/`name`.", pattern=r"^[\w.\-]+$")
    about: str = Field("", description="What the config does, its paper, and where its values come from.")
    modality: str = Field(description="text, vision, image, audio, cad, or `path/file.py:Class` of your own.")
    seed: int = Field(0, ge=0)
    out: str = Field("runs", description="Folder of runs.")
    model: Any = Field(default_factory=dict, description="Options of the modality's adapter.")
    data: DataConfig = Field(default_factory=DataConfig)
    rewards: list[RewardConfig] = Field(default_factory=list)
    stages: list[AnyStage] = Field(min_length=1)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    trackers: list[Literal["tensorboard", "trackio", "wandb", "mlflow"]] = Field(
        default_factory=list, description="Also log to these; each wants its own package."
    )
    device: Literal["auto", "cpu"] = Field("auto", description="auto: the accelerator that is found.")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; null leaves torch's choice.")

    @model_validator(mode="after")
    def _model_section(self) -> Config:
        if isinstance(self.model, BaseModel):
            return self
        if not isinstance(self.model, Mapping):
            raise ValueError(f"model: expected a mapping, got {type(self.model).__name__}")
        section = config_class(self.modality)
        object.__setattr__(self, "model", validate(section, dict(self.model), ("model",)))
        return self

    @model_validator(mode="after")
    def _names_and_needs(self) -> Config:
        for stage in self.stages:
            stage.__dict__["name"] = stage.name or stage.kind
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages need different names, got {names}; set `name:` in each")
        for stage in self.stages:
            if isinstance(stage, GrpoStage) and not self.rewards:
                raise ValueError(f"stage {stage.name!r} needs `rewards:`, a list of {{name, weight}}")
            if isinstance(stage, GrpoStage) and not self.data.prompts:
                raise ValueError(f"stage {stage.name!r} needs `data.prompts:`, a .jsonl or .txt file of prompts")
            if isinstance(stage, GrpoStage) and hasattr(self.model, "actions_per_sample"):
                self.model.actions_per_sample()  # a plan that cannot be made says so here
            if isinstance(stage, SftStage) and not self.data.records:
                raise ValueError(f"stage {stage.name!r} needs `data.records:`")
        return self

    @property
    def run_dir(self) -> Path:
        return Path(self.out) / self.name

    def dump(self) -> str:
        """The resolved configuration as YAML; `load` reads it back to an equal Config."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def resolve_algorithm(section: Mapping[str, Any]) -> Algorithm:
    """The Algorithm of an `algorithm:` section."""
    options = dict(section)
    return resolve(options.pop("preset", "grpo"), options)


def load(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Config:
    """Read a config and apply overrides.

    source: a mapping, a YAML file, or the name of a shipped config ("image/tiny").
    overrides: "key.sub=value" strings; the value is YAML; a stage is named by its index or its name.
    Raises ConfigError with one line per problem.
    """
    values = dict(source) if isinstance(source, Mapping) else _read_yaml(source)
    values = yaml.safe_load(yaml.safe_dump(values))  # a deep copy that shares nothing with the caller
    for override in overrides:
        _apply(values, override)
    return validate(Config, values)


def _read_yaml(source: str | Path) -> dict[str, Any]:
    path = resolve_path(str(source))
    if not path.exists():
        shipped = share("configs") / f"{source}"
        path = next((p for p in (shipped, shipped.with_suffix(".yaml")) if p.is_file()), path)
    if not path.is_file():
        names = [str(p.relative_to(share("configs")).with_suffix("")) for p in share("configs").rglob("*.yaml")]
        raise ConfigError(
            f"no config {str(source)!r}: neither a file nor one of the shipped {_near(str(source), names)}"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, got {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected key.sub=value")
    *path, last = key.split(".")
    place: Any = values
    for part in path:
        place = place[_index(place, part, key)] if isinstance(place, list) else place.setdefault(part, {})
        if not isinstance(place, dict | list):
            raise ConfigError(f"override {key!r}: {part!r} is a value, not a section")
    parsed = yaml.safe_load(text)
    if isinstance(parsed, str):  # YAML 1.1 reads 1e-4 as text
        with contextlib.suppress(ValueError):
            parsed = float(parsed)
    if isinstance(place, list):
        place[_index(place, last, key)] = parsed
    else:
        place[last] = parsed


def _index(items: list[Any], part: str, key: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    names = [str(item.get("name") or item.get("kind")) if isinstance(item, dict) else "" for item in items]
    if part in names:
        return names.index(part)
    raise ConfigError(f"override {key!r}: no item {part!r}; there are {_near(part, names)} (or 0..{len(items) - 1})")


def validate(section: type[BaseModel], values: dict[str, Any], at: tuple[str | int, ...] = ()) -> Any:
    """`section(**values)`, with every problem told in one line that names the key and what is near it."""
    try:
        return section(**values)
    except ValidationError as error:
        lines = [_explain(section, problem, at) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _explain(section: type[BaseModel], problem: Mapping[str, Any], at: tuple[str | int, ...]) -> str:
    place = [str(p) for p in (*at, *problem["loc"]) if p not in ("grpo", "sft")]
    name = ".".join(place) or "config"
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(section, problem["loc"][:-1])
        return f"{name}: unknown key; {_near(place[-1], fields)}"
    if problem["type"] == "missing":
        return f"{name}: missing; it is required"
    if problem["type"] == "value_error":
        return f"{name}: {problem['ctx']['error']}" if place else str(problem["ctx"]["error"])
    return f"{name}: {problem['msg']}, got {problem['input']!r}"


def _fields_at(section: type[BaseModel], loc: Iterable[str | int]) -> list[str]:
    """Field names of the section that `loc` points into."""
    here: Any = section
    for part in loc:
        if isinstance(part, int):
            continue
        if isinstance(here, type) and issubclass(here, BaseModel) and part in here.model_fields:
            here = here.model_fields[part].annotation
        here = _section_of(here, part)
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def _section_of(annotation: Any, tag: str | int) -> Any:
    """The BaseModel inside list[...], X | None, or a union told apart by `kind`."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation
    inside = [_section_of(arg, tag) for arg in get_args(annotation)]
    sections = [s for s in inside if isinstance(s, type) and issubclass(s, BaseModel)]
    tagged = [s for s in sections if getattr(s.model_fields.get("kind"), "default", None) == tag]
    if tagged or len(sections) == 1:
        return (tagged or sections)[0]
    return annotation


def _near(word: str, known: Iterable[str]) -> str:
    known = sorted(set(known))
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"


__all__ = ["PRESETS", "Config", "ConfigError", "load", "resolve_algorithm", "validate"]
