"""The whole configuration of a run, typed. An unknown key is an error that names the nearest one.

A config is YAML; `load` reads it, applies `key.sub=value` overrides, and returns a `Config`. Nothing here
imports torch: reading a config, planning and `--help` stay quick.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from mmrl.core.algorithm import PRESETS, Algorithm, resolve
from mmrl.environments.load import load_environment
from mmrl.environments.tree import TreeOptions
from mmrl.modalities.load import config_class
from mmrl.share import resolve as resolve_path
from mmrl.share import share
from mmrl.strict import Strict


class ConfigError(ValueError):
    """A configuration that cannot be run; the message says which key and what to write instead."""


RecordFormat = Literal["auto", "plain", "trl", "swift", "satori", "mgpo", "visionthink", "vlm_r1", "mmpr", "ui_s1"]


class DataConfig(Strict):
    """Where prompts and supervised records come from."""

    prompts: str | None = Field(
        None,
        description="Training prompts: a .jsonl or .parquet file (`prompt`, optional `id`, any columns), a .txt file "
        "(one prompt a line), a folder saved by the datasets library, `hub:owner/name`, or `file.py:function`, called "
        "as function(index, **prompts_options) and returning a dict. `share://` names files that ship with mmrl. A "
        "`prompt` is a text or a list of chat messages.",
    )
    eval_prompts: str | None = Field(None, description="Held-out prompts, same formats.")
    where: dict[str, Any] = Field(
        default_factory=dict, description="Keep training prompts whose columns equal these values."
    )
    eval_where: dict[str, Any] = Field(default_factory=dict, description="The same for held-out prompts.")
    prompts_count: int = Field(1000, ge=1, description="How many training prompts of a function are used.")
    eval_prompts_count: int = Field(100, ge=1, description="How many held-out prompts of a function are used.")
    prompts_options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the function of training prompts."
    )
    eval_prompts_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of the function of held-out prompts; those that ship take `split: heldout`, which shares "
        "no problem with `split: train`.",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Our name of a column: its name in the files, such as `{prompt: question, answer: solution}`; dots "
        "reach into a column, as in `reward_model.ground_truth`.",
    )
    format: RecordFormat = Field(
        "auto",
        description="Whose form the records have; auto tells by their columns (docs/data.md). They become ours: "
        "`prompt` with an `<image>` for each of `images`, or `messages`; `answer`; other columns stay.",
    )
    image_root: str | None = Field(
        None,
        description="Folder that picture names are below; null: the one of the file (or function) that names them.",
    )
    subset: str | None = Field(None, description="Configuration of a `hub:` dataset that has several.")
    split: str = Field("train", description="Split for training, of a source that has splits (folders, `hub:`).")
    eval_split: str = Field("test", description="The same for held-out prompts.")
    records: str | None = Field(
        None,
        description="Supervised records: `file.py:function`, called as function(index, **options) and returning a "
        "dict; or a file, folder or `hub:owner/name` as for prompts. The modality says which columns it needs; "
        "columns `image` and `images` name pictures beside the file.",
    )
    records_count: int = Field(10_000, ge=1, description="How many records of an endless function are used.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the records function.")
    on_bad_record: Literal["stop", "skip"] = Field(
        "stop", description="A record that cannot be read stops the run, or is reported and skipped."
    )
    max_pixels: int = Field(50_000_000, ge=1, description="A larger picture is a bad record.")

    @model_validator(mode="after")
    def _held_out_is_held_out(self) -> DataConfig:
        generated = self.prompts is not None and self.prompts.rpartition(":")[0].endswith(".py")
        same = (self.prompts, self.prompts_options) == (self.eval_prompts, self.eval_prompts_options)
        if generated and same:
            raise ValueError(
                "eval_prompts is the function of the training prompts with the same options, so that they would be "
                "the same prompts; give eval_prompts_options of its own, such as {split: heldout}"
            )
        return self


class RewardConfig(Strict):
    """One reward, by name, with its weight."""

    name: str = Field(description="`file.function` from rewards/, or `path/to/file.py:function`.")
    alias: str | None = Field(
        None, min_length=1, description="Its name in scores and metrics; a reward can then stand twice. null: its own."
    )
    weight: float = Field(1.0, description="Weight in the combination; negative turns the reward around.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword options of the reward.")
    timeout: float | None = Field(
        None,
        gt=0,
        description="Seconds that a call, on the samples of one group, may take; after that they are invalid, with the "
        "reason. null waits for ever.",
    )


class EvalConfig(Strict):
    """Evaluation on held-out prompts, sampled as a user of the model would sample."""

    every: int = Field(0, ge=0, description="Steps between evaluations; 0 means before and after only.")
    prompts: int | None = Field(None, ge=1, description="Held-out prompts, drawn once by `seed`; null takes all.")
    samples: int = Field(1, ge=1, description="Samples per prompt.")
    seed: int = Field(1234, description="Seed of the evaluation noise, the same at every evaluation.")
    by: str | None = Field(
        None, description="Column of the held-out records whose values also get a mean each, `eval/<reward>/<value>`."
    )
    pass_at: list[int] = Field(
        default_factory=list,
        description="Report pass@k, `eval/<reward>/pass@<k>`, for these k, each `samples` or fewer: the chance that "
        "one of k samples is right.",
    )
    correct_at: float = Field(0.5, description="A sample with this score or more is right, for pass@k and `choices`.")
    choices: Literal["given", "shuffled", "rotated"] = Field(
        "given",
        description="Order of the options of multiple choice. shuffled: drawn by `seed` and the record's id. rotated: "
        "each record is asked in every rotation of its options and counts their mean; `eval/<reward>/consistent` is "
        "the share that is right in all of them.",
    )
    rewards: list[RewardConfig] | None = Field(
        None, description="Rewards to report; null takes the training rewards. The first is the main metric."
    )

    @model_validator(mode="after")
    def _enough_samples(self) -> EvalConfig:
        if any(not 1 <= k <= self.samples for k in self.pass_at):
            raise ValueError(
                f"pass_at={self.pass_at} with samples={self.samples}: each k is from 1 to samples; take "
                f"samples={max(self.pass_at)} or more"
            )
        return self


class OptimConfig(Strict):
    """The optimizer, its schedule, gradient clipping and weight averaging."""

    name: Literal["adamw", "spam"] = Field(
        "adamw", description="spam: AdamW that clips spikes of single coordinates and resets its momentum."
    )
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
    spam_threshold: float = Field(
        5000.0, gt=0, description="spam: g^2 is clipped at so many times its second moment; .inf clips nothing."
    )
    spam_reset_every: int = Field(500, ge=0, description="spam: steps between momentum resets; 0 never resets.")
    spam_warmup: int = Field(150, ge=0, description="spam: steps of cosine warm-up after a reset.")
    spam_clip_after: int = Field(20, ge=0, description="spam: steps after the start and each reset without clipping.")

    @model_validator(mode="after")
    def _warmup_ends(self) -> OptimConfig:
        if self.name == "spam" and 0 < self.spam_reset_every < self.spam_warmup:
            raise ValueError(
                f"spam_warmup={self.spam_warmup} is longer than spam_reset_every={self.spam_reset_every}: updates "
                f"would never be whole; take spam_warmup={self.spam_reset_every} or less"
            )
        return self


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
    data_from: str | None = Field(
        None,
        description="Name of an earlier filter stage whose result is used: difficulty gives prompts, rejection "
        "supervised records, pairs preference pairs. null takes the run's data.",
    )


class SftStage(Stage):
    """Supervised training on records."""

    kind: Literal["sft"] = "sft"
    objective: str = Field("sft", description="Which supervised loss of the adapter; image: sft, autoencoder.")
    batch: int = Field(64, ge=1, description="Records per optimizer step.")
    options: dict[str, Any] | None = Field(
        None, description="Options of the records function in this stage; null takes `data.options`."
    )

    @model_validator(mode="after")
    def _options_have_a_function(self) -> SftStage:
        if self.options is not None and self.data_from is not None:
            raise ValueError("options go with the records function of the run, not with data_from; leave one out")
        return self


class CurriculumConfig(Strict):
    """Which prompts come next."""

    order: Literal["shuffled", "sorted", "staged", "mixed"] = Field(
        "shuffled",
        description="shuffled: passes over all prompts. sorted: from easy to difficult. staged: one level at a time. "
        "mixed: the level and those below it.",
    )
    column: str | None = Field(None, description="Column of the records that says how difficult a prompt is.")
    advance_at: float = Field(0.75, ge=0, le=1, description="Mean pass rate at which the next level begins (SATURN).")
    window: int = Field(32, ge=1, description="Groups of the level that the mean is over.")
    advance_every: int | None = Field(None, ge=1, description="The next level begins after so many steps, too.")
    retire_at: float | None = Field(
        None, ge=0, le=1, description="A prompt whose pass rate reaches it leaves for good (ScaleRL: 0.9)."
    )
    correct_at: float = Field(0.5, description="A sample with this summed reward or more has passed.")

    @model_validator(mode="after")
    def _levels_need_a_column(self) -> CurriculumConfig:
        if self.order != "shuffled" and self.column is None:
            raise ValueError(f"order={self.order} needs `column:`, a number in every record")
        return self


class HintsConfig(Strict):
    """GHPO: groups that are answered wrong throughout are sampled again with a part of the reference solution."""

    reward: str = Field(description="Name of the reward that says what is right.")
    threshold: float = Field(1.0, description="A sample below it is wrong.")
    fractions: list[float] = Field(
        default_factory=lambda: [0.25, 0.5, 0.75], description="Shares of the record's `solution`, one rung each."
    )
    sentence: str = Field(
        "\n\nThe reference solution begins as follows; continue from it:\n", description="Between prompt and hint."
    )


class ExpertConfig(Strict):
    """CHORD: the loss is (1 - mu) of the policy's and mu of a supervised one on `data.records`."""

    objective: str = Field("sft", description="sft, or sft_phi, which weighs each token by p (1 - p).")
    batch: int = Field(32, ge=1, description="Records per optimizer step.")
    micro_batch: int = Field(32, ge=1, description="Records per micro-batch.")
    peak: float = Field(0.1, ge=0, le=1, description="mu after the warm-up.")
    valley: float = Field(0.1, ge=0, le=1, description="mu after the decay.")
    warmup: int = Field(0, ge=0, description="Steps from 0 to peak.")
    decay: int = Field(1, ge=1, description="Steps from peak to valley, along half a cosine.")


