"""An option that is given and can change nothing is refused; of every option it is known when it has an effect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import torch

from mmrl.config import (
    AdversaryConfig,
    AsynchronousConfig,
    ChainConfig,
    CheckpointConfig,
    Config,
    ConfigError,
    CurriculumConfig,
    DataConfig,
    DistillStage,
    EvalConfig,
    ExpertConfig,
    FilterStage,
    FollowConfig,
    ForwardPreferenceStage,
    ForwardProcessStage,
    GrpoStage,
    HintsConfig,
    JointConfig,
    LookTimes,
    OptimConfig,
    PreferenceStage,
    ReportConfig,
    RewardConfig,
    RewardModelStage,
    RoleConfig,
    SampledStage,
    SftStage,
    ShardingConfig,
    SurrogateConfig,
    TimesConfig,
    TrainedTimes,
    TreeConfig,
    load,
)
from mmrl.config.stage import Stage
from mmrl.config.stage_sampling import SamplingStage
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.library import registries
from mmrl.core.resolving import GATE_RATIO, PRESETS
from mmrl.modalities.audio import config as audio
from mmrl.modalities.image import config as image
from mmrl.modalities.text import config as text
from mmrl.modalities.tokens import config as tokens
from mmrl.modalities.vision import config as vision

HELD, FUNCTION, HELD_FUNCTION = "data.eval_prompts=a.jsonl", "data.prompts=a.py:f", "data.eval_prompts=b.py:f"
RECORDS = "data.records=a.py:f"
LORA, LOADED = "model.train=lora", "model.train=lora model.lora.path=a"
BUILT, VLLM = "model.build={kind:qwen2}", "model.engine.name=vllm"
TREE, SPAM = "stages.0.tree={} stages.0.samples=8", "stages.0.optim.name=spam"
STAGED = "stages.0.curriculum.order=staged stages.0.curriculum.column=level"
SORTED = "stages.0.curriculum.order=sorted stages.0.curriculum.column=level"
EXACT = "stages.0.algorithm={kl_coef:0.1,kl_estimator:exact}"
MPO, BCO = "stages.0.objective=mpo", "stages.0.objective=bco"
SCALAR = "model.head={}"
SCALAR_STAGE = "stages.0={kind:reward_model,steps:1,pairs:a.jsonl} data.prompts=null rewards=[]"
FOLLOW = "stages.0.ema.follow"
PLAIN = f"{FOLLOW}={{decay:0.5}}"
TEXTS = "model.components=[denoiser,text_encoders]"
DPPO = "stages.0.algorithm={preset:flow_dppo}"
AWM, NORMAL = "stages.0.objective=awm", "stages.0.times.name=logit_normal"
UNIFORM = "stages.0.times.name=uniform"
RISING = "stages.0.old.decay=0.5 stages.0.old.rise=linear"
JOINT = "stages.0.joint={} stages.0.samples=4"
FILTER = "stages.0={kind:filter,steps:1,rule:pairs}"
STEPS = "stages.0.rule=steps stages.0.tree={}"
REWARDED = f"{SCALAR} {HELD} rewards=[{{name:a.b}}]"


class Case(NamedTuple):
    """`given` has an effect with the overrides `having`, and none with `lacking`."""

    section: type
    entry: str  # of section.effects
    given: str
    having: str | None = ""  # None: never
    lacking: str = ""
    stage: str = "grpo"
    modality: str = "text"


ROOT = Path(__file__).parents[2]

CASES = [
    *(Case(Config, "eval", f"eval.{given}", HELD) for given in ("every=5", "prompts=9", "by=kind", "seed=1")),
    Case(Config, "eval", "eval.rewards=[{name:a.b}]", HELD),
    Case(Config, "report.eval_prompts", "report.eval_prompts=3", HELD),
    Case(CheckpointConfig, "background", "checkpoint.background=true", "", "checkpoint.every=0"),
    Case(ReportConfig, "groups", "report.groups=3", "", "report.samples_every=0"),
    Case(ShardingConfig, "sync", "sharding.sync=update", "sharding.shards=2"),
    Case(ShardingConfig, "gathered", "sharding.gathered=bfloat16", "sharding.shards=2 model.dtype=bfloat16"),
    Case(
        ShardingConfig,
        "gathered",
        "sharding.gathered=bfloat16",
        "sharding.shards=2 model.dtype=bfloat16",
        "sharding.shards=2",
    ),
    Case(ReportConfig, "keep", "report.keep=7", "", "report.samples_every=0"),
    Case(
        ReportConfig, "keep", "report.keep=7", f"{HELD} eval.every=5 report.samples_every=0", "report.samples_every=0"
    ),
    Case(DistillStage, "teacher_steps", "stages.0.teacher_steps=4", HELD, stage="distill"),
    # Scores of given answers, and what becomes of an option where nothing is sampled.
    *(
        Case(section, entry, given, having, f"{SCALAR} {HELD}", "reward_model")
        for section, entry, given, having in (
            (EvalConfig, "samples", "eval.samples=2", REWARDED),
            (EvalConfig, "pass_at", "eval.pass_at=[1]", REWARDED),
            (EvalConfig, "choices", "eval.choices=shuffled", REWARDED),
            (ReportConfig, "samples_every", "report.samples_every=3", None),
            (ReportConfig, "groups", "report.groups=3", None),
            (DataConfig, "prompts", "data.prompts=a.jsonl", f"{SCALAR} stages.0.pairs=null"),
            (tokens.TokenModelConfig, "engine", "model.engine.name=vllm", None),
            (tokens.TokenModelConfig, "sampling.temperature", "model.sampling.temperature=0.7", None),
            (tokens.TokenModelConfig, "sampling.top_p", "model.sampling.top_p=0.9", None),
            (tokens.TokenModelConfig, "sampling.top_k", "model.sampling.top_k=9", None),
            (tokens.TokenModelConfig, "sampling.annealing", "model.sampling.annealing={}", None),
            (tokens.TokenModelConfig, "evaluation.temperature", "model.evaluation.temperature=0", REWARDED),
            (tokens.TokenModelConfig, "rollout_batch", "model.rollout_batch=9", REWARDED),
            (tokens.TokenModelConfig, "logits_chunk", "model.logits_chunk=9", REWARDED),
        )
    ),
    Case(
        tokens.TokenModelConfig,
        "fp32_head",
        "model.fp32_head=true",
        f"{REWARDED} model.dtype=bfloat16",
        f"{SCALAR} model.dtype=bfloat16",
        "reward_model",
    ),
    Case(Config, "rewards", "rewards=[{name:a.b}]", f"{SCALAR} {HELD}", SCALAR, "reward_model"),
    Case(DataConfig, "where", "data.where={a:1}", "", "data.prompts=null", "sft"),
    Case(DataConfig, "looked_at", "data.looked_at=9", "data.records=a.jsonl", RECORDS, "sft"),
    Case(DataConfig, "eval_where", "data.eval_where={a:1}", HELD),
    Case(DataConfig, "shuffle_options", "data.shuffle_options=true", "", "data.prompts=null", "sft"),
    Case(DataConfig, "prompts_count", "data.prompts_count=9", FUNCTION),
    Case(DataConfig, "prompts_options", "data.prompts_options={a:1}", FUNCTION),
    Case(DataConfig, "eval_prompts_count", "data.eval_prompts_count=9", HELD_FUNCTION),
    Case(DataConfig, "eval_prompts_options", "data.eval_prompts_options={a:1}", HELD_FUNCTION),
    Case(DataConfig, "records_count", "data.records_count=9", RECORDS),
    Case(DataConfig, "train_turns", "data.train_turns=last", RECORDS, "data.records=null"),
    Case(DataConfig, "options", "data.options={a:1}", RECORDS),
    Case(DataConfig, "chain", "data.chain={}", RECORDS, "data.records=null"),
    Case(DataConfig, "subset", "data.subset=a", "data.prompts=hub:a/b"),
    Case(DataConfig, "subset", "data.subset=a", "stages.0.pairs=hub:a/b", "", "preference"),
    Case(
        DataConfig,
        "split",
        "data.split=a",
        "stages.0.pairs=hub:a/b",
        f"data.prompts={__file__} {RECORDS} stages.0.pairs={__file__}",
        "preference",
    ),
    Case(DataConfig, "split", "data.split=a", "data.records=hub:a/b", f"data.prompts={__file__} {RECORDS}"),
    Case(DataConfig, "eval_split", "data.eval_split=a", "data.eval_prompts=hub:a/b", HELD_FUNCTION),
    Case(EvalConfig, "correct_at", "eval.correct_at=0.9", f"{HELD} eval.pass_at=[1]", HELD),
    Case(
        EvalConfig, "correct_at", "eval.correct_at=0.9", f"{HELD} eval.choices=rotated", f"{HELD} eval.choices=shuffled"
    ),
    Case(EvalConfig, "rewards.weight", "eval.rewards.0.weight=2", None, f"{HELD} eval.rewards=[{{name:a.b}}]"),
    Case(GrpoStage, "samples", "stages.0.samples=3", "", TREE),
    Case(GrpoStage, "rollout_chunk", "stages.0.rollout_chunk=1", "", TREE),
    Case(GrpoStage, "rollout_chunk", "stages.0.rollout_chunk=1", "", "stages.0.asynchronous={}"),
    Case(GrpoStage, "max_invalid", "stages.0.max_invalid=0.5", "", TREE),
    Case(GrpoStage, "curriculum.retire_at", "stages.0.curriculum.retire_at=0.5", "", TREE),
    Case(GrpoStage, "curriculum.correct_at", "stages.0.curriculum.correct_at=0.9", STAGED, f"{STAGED} {TREE}"),
    Case(GrpoStage, "curriculum.reward", "stages.0.curriculum.reward=b", STAGED, f"{STAGED} {TREE}"),
    Case(GrpoStage, "curriculum.advance_at", "stages.0.curriculum.advance_at=0.9", STAGED, f"{STAGED} {TREE}"),
    Case(GrpoStage, "curriculum.window", "stages.0.curriculum.window=9", STAGED, f"{STAGED} {TREE}"),
    *(
        Case(CurriculumConfig, name, f"stages.0.curriculum.{name}={value}", SORTED)
        for name, value in (("first", "high"), ("buckets", "3"), ("reestimate", "0.5"))
    ),
    Case(CurriculumConfig, "advance", "stages.0.curriculum.advance=evenly", STAGED, SORTED),
    Case(GrpoStage, "curriculum.reestimate", "stages.0.curriculum.reestimate=0.5", SORTED, f"{SORTED} {TREE}"),
    Case(CurriculumConfig, "column", "stages.0.curriculum.column=level", "stages.0.curriculum.order=sorted"),
    Case(CurriculumConfig, "advance_at", "stages.0.curriculum.advance_at=0.9", STAGED),
    Case(CurriculumConfig, "window", "stages.0.curriculum.window=9", STAGED),
    Case(CurriculumConfig, "advance_every", "stages.0.curriculum.advance_every=9", STAGED),
    Case(CurriculumConfig, "correct_at", "stages.0.curriculum.correct_at=0.9", "stages.0.curriculum.retire_at=0.5"),
    Case(CurriculumConfig, "reward", "stages.0.curriculum.reward=b", "stages.0.curriculum.retire_at=0.5"),
    Case(ExpertConfig, "warmup", "stages.0.expert.warmup=5", "", "stages.0.expert.peak=0"),
    Case(ExpertConfig, "decay", "stages.0.expert.decay=5", "stages.0.expert.peak=0.5"),
    *(
        Case(ForwardProcessStage, name, f"stages.0.{name}={value}", more, less, "forward_process")
        for name, value, more, less in (
            ("beta", "2", "", AWM),
            ("saturation", "2", "", AWM),
            ("weighting", "t", AWM, ""),
            ("power", "0.5", f"{AWM} stages.0.weighting=ghuber", AWM),
            ("ema", "{decay:0.5}", "stages.0.ema_coef=0.1", ""),
        )
    ),
    *(
        Case(FollowConfig, name, f"stages.0.old.{name}={value}", more, less, "forward_process")
        for name, value, more, less in (
            ("rise", "linear", "stages.0.old.decay=0.5", "stages.0.old.decay=0"),
            ("start", "0.1", RISING, "stages.0.old.decay=0.5"),
            ("slope", "0.1", RISING, "stages.0.old.decay=0.5"),
            ("flat", "7", RISING, "stages.0.old.decay=0.5"),
        )
    ),
    *(
        Case(TrainedTimes, name, f"stages.0.times.{name}=0.5", more, less, "forward_process")
        for name, more, less in (
            ("low", UNIFORM, NORMAL),
            ("high", UNIFORM, NORMAL),
            ("mean", NORMAL, UNIFORM),
            ("std", NORMAL, ""),
            ("shift", UNIFORM, ""),
            ("share", "", UNIFORM),
        )
    ),
    *(
        Case(section, name, f"stages.0.times.{name}=0.5", more, less, kind)
        for section, kind in ((LookTimes, "distill"), (TimesConfig, "forward_preference"))
        for name, more, less in (
            ("low", "", NORMAL),
            ("high", "", NORMAL),
            ("mean", NORMAL, ""),
            ("std", NORMAL, ""),
        )
    ),
    *(
        Case(DistillStage, name, f"stages.0.{name}={value}", f"{JOINT} {more}", more, "distill")
        for name, value, more in (
            *(("updates", "2", ""), ("epochs", "2", ""), ("refill", "2", ""), ("max_invalid", "0.5", "")),
            *(("hints", "{reward:a}", ""), ("shuffle_rewards", "true", "")),
            ("curriculum.retire_at", "0.5", ""),
            ("curriculum.correct_at", "0.9", STAGED),
            ("curriculum.reward", "b", STAGED),
            ("curriculum.advance_at", "0.9", STAGED),
            ("curriculum.window", "9", STAGED),
            ("curriculum.reestimate", "0.5", SORTED),
        )
    ),
    *(
        Case(DistillStage, name, f"stages.0.{name}=2", JOINT, f"{JOINT} stages.0.joint.schedule=weighted", "distill")
        for name in ("every", "pulls")
    ),
    Case(
        AdversaryConfig,
        "teacher_steps",
        "stages.0.adversary.teacher_steps=9",
        "stages.0.adversary={real:teacher}",
        f"stages.0.adversary={{real:records}} {RECORDS}",
        "distill",
    ),
    Case(
        SurrogateConfig,
        "slow",
        "stages.0.surrogate.slow={decay:0.5}",
        "stages.0.surrogate={} stages.0.samples=4",
        "stages.0.surrogate={clip:0} stages.0.samples=4",
        "distill",
    ),
    *(
        Case(JointConfig, name, f"stages.0.joint.{name}={value}", f"{JOINT} stages.0.joint.{more}", JOINT, "distill")
        for name, value, more in (
            ("weight", "2", "schedule=weighted"),
            ("beta", "2", "objective=step_dpo"),
            ("anchor", "{}", "objective=step_dpo"),
        )
    ),
    *(
        Case(RoleConfig, name, f"stages.0.ema.{name}=2", "stages.0.ema={optim:{}}", "stages.0.ema={}", "roles")
        for name in ("every", "updates")
    ),
    Case(
        FollowConfig, "rise", "stages.0.ema.follow.rise=average", f"{FOLLOW}={{decay:0.5}}", f"{FOLLOW}={{}}", "roles"
    ),
    *(
        Case(FollowConfig, name, f"{FOLLOW}.{name}={value}", f"{FOLLOW}={{decay:0.5,rise:linear}}", PLAIN, "roles")
        for name, value in (("start", "0.1"), ("slope", "0.5"), ("flat", "3"))
    ),
    Case(SftStage, "options", "stages.0.options={a:1}", RECORDS, "", "sft"),
    Case(PreferenceStage, "form", "stages.0.form=ipo", "", BCO, "preference"),
    Case(PreferenceStage, "label_smoothing", "stages.0.label_smoothing=0.1", "", BCO, "preference"),
    Case(PreferenceStage, "label_smoothing", "stages.0.label_smoothing=0.1", MPO, "stages.0.form=ipo", "preference"),
    Case(PreferenceStage, "weights", "stages.0.weights=[1,1,1]", MPO, "", "preference"),
    Case(PreferenceStage, "beta", "stages.0.beta=0.3", "", f"{MPO} stages.0.weights=[0,0,1]", "preference"),
    *(
        Case(RewardModelStage, name, f"stages.0.{name}={value}", f"{SCALAR} {more}", f"{SCALAR} {less}", "reward_model")
        for name, value, more, less in (
            ("labels", "hard", "", "stages.0.objective=mse"),
            ("margin", "0.5", "", "stages.0.objective=bce"),
            ("centre", "0.1", "", "stages.0.objective=mse"),
            ("tie_edge", "2", "stages.0.objective=ties", ""),
            ("show", '"{candidate}{prompt}"', "", "stages.0.rows=steps stages.0.objective=mse"),
        )
    ),
    Case(
        RewardModelStage,
        "options",
        "stages.0.options={a:1}",
        f"{SCALAR} {FUNCTION} stages.0.pairs=null",
        f"{SCALAR} data.prompts=a.jsonl stages.0.pairs=null",
        "reward_model",
    ),
    Case(FilterStage, "optim", "stages.0.optim.lr=0.1", "", FILTER),
    Case(FilterStage, "components", "stages.0.components=[a]", "", FILTER),
    Case(FilterStage, "micro_batch", "stages.0.micro_batch=3", "", FILTER),
    Case(FilterStage, "samples", "stages.0.samples=9", "", STEPS, "filter"),
    Case(FilterStage, "max_invalid", "stages.0.max_invalid=0.3", "", STEPS, "filter"),
    Case(FilterStage, "tree", "stages.0.tree={depth:9}", "stages.0.rule=steps", "", "filter"),
    Case(FilterStage, "tree.least_spread", "stages.0.tree.least_spread=0.3", None, STEPS, "filter"),
    Case(FilterStage, "margin", "stages.0.margin=0.1", "", "stages.0.rule=rejection", "filter"),
    Case(FilterStage, "require_correct", "stages.0.require_correct=false", "", "stages.0.rule=rejection", "filter"),
    Case(FilterStage, "keep", "stages.0.keep=2", "stages.0.rule=rejection", "", "filter"),
    Case(FilterStage, "low", "stages.0.low=0.1", "stages.0.rule=difficulty", "", "filter"),
    Case(FilterStage, "high", "stages.0.high=0.9", "stages.0.rule=difficulty", "", "filter"),
    Case(FilterStage, "pass_rates", "stages.0.pass_rates=a.jsonl", "stages.0.rule=difficulty", "", "filter"),
    Case(
        FilterStage,
        "pass_rates_of",
        "stages.0.pass_rates_of=any",
        "stages.0.rule=difficulty stages.0.pass_rates=a.jsonl",
        "stages.0.rule=difficulty",
        "filter",
    ),
    Case(FilterStage, "min_attempts", "stages.0.min_attempts=2", "stages.0.rule=difficulty", "", "filter"),
    Case(OptimConfig, "final_lr", "stages.0.optim.final_lr=0.1", "stages.0.optim.schedule=cosine"),
    Case(OptimConfig, "muon_ratio", "stages.0.optim.muon_ratio=2", "stages.0.optim.name=muon"),
    Case(OptimConfig, "muon_momentum", "stages.0.optim.muon_momentum=0.5", "stages.0.optim.name=muon"),
    Case(OptimConfig, "spam_threshold", "stages.0.optim.spam_threshold=.inf", SPAM),
    Case(OptimConfig, "spam_reset_every", "stages.0.optim.spam_reset_every=0", SPAM),
    Case(OptimConfig, "spam_warmup", "stages.0.optim.spam_warmup=9", SPAM, f"{SPAM} stages.0.optim.spam_reset_every=0"),
    Case(
        OptimConfig,
        "spam_clip_after",
        "stages.0.optim.spam_clip_after=9",
        SPAM,
        f"{SPAM} stages.0.optim.spam_threshold=.inf",
    ),
    *(
        Case(section, name, f"model.lora.{name}={value}", LORA, LOADED, modality=modality)
        for section, modality in ((image.LoraConfig, "image"), (tokens.LoraConfig, "text"))
        for name, value in (("rank", "9"), ("alpha", "9"), ("targets", "[a]"))
    ),
    *(
        Case(image.EngineConfig, entry, given, "model.engine.name=servers", modality="image")
        for entry, given in (
            ("options", "model.engine.options={concurrency:2}"),
            ("tolerance", "model.engine.tolerance=1"),
        )
    ),
    Case(image.ModelConfig, "engine", "model.engine.name=servers", None, stage="sft", modality="image"),
    Case(image.ModelConfig, "revision", "model.revision=a", "", "model.path=./here", modality="image"),
    Case(image.ModelConfig, "park", "model.park=true", "", "device=cpu", modality="image"),
    Case(RewardConfig, "park", "rewards.0.park=true", "", "device=cpu"),
    Case(image.ModelConfig, "park", "model.park=true", "", "model.components=[text_encoders,vae]", modality="image"),
    Case(image.ModelConfig, "lora", "model.lora.rank=9", LORA, modality="image"),
    Case(
        image.ModelConfig,
        "max_sequence_length",
        "model.max_sequence_length=9",
        "",
        "model.family=sdxl",
        modality="image",
    ),
    Case(image.ModelConfig, "source_pixels", "model.source_pixels=9", "", "model.family=sd3", modality="image"),
    *(
        Case(image.ModelConfig, f"{part}.frames", f"model.{part}.frames=5", "", "model.family=sd3", modality="image")
        for part in ("sampling", "evaluation")
    ),
    Case(
        image.ModelConfig,
        "sampling.guidance_gradient",
        "model.sampling.guidance_gradient=both",
        "model.sampling.guidance=3",
        "model.sampling.guidance=3 model.family=flux2",
        modality="image",
    ),
    Case(
        image.ModelConfig,
        "sampling.guidance_gradient",
        "model.sampling.guidance_gradient=both",
        "model.sampling.guidance=3",
        "",
        modality="image",
    ),
    *(
        Case(image.ModelConfig, f"{part}.true_cfg", f"model.{part}.true_cfg=2", having, lacking, modality="image")
        for part in ("sampling", "evaluation")
        for having, lacking in (("", "model.family=sd3"), ("model.family=flux_kontext", "model.family=flux2"))
    ),
    Case(
        image.ModelConfig,
        "sampling.guidance_gradient",
        "model.sampling.guidance_gradient=both",
        "model.sampling.true_cfg=3 model.family=flux",
        "model.sampling.guidance=3 model.family=flux2",
        modality="image",
    ),
    *(
        Case(
            image.ModelConfig,
            "sampling.negative_prompt",
            "model.sampling.negative_prompt=blurred",
            f"model.{part}.true_cfg=3 model.family=flux",
            "",
            modality="image",
        )
        for part in ("sampling", "evaluation")
    ),
    *(
        Case(
            image.ModelConfig,
            f"sampling.{given.partition('=')[0]}",
            f"model.sampling.{given}",
            having,
            lacking,
            modality="image",
        )
        for given in ("guidance_rescale=0.7", "negative_prompt=blurred")
        for having, lacking in (
            ("model.sampling.guidance=3", ""),
            ("model.evaluation.guidance=3", "model.sampling.guidance=0.5"),
        )
    ),
    Case(
        image.ModelConfig,
        "sampling.guidance_rescale",
        "model.sampling.guidance_rescale=0.7",
        "model.sampling.guidance=3",
        "model.sampling.guidance=3 model.family=sd3",
        modality="image",
    ),
    Case(image.ModelConfig, "sampling.keep_mean", "model.sampling.keep_mean=true", DPPO, modality="image"),
    *(
        Case(
            image.ModelConfig,
            f"sampling.{option}",
            f"model.sampling.{option}=true",
            f"{JOINT} stages.0.joint.algorithm={{{own}}}",
            JOINT,
            "distill",
            "image",
        )
        for option, own in (("keep_mean", "preset:flow_dppo"), ("kl_published", "kl_coef:0.1,kl_estimator:exact"))
    ),
    Case(
        image.ModelConfig,
        "sampling.keep_mean",
        "model.sampling.keep_mean=true",
        DPPO,
        f"{DPPO} model.sampling.ratio_norm=true",
        modality="image",
    ),
    Case(
        image.ModelConfig,
        "sampling.negative_prompt",
        "model.sampling.negative_prompt=blurred",
        "stages.0={kind:distill,steps:1,guidance:3}",
        "stages.0={kind:distill,steps:1}",
        modality="image",
    ),
    Case(
        image.ModelConfig,
        "sampling.noise_level",
        "model.sampling.noise_level=0.5",
        lacking="model.sampling.kernel=renoise",
        modality="image",
    ),
    Case(image.ModelConfig, "sampling.kl_published", "model.sampling.kl_published=true", EXACT, modality="image"),
    Case(
        image.ModelConfig,
        "sampling.kl_published",
        "model.sampling.kl_published=true",
        EXACT,
        f"{EXACT} model.family=sd",
        modality="image",
    ),
    Case(image.ModelConfig, "keep_graph", "model.keep_graph=true", "", TEXTS, modality="image"),
    Case(image.ModelConfig, "caption_dropout", "model.caption_dropout=0.3", "stages.0.expert={}", modality="image"),
    Case(image.ModelConfig, "supervised_sizes", "model.supervised_sizes=[32]", "stages.0.expert={}", modality="image"),
    Case(image.ModelConfig, "time_shift", "model.time_shift=3", "", "model.family=sd", "sft", "image"),
    Case(tokens.EngineConfig, "options", "model.engine.options={mode:server}", VLLM),
    Case(tokens.EngineConfig, "tolerance", "model.engine.tolerance=0.1", VLLM),
    Case(
        tokens.AnnealingConfig, "d_max", "model.sampling.annealing.d_max=900", "", "model.sampling.annealing.d_growth=0"
    ),
    Case(tokens.TokenModelConfig, "revision", "model.revision=a", "", BUILT),
    Case(tokens.TokenModelConfig, "trust_remote_code", "model.trust_remote_code=true", "", BUILT),
    Case(tokens.TokenModelConfig, "lora", "model.lora.rank=9", LORA),
    Case(tokens.TokenModelConfig, "first_share", "model.first_share=0.3", "stages.0.objective=sft_first", "", "sft"),
    Case(tokens.TokenModelConfig, "precise", "model.precise=a.py:f", "stages.0.algorithm.preset=cad_rl"),
    Case(
        tokens.TokenModelConfig, "precise_weight", "model.precise_weight=3", "stages.0.objective=sft_precise", "", "sft"
    ),
    Case(tokens.TokenModelConfig, "head", SCALAR, SCALAR_STAGE),
    Case(tokens.TokenModelConfig, "fp32_head", "model.fp32_head=true", "model.dtype=bfloat16"),
    Case(tokens.TokenModelConfig, "engine", "model.engine.name=vllm", "", TREE),
    Case(tokens.TokenModelConfig, "sampling.top_p", "model.sampling.top_p=0.9", "", TREE),
    Case(tokens.TokenModelConfig, "sampling.top_k", "model.sampling.top_k=9", "", TREE),
    Case(tokens.TokenModelConfig, "sampling.annealing", "model.sampling.annealing={}", "", TREE),
    Case(
        vision.ModelConfig,
        "tiles",
        "model.tiles=4",
        "model.build={kind:internvl}",
        "model.build={kind:paligemma}",
        modality="vision",
    ),
    Case(vision.ModelConfig, "min_pixels", "model.min_pixels=9", "", "model.build={kind:smolvlm}", modality="vision"),
    Case(
        vision.ModelConfig,
        "max_pixels",
        "model.max_pixels=9",
        "model.build={kind:qwen3_vl}",
        "model.build={kind:internvl}",
        modality="vision",
    ),
    Case(
        audio.ModelConfig,
        "vision",
        "model.vision=trained",
        "model.build={kind:qwen2_5_omni}",
        "model.build={kind:voxtral}",
        modality="audio",
    ),
    Case(
        audio.ModelConfig,
        "long_sounds",
        "model.long_sounds=chunks",
        "model.build={kind:qwen2_audio}",
        "model.build={kind:qwen3_omni_moe}",
        modality="audio",
    ),
]

# Options that change something in every run that has their section.
ALWAYS: dict[type, set[str]] = {
    ChainConfig: {"style", "sections", "inside", "answer"},
    Config: {
        *("name", "about", "modality", "seed", "out", "model", "environment", "data", "stages"),
        *("checkpoint", "report", "trackers", "device", "threads", "timeout", "sharding"),
    },
    # What a run can draw on, and how it is stored, may stay unused: the command line takes stages out and puts them in.
    DataConfig: {
        "columns",
        "eval_prompts",
        "records",
        "format",
        "image_root",
        "on_bad_record",
        "max_pixels",
        "max_seconds",
        "video_frames",
        "videos",
    },
    EvalConfig: {"every", "prompts", "seed", "by", "rewards"},
    ReportConfig: set(),
    CheckpointConfig: {"every", "keep"},
    ShardingConfig: {"shards"},
    RewardConfig: {"name", "alias", "weight", "options", "timeout"},
    SamplingStage: {"sampling"},
    Stage: {"kind", "name", "steps", "micro_batch", "optim", "components", "data_from"},
    SampledStage: {"groups", "updates", "epochs", "curriculum", "refill", "hints", "shuffle_rewards"},
    GrpoStage: {"kind", "old_logp", "staleness", "asynchronous", "algorithm", "tree", "branches", "expert"},
    AsynchronousConfig: {"staleness", "push_every"},
    ForwardProcessStage: {
        *(
            "kind",
            "samples",
            "rollout_chunk",
            "max_invalid",
            "objective",
            "reference_coef",
            "ema_coef",
            "draws",
            "times",
        ),
        *("same_noise", "old", "algorithm"),
    },
    TimesConfig: {"name", "shift"},
    LookTimes: {"name", "shift"},
    TrainedTimes: {"name"},
    DistillStage: {
        *("kind", "groups", "samples", "rollout_chunk", "early", "teacher", "guidance", "times", "fake"),
        *("adversary", "joint", "surrogate", "times_above"),
    },
    SurrogateConfig: {"role", "reward", "guidance", "beta", "clip", "limit", "anchor", "algorithm"},
    AdversaryConfig: {"weight", "form", "late", "real", "features", "blocks", "width", "times", "heads"},
    JointConfig: {"objective", "schedule", "after", "algorithm"},
    RoleConfig: {"optim", "follow"},
    FollowConfig: {"decay", "every"},
    SftStage: {"kind", "objective", "batch"},
    PreferenceStage: {"kind", "pairs", "objective", "batch"},
    ForwardPreferenceStage: {"kind", "pairs", "beta", "label_smoothing", "draws", "times", "batch"},
    RewardModelStage: {"kind", "pairs", "rows", "objective", "confidence", "batch", "calibrate"},
    FilterStage: {"kind", "rule", "groups", "samples", "reward", "correct_at", "max_invalid"},
    OptimConfig: {"name", "lr", "betas", "eps", "weight_decay", "max_grad_norm", "warmup", "schedule", "ema"},
    CurriculumConfig: {"order", "retire_at"},
    HintsConfig: {"reward", "threshold", "fractions", "sentence"},
    ExpertConfig: {"objective", "batch", "micro_batch", "peak", "valley"},
    TreeConfig: {"iterations", "children", "depth", "c", "least_spread", "step_end", "step_tokens"},
    image.LoraConfig: {"path"},
    image.EngineConfig: {"name"},
    image.SamplingConfig: {
        *("steps", "kernel", "plan", "guidance", "same_noise", "size", "logp_reduction", "ratio_norm"),
        "storage",
    },
    image.EvaluationConfig: {"steps", "kernel", "guidance", "size"},
    image.ModelConfig: {
        *("path", "family", "build", "dtype", "train", "components", "gradient_checkpointing", "compile", "sampling"),
        *("evaluation", "rollout_batch", "decode_batch", "embedding_cache"),
    },
    tokens.LoraConfig: {"path"},
    tokens.EngineConfig: {"name"},
    tokens.HeadConfig: {"outputs", "init"},
    tokens.AnnealingConfig: {"tau_max", "tau_min", "start", "d0", "d_growth"},
    tokens.SamplingConfig: {"max_tokens"},
    tokens.EvaluationConfig: {"max_tokens"},
    tokens.ConversationConfig: {"max_turns", "max_pictures", "max_tokens"},  # records may bring environments
    tokens.TokenModelConfig: {
        *("path", "build", "dtype", "attention", "train", "gradient_checkpointing", "compile", "chat", "system"),
        "chat_template_kwargs",
        *("max_prompt_tokens", "skip_special_tokens", "sampling", "evaluation", "conversation"),
    },
    text.ModelConfig: set(),
    vision.ModelConfig: {"vision", "space", "picture_cache"},
    audio.ModelConfig: {"family", "audio", "channels", "media_cache"},
}


def sections() -> list[type]:
    """All sections that a config can hold."""
    found: list[type] = []

    def walk(annotation: Any) -> None:
        for part in get_args(annotation):
            walk(part)
        if isinstance(annotation, type) and hasattr(annotation, "effects") and annotation not in found:
            found.append(annotation)
            for field in annotation.model_fields.values():
                walk(field.annotation)

    for section in (Config, image.ModelConfig, text.ModelConfig, vision.ModelConfig, audio.ModelConfig):
        walk(section)
    return found


def overrides(words: str) -> list[str]:
    return [word.replace(":", ": ") if "{" in word else word for word in words.split()]


def test_of_every_option_it_is_known_when_it_has_an_effect():
    known = {(section, name) for section, names in ALWAYS.items() for name in names}
    known |= {(case.section, case.entry) for case in CASES}
    # An entry such as `sampling.top_p` of the section that holds sampling.
    known |= {(section, part) for section in sections() for part in _held(section)}
    options = [(section, name) for section in sections() for name in section.model_fields]
    missing = [
        f"{section.__name__}.{name}"
        for section, name in options
        if not any((above, name) in known for above in section.__mro__)
    ]
    assert len(options) > 200
    assert not missing, "say when these have an effect: in `effects`, with a case here, or in ALWAYS"


def _held(section: type) -> set[str]:
    """Options of `section` that stand in the tables of the sections that hold it."""
    holders = [
        (holder, name)
        for holder in sections()
        for name, field in holder.model_fields.items()
        if section in (field.annotation, *get_args(field.annotation))
    ]
    paths = [entry.partition(".") for holder, _ in holders for entry in holder.effects]
    return {rest for name, _, rest in paths if rest and name in {name for _, name in holders}}


def test_every_entry_of_a_table_has_a_case():
    entries = {(section, entry) for section in sections() for entry in vars(section).get("effects", {})}
    covered = {(case.section, case.entry) for case in CASES}
    of_tokens = {(tokens.TokenModelConfig, entry) for entry in tokens.TokenModelConfig.effects}
    heirs = (vision.ModelConfig, audio.ModelConfig)
    inherited = {(heir, entry) for heir in heirs for entry in tokens.TokenModelConfig.effects}
    assert (entries | of_tokens) - inherited == covered


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section.__name__}.{case.entry}")
def test_an_option_is_taken_where_it_has_an_effect_and_refused_elsewhere(config, case):
    base, given = config(case.modality, (case.stage,)), overrides(case.given)
    if case.having is not None:
        load(base, [*overrides(case.having), *given])
    load(base, overrides(case.lacking))
    with pytest.raises(ConfigError) as caught:
        load(base, [*overrides(case.lacking), *given])
    key = case.given.partition("=")[0]
    (line,) = str(caught.value).splitlines()
    assert re.match(rf"{re.escape(key)}[\w.]*: has no effect here, it needs .*; leave it out$", line)


def test_all_that_have_no_effect_are_told_at_once(config):
    with pytest.raises(ConfigError) as caught:
        load(config(), ["stages.0.optim.final_lr=0.1", "eval.every=3", "data.options={a: 1}"])
    keys = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert sorted(keys) == ["data.options", "eval.every", "stages.0.optim.final_lr"]


def test_a_default_that_is_written_out_is_no_option_without_effect(config):
    made = load(config(), ["stages.0.optim.final_lr=0.05", "eval.every=0"])
    assert load(made.model_dump()) == made


def test_every_option_is_read_somewhere():
    """A field that no line of the package asks for has no effect at all."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "mmrl").rglob("*.py"))
    read = set(re.findall(r"\.(\w+)", code))
    unread = {f"{s.__name__}.{name}" for s in sections() for name in s.model_fields if name not in read}
    assert unread == set()


