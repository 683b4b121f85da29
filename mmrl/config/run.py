"""A whole run: the sections together, and the checks between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from mmrl.config.data import DataConfig
from mmrl.config.distill import DistillStage
from mmrl.config.effect import without_effect
from mmrl.config.evaluation import EvalConfig
from mmrl.config.filtering import TAKES, FilterStage, rule_for
from mmrl.config.folder import check_name
from mmrl.config.forward_preference import ForwardPreferenceStage
from mmrl.config.grpo import GrpoStage
from mmrl.config.kinds import AnyStage
from mmrl.config.markup import write
from mmrl.config.output import CheckpointConfig, ReportConfig
from mmrl.config.own_sampling import of_stage, refuse_own_sampling
from mmrl.config.preference import PreferenceStage
from mmrl.config.reward import RewardConfig
from mmrl.config.reward_model import RewardModelStage
from mmrl.config.sampled import SampledStage
from mmrl.config.sft import SftStage
from mmrl.config.sharding import ShardingConfig
from mmrl.config.stage import Stage
from mmrl.config.validation import validate
from mmrl.environments.load import load_environment
from mmrl.modalities.load import config_class
from mmrl.near import near, short
from mmrl.strict import Strict, When


class Config(Strict):
    """A run: a model, data, rewards, and the stages that train it."""

    name: str = Field("run", description="Name of the run; its folder is `out`/`name`.")
    about: str = Field("", description="What the config does, its paper, and where its values come from.")
    modality: str = Field(description="text, cad, vision, audio, image, or `path/file.py:Class` of your own.")
    seed: int = Field(
        0, ge=0, description="Seed of every random number of the run: weights that are made, order of prompts, noise."
    )
    out: str = Field("runs", description="Folder of runs.")
    model: Any = Field(default_factory=dict, description="Options of the modality's adapter.")
    environment: dict[str, Any] | None = Field(
        None,
        description="What the policy sees after each of its turns: `name` (single, mgpo, visionthink, zoom, ui_s1, "
        "rounds, pairs, or path/file.py:Class) and its options (docs/environments.md); null ends after the first turn. "
        "A record's own `environment` goes first.",
    )
    data: DataConfig = Field(default_factory=DataConfig)
    rewards: list[RewardConfig] = Field(default_factory=list, description="What samples are scored by.")
    stages: list[AnyStage] = Field(min_length=1, description="What is done, in order; `kind` says what each is.")
    eval: EvalConfig = Field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    trackers: list[Literal["tensorboard", "trackio", "wandb", "mlflow"]] = Field(
        default_factory=list,
        description="Also log to these, with the stored samples of evaluations; each wants its own package.",
    )
    device: Literal["auto", "cpu"] = Field("auto", description="auto: the accelerator that is found.")
    timeout: float = Field(
        1800.0,
        gt=0,
        le=30 * 86400,
        description="Seconds that one of several processes waits for the others before it takes them for lost.",
    )
    sharding: ShardingConfig = Field(default_factory=ShardingConfig)
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; null leaves torch's choice.")

    effects: ClassVar[Mapping[str, When]] = {
        "eval": When(lambda c, _: c.data.eval_prompts, "`data.eval_prompts`"),
        "report.eval_prompts": When(lambda c, _: c.data.eval_prompts, "`data.eval_prompts`"),
        "rewards": When(
            lambda c, _: not c.only_scores or c.data.eval_prompts,
            "a stage that samples answers, or `data.eval_prompts`",
        ),
    }

    @model_validator(mode="after")
    def _model_section(self) -> Config:
        if isinstance(self.model, BaseModel):
            return self
        if not isinstance(self.model, Mapping):
            raise ValueError(f"model: expected a mapping, got {type(self.model).__name__}")
        section = config_class(self.modality)
        object.__setattr__(self, "model", validate(section, dict(self.model), ("model",)))
        return self

    @field_validator("name")
    @classmethod
    def _one_folder(cls, value: str) -> str:
        return check_name(value)

    @field_validator("environment")
    @classmethod
    def _known_environment(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            load_environment(value)
        return value

    @model_validator(mode="after")
    def _own_sampling(self) -> Config:
        refuse_own_sampling(self)
        return self

    @model_validator(mode="after")
    def _names_and_needs(self) -> Config:
        for stage in self.stages:
            stage.__dict__["name"] = stage.name or stage.kind
            usual = getattr(self.model, "usual_micro_batch", None)  # of a modality that counts tokens
            if usual and stage.counts_tokens and "micro_batch" not in stage.model_fields_set:
                stage.__dict__["micro_batch"] = usual
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages need different names, got {names}; set `name:` in each")
        filters: dict[str, FilterStage] = {}
        for stage in self.stages:
            _check_data_from(stage, filters)
            samples = isinstance(stage, SampledStage | FilterStage)
            if samples and getattr(stage, "rewarded", True) and not self.rewards:
                alone = ", or leave `joint` and `surrogate` out: distillation alone"
                instead = alone if isinstance(stage, DistillStage) else ""
                raise ValueError(f"stage {stage.name!r} needs `rewards:`, a list of {{name, weight}}{instead}")
            if samples and not (self.data.prompts or stage.data_from):
                raise ValueError(f"stage {stage.name!r} needs `data.prompts:`, a .jsonl or .txt file of prompts")
            if isinstance(stage, SampledStage | FilterStage) and hasattr(self.model, "actions_per_sample"):
                actions = of_stage(self.model, stage).actions_per_sample()  # a plan that cannot be made says so here
                learns = isinstance(stage, GrpoStage) or (isinstance(stage, DistillStage) and stage.joint is not None)
                if actions == 0 and learns:
                    raise ValueError(
                        f"stage {stage.name!r} learns from actions, and samples have none that is trained; change "
                        "model.sampling or the stage's, or take kind: forward_process"
                    )
            if stage.record_objectives() and not self.data.records:
                raise ValueError(f"stage {stage.name!r} learns from records: it needs `data.records:`")
            if self.data.looked_at and _reads_all(stage):
                raise ValueError(
                    f"stage {stage.name!r} uses every prompt once, and has to know before which can be: leave "
                    "data.looked_at out"
                )
            if isinstance(stage, ForwardPreferenceStage) and not (stage.pairs or self.data.prompts):
                raise ValueError(f"stage {stage.name!r} needs `pairs:`, or `data.prompts:`: pairs of pictures")
            if isinstance(stage, RewardModelStage):
                _check_reward_model(stage, self)
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
            if stage.resolved.correction is not None:
                raise ValueError(
                    f"stage {stage.name!r}: vllm reports log-probs of what top_p and top_k leave, so its correction "
                    "would weigh by the mass they cut; set top_p: 1 and top_k: 0, or leave the correction out"
                )
        return self

    @model_validator(mode="after")
    def _taming_compares_rewards(self) -> Config:
        weighted = sum(reward.weight != 0 for reward in self.rewards)
        for stage in self.stages:
            beside = (getattr(stage, name, None) for name in ("joint", "surrogate"))
            section = next((one for one in beside if one is not None), stage)
            tame = getattr(getattr(section, "resolved", None), "tame", None)
            given = "tame" in getattr(section, "algorithm", {})  # what a preset brings along is not asked for
            if given and tame is not None and weighted < 2 and isinstance(tame.options.get("threshold", "mean"), str):
                raise ValueError(
                    f"stage {stage.name!r}: tame compares how much the rewards vary, and {weighted} has a weight; add "
                    "one, give tame a number as `threshold`, or leave it out"
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

    @model_validator(mode="after")
    def _everything_has_an_effect(self) -> Config:
        useless = without_effect(self)
        if useless:
            raise ValueError("\n".join(useless))
        return self

    def of_stage(self, stage: Stage) -> Config:
        """This run with the model as the stage samples."""
        return self.model_copy(update={"model": of_stage(self.model, stage)})

    @property
    def prompts_looked_at(self) -> int | None:
        """How many training prompts are looked at before the run; None: all, also where a stage may use any of them
        without a curriculum."""
        known = (FilterStage, PreferenceStage, ForwardPreferenceStage, RewardModelStage, SftStage)
        own = (not hasattr(stage, "curriculum") and not isinstance(stage, known) for stage in self.stages)
        whole = any(own) or any(map(_reads_all, self.stages))
        return None if whole and self.data.looked_at is None else self.data.first_looked_at

    @property
    def only_scores(self) -> bool:
        """Whether all stages train a scalar head: they score given answers, and sample none."""
        return all(isinstance(stage, RewardModelStage) for stage in self.stages)

    @property
    def samples_answers(self) -> bool:
        """Whether the policy may have to answer: not where all stages score, unless rewards evaluate it besides."""
        rewards = self.rewards if self.eval.rewards is None else self.eval.rewards
        return not self.only_scores or bool(self.data.eval_prompts and rewards)

    @property
    def run_dir(self) -> Path:
        return Path(self.out) / self.name

    def dump(self) -> str:
        """The resolved configuration as YAML; `load` reads it back to an equal Config."""
        return write(self.model_dump(mode="json"))


def _check_reward_model(stage: RewardModelStage, run: Config) -> None:
    """Its records, and a head of as many numbers as its objective takes; a modality of one's own has its own way."""
    if not (stage.pairs or stage.data_from or run.data.prompts):
        raise ValueError(f"stage {stage.name!r} needs `pairs:`, or `data.prompts:`: a file of pairs")
    if run.environment is not None:
        raise ValueError(f"stage {stage.name!r} scores answers as they are: leave `environment` out")
    head = getattr(run.model, "head", None)
    if "head" in type(run.model).model_fields and (head is None or head.outputs != stage.outputs):
        raise ValueError(
            f"stage {stage.name!r} with objective {stage.objective} needs model.head: {{outputs: {stage.outputs}}}"
        )