class TreeConfig(TreeOptions):
    """Groups from tree search (PROPA): the steps that branch off a path, rewarded by what the paths come to."""

    step_end: str = Field("\n\n", min_length=1, description="Text that ends a step; the end token ends the last one.")
    step_tokens: int = Field(256, ge=1, description="Tokens of the longest step.")


class GrpoStage(Stage):
    """Reinforcement learning with groups of samples per prompt."""

    kind: Literal["grpo"] = "grpo"
    groups: int = Field(8, ge=1, description="Prompts (groups) per step, over all processes.")
    samples: int = Field(8, ge=1, description="Samples per prompt.")
    updates: int = Field(1, ge=1, description="Optimizer steps per rollout: groups are split evenly over them.")
    epochs: int = Field(1, ge=1, description="Passes over the rollout.")
    staleness: int = Field(
        0,
        ge=0,
        description="Every rollout is used so many steps after it was sampled (PipelineRL-k), ratios being measured "
        "against the weights that sampled it; the first step fills the queue. 0 samples for each step anew.",
    )
    rollout_chunk: int | None = Field(
        None,
        ge=1,
        description="Groups rolled out together; their rewards run beside the next. null: all at once.",
    )
    algorithm: dict[str, Any] = Field(
        default_factory=lambda: {"preset": "grpo"},
        description="`preset` and any field of mmrl.core.algorithm.Algorithm to change in it.",
    )
    curriculum: CurriculumConfig = Field(
        default_factory=CurriculumConfig, description="Which prompts come next (see below)."
    )
    refill: int = Field(
        1,
        ge=1,
        description="Dynamic sampling (DAPO): times that a step is sampled at most, groups whose rewards are all equal "
        "being replaced by new prompts; 1 never replaces.",
    )
    tree: TreeConfig | None = Field(
        None,
        description="Search a tree for every prompt, whose branchings are the groups (PROPA); null: whole answers.",
    )
    hints: HintsConfig | None = Field(None, description="Hints for groups that are all wrong (GHPO); null: none.")
    expert: ExpertConfig | None = Field(None, description="Expert mixing (CHORD); null: none.")
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
    def _trees_stand_alone(self) -> GrpoStage:
        others = {"hints": self.hints is not None, "refill": self.refill > 1, "staleness": self.staleness > 0}
        if self.tree and any(others.values()):
            raise ValueError(f"tree goes without {', '.join(name for name, on in others.items() if on)}; leave one out")
        return self

    @model_validator(mode="after")
    def _updates_divide_groups(self) -> GrpoStage:
        if self.groups % self.updates:
            raise ValueError(
                f"groups={self.groups} cannot be split evenly over updates={self.updates}; "
                f"take groups={self.groups // self.updates * self.updates + self.updates} or updates=1"
            )
        algorithm = resolve_algorithm(self.algorithm)
        for hook in (h for h in algorithm.filters if h.name == "staleness"):
            from mmrl.core.filter import FILTERS  # loaded already, to check the hook's options

            most = hook.options.get("most", FILTERS["staleness"].options["most"].default)
            if self.staleness > most:
                raise ValueError(
                    f"staleness={self.staleness} makes rollouts that the filter staleness (most {most}) drops; take "
                    f"staleness={most} or less, or most={self.staleness}"
                )
        if self.samples < 2 and algorithm.advantage.name not in (
            "none",
            "zero",
            "whiten",
            "whiten_tokens",
            "outlier_filter",
            "batch_std",
        ):
            raise ValueError("samples=1 leaves nothing to compare inside a group; take samples=2 or more")
        return self