GATES = registries()["gate"]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("field", ["clip_low", "clip_high"])
def test_a_clip_range_is_taken_by_the_gates_that_change_with_it(config, gate, field):
    ratio = torch.linspace(0.05, 3, 60)[None].repeat(2, 1)
    advantage = torch.ones_like(ratio) * torch.tensor([[1.0], [-1.0]])
    bounds = {"gate_low": torch.tensor([0.5, 0.5]), "gate_high": torch.tensor([2.0, 2.0])}
    far = {"divergence": torch.ones_like(ratio)}
    batch = Batch(torch.arange(2), 2, torch.ones_like(ratio, dtype=torch.bool), columns=bounds, features=far)
    level = GATE_RATIO.get(gate, "token")
    made = [
        GATES[gate].function(
            ratio, advantage, Algorithm(gate=gate, ratio=level, **{"clip_low": 0.2, "clip_high": 0.2, field: x}), batch
        )
        for x in (0.2, 0.9)
    ]
    words = [f"stages.0.algorithm={{gate: {gate}, ratio: {level}, {field}: 0.9}}"]
    if torch.equal(*made):
        with pytest.raises(ConfigError, match=rf"{field} has no effect with gate="):
            load(config(), words)
    else:
        assert getattr(load(config(), words).stages[0].resolved, field) == 0.9


@pytest.mark.parametrize(
    ("given", "having"),
    [
        ("kl_estimator: k2", "kl_coef: 0.1"),
        ("kl_place: reward", "kl_coef: 0.1, kl_estimator: k1"),
        ("constant_length: 9", "aggregate: constant"),
    ],
)
def test_a_field_of_the_algorithm_has_an_effect_or_is_refused(config, given, having):
    load(config(), [f"stages.0.algorithm={{{given}, {having}}}"])
    with pytest.raises(ConfigError, match=f"{given.partition(':')[0]} has no effect with"):
        load(config(), [f"stages.0.algorithm={{{given}}}"])


def test_what_a_preset_sets_is_not_given(config):
    for preset, fields in PRESETS.items():
        length = ", constant_length: 9" if fields.get("aggregate") == "constant" else ""
        load(config(), [f"stages.0.algorithm={{preset: {preset}{length}}}"])