def _reads_all(stage: Stage) -> bool:
    """Whether it uses the run's prompts, and not in the order of a curriculum."""
    if isinstance(stage, FilterStage):
        return stage.data_from is None
    return isinstance(stage, ForwardPreferenceStage | RewardModelStage) and not stage.pairs


def _check_data_from(stage: Stage, filters: Mapping[str, FilterStage]) -> None:
    """A stage's `data_from` is one of the filter stages before it, with the rule that its kind can use."""
    if stage.data_from is None:
        return
    if stage.data_from not in filters:
        raise ValueError(
            f"stage {stage.name!r}: data_from={short(stage.data_from)} is no filter stage before it; "
            + (near(stage.data_from, filters) if filters else "put one with `kind: filter` first")
        )
    kind: str = getattr(stage, "kind", "")
    if kind not in TAKES:
        raise ValueError(f"stage {stage.name!r}: data_from is read by the kinds {', '.join(TAKES)}; leave it out")
    rule = rule_for(stage)
    if filters[stage.data_from].rule != rule:
        rows = " with rows=steps" if rule == "steps" else ""
        raise ValueError(
            f"stage {stage.name!r}: a {kind} stage{rows} takes data from a filter with rule={rule}, but "
            f"{stage.data_from!r} has rule={filters[stage.data_from].rule}"
        )