class PreferenceStage(Stage):
    """Offline preference training on pairs of answers, chosen and rejected."""

    kind: Literal["preference"] = "preference"
    pairs: str | None = Field(
        None,
        description="A .jsonl file of records `prompt`, `chosen`, `rejected` (any other columns go to the adapter); "
        "or take them from a filter stage with `data_from`.",
    )
    objective: Literal["dpo", "bco", "mpo"] = Field(
        "dpo",
        description="dpo: the margin of the two answers. bco: each against a running mean of rewards. mpo: both, and "
        "the likelihood of the chosen answer.",
    )
    beta: float = Field(0.1, gt=0, description="Scale of the implicit reward, beta * log(policy / reference).")
    form: Literal["sigmoid", "ipo"] = Field("sigmoid", description="dpo: its loss of the margin.")
    label_smoothing: float = Field(0.0, ge=0, le=0.5, description="dpo, mpo: assumed share of swapped labels.")
    weights: tuple[float, float, float] = Field((0.8, 0.2, 1.0), description="mpo: weights of DPO, BCO and SFT.")
    batch: int = Field(64, ge=1, description="Pairs per optimizer step, over all processes.")

    @model_validator(mode="after")
    def _options_fit(self) -> PreferenceStage:
        if (self.pairs is None) == (self.data_from is None):
            raise ValueError("a preference stage takes either `pairs:`, a .jsonl file, or `data_from:`, a filter stage")
        if self.form == "ipo" and (self.objective != "dpo" or self.label_smoothing):
            raise ValueError("form=ipo goes with objective=dpo and label_smoothing=0")
        if self.objective == "bco" and self.label_smoothing:
            raise ValueError("label_smoothing is an option of dpo and mpo; set it to 0 for bco")
        return self


