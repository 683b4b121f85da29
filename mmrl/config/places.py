"""Every key that a run may have: where one that stands in the wrong place belongs, and what a shell completes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from mmrl.core.algorithm import Algorithm
from mmrl.modalities.load import config_class

# What other libraries call an option of ours: the end of its key.
OTHERS = {
    "adam_beta2": "betas",
    "adam_weight_decay": "weight_decay",
    "adv_clip_max": "clamp",
    "batch_size": "groups",
    "beta": "kl_coef",
    "clip_range": "clip_low",
    "dataset": "prompts",
    "dataset_name": "prompts",
    "delta": "gate",
    "entropy_coef": "terms",
    "epsilon": "clip_low",
    "epsilon_high": "clip_high",
    "eval_freq": "every",
    "eval_num_steps": "steps",
    "eval_steps": "every",
    "generation_batch_size": "groups",
    "global_std": "advantage",
    "guidance_scale": "guidance",
    "importance_sampling_level": "ratio",
    "kl_beta": "kl_coef",
    "learning_rate": "lr",
    "log_completions": "samples_every",
    "logging_dir": "out",
    "lora_alpha": "alpha",
    "lora_r": "rank",
    "loss_type": "aggregate",
    "lr_scheduler_type": "schedule",
    "mask_truncated_completions": "action_masks",
    "max_completion_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_response_length": "max_tokens",
    "max_steps": "steps",
    "mixed_precision": "dtype",
    "model_name_or_path": "path",
    "multi_objective_aggregation": "combine",
    "num_batches_per_epoch": "groups",
    "num_checkpoint_limit": "keep",
    "num_epochs": "steps",
    "num_generations": "samples",
    "num_image_per_prompt": "samples",
    "num_inner_epochs": "epochs",
    "num_iterations": "epochs",
    "num_steps": "steps",
    "num_train_epochs": "steps",
    "output_dir": "out",
    "peft_config": "rank",
    "per_device_train_batch_size": "micro_batch",
    "pretrained_model_name_or_path": "path",
    "report_to": "trackers",
    "resolution": "size",
    "reward_fn": "rewards",
    "reward_funcs": "rewards",
    "reward_weights": "weight",
    "rollout_n": "samples",
    "run_name": "name",
    "same_latent": "same_noise",
    "save_freq": "every",
    "save_steps": "every",
    "scale_rewards": "advantage",
    "sde_type": "kernel",
    "sde_window_range": "plan",
    "sde_window_size": "plan",
    "steps_per_generation": "updates",
    "timestep_fraction": "plan",
    "top_entropy_quantile": "action_weights",
    "train_files": "prompts",
    "use_lora": "train",
    "val_files": "eval_prompts",
    "vllm_importance_sampling_correction": "correction",
    "vllm_mode": "options",
    "warmup_steps": "warmup",
}


def keys(section: type[BaseModel], given: Mapping[str, Any]) -> Iterator[str]:
    """Dotted keys of the options at and below a section, as an override names them.

    given: its values as they are written; they name the stages, and the modality whose `model` section it is.
    """
    for name, field in section.model_fields.items():
        yield name
        value = given.get(name)
        if name == "algorithm":
            yield from (f"{name}.{each}" for each in ("preset", *(f.name for f in dataclasses.fields(Algorithm))))
        elif name == "model":
            yield from (f"{name}.{key}" for key in _of_model(given, value))
        else:
            yield from (f"{name}.{key}" for key in _inside(field.annotation, value))


def elsewhere(section: type[BaseModel], given: Mapping[str, Any], word: str) -> list[str]:
    """Keys inside the sections of a section that end in this word; at most three."""
    return [key for key in keys(section, given) if "." in key and key.rpartition(".")[2] == word][:3]


def _of_model(given: Mapping[str, Any], value: Any) -> Iterator[str]:
    try:
        section = config_class(str(given.get("modality")))
    except Exception:  # a modality that cannot be imported is another error, which its own check tells
        return
    if isinstance(section, type) and issubclass(section, BaseModel):
        yield from keys(section, value if isinstance(value, Mapping) else {})


def _inside(annotation: Any, value: Any) -> Iterator[str]:
    sections = list(_sections(annotation))
    if isinstance(value, list):
        for number, item in enumerate(value):
            item = item if isinstance(item, Mapping) else {}
            name = str(item.get("name") or item.get("kind") or number)
            section = _of_kind(sections, item.get("kind"))
            if section is not None:
                yield from (f"{number if '.' in name else name}.{key}" for key in keys(section, item))
    elif len(sections) == 1 and not _is_list(annotation):
        yield from keys(sections[0], value if isinstance(value, Mapping) else {})


def _of_kind(sections: list[type[BaseModel]], kind: Any) -> type[BaseModel] | None:
    """The section of a list's item: the only one, or that of its kind."""
    if len(sections) == 1:
        return sections[0]
    return next((s for s in sections if s.model_fields["kind"].default == kind), None)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list