class FilterStage(Stage):
    """Sampling and scoring without training: what is kept is the data of later stages (data/NAME.jsonl)."""

    kind: Literal["filter"] = "filter"
    rule: Literal["pairs", "rejection", "difficulty"] = Field(
        description="pairs: the best and the worst answer of a prompt. rejection: correct answers, as supervised "
        "records. difficulty: prompts whose share of correct answers is from `low` to `high`."
    )
    groups: int = Field(8, ge=1, description="Prompts per step, over all processes; each prompt is sampled once.")
    samples: int = Field(8, ge=1, description="Samples per prompt.")
    reward: str | None = Field(
        None, description="Name of the reward that the rule looks at; null takes the weighted sum of all."
    )
    correct_at: float = Field(0.5, description="An answer with this reward or more is correct.")
    margin: float = Field(0.0, ge=0, description="pairs: the reward of the best is more than this above the worst's.")
    require_correct: bool = Field(True, description="pairs: the chosen answer is correct and the rejected one wrong.")
    keep: int | None = Field(None, ge=1, description="rejection: answers kept per prompt, the best first; null: all.")
    low: float = Field(0.2, ge=0, le=1, description="difficulty: smallest share of correct answers.")
    high: float = Field(0.8, ge=0, le=1, description="difficulty: largest share of correct answers.")
    max_invalid: float = Field(
        0.2, ge=0, le=1, description="Stop when a larger share of a step's samples has an invalid reward."
    )

    @model_validator(mode="after")
    def _options_fit(self) -> FilterStage:
        if not re.fullmatch(r"[\w.\-]*", self.name):
            raise ValueError(f"name={self.name!r} names a file; use letters, digits, `_`, `-` and `.` only")
        if self.steps < 1:
            raise ValueError("steps=0 filters nothing; take as many steps of `groups` prompts as there are prompts")
        if self.rule == "pairs" and self.samples < 2:
            raise ValueError("samples=1 makes no pairs; take samples=2 or more")
        if self.low > self.high:
            raise ValueError(f"low={self.low:g} is above high={self.high:g}: no prompt could be kept")
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


AnyStage = Annotated[Union[GrpoStage, SftStage, PreferenceStage, FilterStage], Field(discriminator="kind")]  # noqa: UP007

# The rule of a filter stage whose result a stage of a kind can take.
TAKES = {"grpo": "difficulty", "filter": "difficulty", "sft": "rejection", "preference": "pairs"}


class Config(Strict):
    """A run: a model, data, rewards, and the stages that train it."""

    name: str = Field("run", description="Name of the run; its folder is `out`/`name`.", pattern=r"^[\w.\-]+$")
    about: str = Field("", description="What the config does, its paper, and where its values come from.")
    modality: str = Field(description="text, vision, image, audio, cad, or `path/file.py:Class` of your own.")
    seed: int = Field(0, ge=0)
    out: str = Field("runs", description="Folder of runs.")
    model: Any = Field(default_factory=dict, description="Options of the modality's adapter.")
    environment: dict[str, Any] | None = Field(
        None,
        description="What the policy sees after each of its turns: `name` (single, mgpo, visionthink, zoom, ui_s1, "
        "rounds, or path/file.py:Class) and its options; null ends after the first turn. A record's own `environment` "
        "goes first.",
    )
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

    @field_validator("environment")
    @classmethod
    def _known_environment(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            load_environment(value)
        return value

    @model_validator(mode="after")
    def _names_and_needs(self) -> Config:
        for stage in self.stages:
            stage.__dict__["name"] = stage.name or stage.kind
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages need different names, got {names}; set `name:` in each")
        filters: dict[str, FilterStage] = {}
        for stage in self.stages:
            _check_data_from(stage, filters)
            if isinstance(stage, GrpoStage | FilterStage) and not self.rewards:
                raise ValueError(f"stage {stage.name!r} needs `rewards:`, a list of {{name, weight}}")
            if isinstance(stage, GrpoStage | FilterStage) and not (self.data.prompts or stage.data_from):
                raise ValueError(f"stage {stage.name!r} needs `data.prompts:`, a .jsonl or .txt file of prompts")
            if isinstance(stage, GrpoStage | FilterStage) and hasattr(self.model, "actions_per_sample"):
                self.model.actions_per_sample()  # a plan that cannot be made says so here
            if isinstance(stage, GrpoStage) and stage.expert and not self.data.records:
                raise ValueError(f"stage {stage.name!r} mixes in an expert: it needs `data.records:`")
            if isinstance(stage, SftStage) and not (self.data.records or stage.data_from):
                raise ValueError(f"stage {stage.name!r} needs `data.records:`")
            if isinstance(stage, FilterStage):
                filters[stage.name] = stage
        return self

    @model_validator(mode="after")
    def _corrections_compare_whole_distributions(self) -> Config:
        model: Any = self.model
        if getattr(getattr(model, "engine", None), "name", None) != "vllm":
            return self
        if (model.sampling.top_p, model.sampling.top_k) == (1, 0):
            return self
        for stage in (s for s in self.stages if isinstance(s, GrpoStage)):
            if resolve_algorithm(stage.algorithm).correction is not None:
                raise ValueError(
                    f"stage {stage.name!r}: vllm reports log-probs of what top_p and top_k leave, so its correction "
                    "would weigh by the mass they cut; set top_p: 1 and top_k: 0, or leave the correction out"
                )
        return self

    @model_validator(mode="after")
    def _pass_at_needs_chance(self) -> Config:
        greedy = getattr(getattr(self.model, "evaluation", None), "temperature", None) == 0
        if greedy and max(self.eval.pass_at, default=1) > 1:
            raise ValueError(
                f"eval.pass_at={self.eval.pass_at}: greedy samples are all the same; set "
                "model.evaluation.temperature: 1"
            )
        return self

    @property
    def run_dir(self) -> Path:
        return Path(self.out) / self.name

    def dump(self) -> str:
        """The resolved configuration as YAML; `load` reads it back to an equal Config."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _check_data_from(stage: Stage, filters: Mapping[str, FilterStage]) -> None:
    """A stage's `data_from` is one of the filter stages before it, with the rule that its kind can use."""
    if stage.data_from is None:
        return
    if stage.data_from not in filters:
        raise ValueError(
            f"stage {stage.name!r}: data_from={stage.data_from!r} is no filter stage before it; "
            + (_near(stage.data_from, filters) if filters else "put one with `kind: filter` first")
        )
    kind: str = getattr(stage, "kind", "")
    if filters[stage.data_from].rule != TAKES[kind]:
        raise ValueError(
            f"stage {stage.name!r}: a {kind} stage takes data from a filter with rule={TAKES[kind]}, but "
            f"{stage.data_from!r} has rule={filters[stage.data_from].rule}"
        )


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
    place = [str(p) for p in (*at, *problem["loc"]) if p not in TAKES]
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
