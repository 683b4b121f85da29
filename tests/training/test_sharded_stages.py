"""Every kind of stage with weights divided over two processes: gradients, weights of all roles, checkpoints, resumes."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from divided import (
    GRPO,
    LORA,
    OPTIM,
    PROMPTS,
    SFT,
    Runs,
    both,
    distance,
    exported,
    job,
    latest,
    merged,
    noting,
    off,
    rows,
    state,
    together,
    trained,
)
from every import every
from PIL import Image

import mmrl

# Of the gradients of an update, the largest element is 1.
ALIKE = 1e-6
CLOSE = 1e-5
TRAINED: dict[str, Any] = {"optim": OPTIM}
SD3 = {"build": {"layers": 2, "heads": 2, "head_dim": 16, "grid": 4}, "sampling": {"guidance": 3.0}}
ENDS = {**SD3, "sampling": {"guidance": 1.0, "plan": {"name": "untrained"}}}
FORWARD = {"kind": "forward_process", "steps": 2, "groups": 3, "samples": 2, "micro_batch": 4, "draws": 2, **TRAINED}
RENOISE = {**SD3, "sampling": {"guidance": 1.0, "kernel": "renoise"}}
DISTILL = {"kind": "distill", "steps": 2, "groups": 3, "samples": 2, "micro_batch": 4, "fake": {**TRAINED, "updates": 2}}
DISTILL |= TRAINED


def pairs(runs: Runs) -> str:
    """Of answers of several lengths."""
    made = [{"id": str(i), "prompt": p, "chosen": p[::-1] * (1 + i % 3), "rejected": p} for i, p in enumerate(PROMPTS)]
    return runs.jsonl("pairs", made)


def drawn_pairs(runs: Runs) -> str:
    for i in range(2):
        picture = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(runs.folder / f"drawn{i}.png")
    shown = [{"images": [f"drawn{i}.png"]} for i in range(2)]
    return runs.jsonl("drawn", [{"prompt": p, "candidates": shown, "shares": [i % 2, 1 - i % 2]} for i, p in enumerate(PROMPTS)])


def dpo(runs):
    """Three pairs and two in each step, cut into micro-batches by their lengths."""
    return runs.text("dpo", {"kind": "preference", "pairs": pairs(runs), "batch": 5, "micro_batch": 20, "steps": 5, **TRAINED})


def mpo_lora(runs):
    """One pair a step: the second process has none."""
    stage = {"kind": "preference", "pairs": pairs(runs), "objective": "mpo", "batch": 1, "steps": 5, **TRAINED}
    return runs.text("mpo_lora", stage, **LORA)


def scalar(runs):
    """A head, which both processes hold, on a decoder that is divided; in odd steps the second has nothing."""
    stage = {"kind": "reward_model", "pairs": pairs(runs), "batch": 5, "micro_batch": 60, "steps": 5, **TRAINED}
    config = runs.text("scalar", stage, merged(stage, {"name": "alone", "batch": 1, "steps": 2}), head={"init": 0.1})
    return {**config, "data": {}, "rewards": []}


def expert(runs):
    stage = merged(GRPO, {"expert": {"batch": 3, "micro_batch": 1, "warmup": 0}})
    return runs.text("expert", stage)


def nft(runs):
    return runs.image("nft", "sd3", merged(FORWARD, {"reference_coef": 0.1, "old": {"decay": 0.5}}), **ENDS)


def awm_lora(runs):
    stage = merged(FORWARD, {"objective": "awm", "epochs": 2, "ema_coef": 0.1, "groups": 1})
    return runs.image("awm_lora", "sd3", stage, **ENDS, **LORA)


def dgpo(runs):
    return runs.image("dgpo", "sd3", merged(FORWARD, {"objective": "dgpo", "epochs": 2}), **ENDS)


def drawn_dpo(runs):
    stage = {"kind": "forward_preference", "pairs": drawn_pairs(runs), "batch": 5, "micro_batch": 4, "draws": 3}
    return runs.image("drawn_dpo", "sd3", {**stage, **TRAINED, "steps": 5, "beta": 1.0}, **SD3)


def drawn_dpo_alone(runs):
    """One pair a step."""
    stage = {"kind": "forward_preference", "pairs": drawn_pairs(runs), "batch": 1, "micro_batch": 4, "draws": 3}
    return runs.image("drawn_dpo_alone", "sd3", {**stage, **TRAINED, "steps": 5, "beta": 1.0}, **SD3, **LORA)


def flash(runs):
    """Generator, fake score, heads, and rewards in the same updates."""
    adversary = {"real": "teacher", "teacher_steps": 2, "blocks": 2, "width": 8, "weight": 0.1, "heads": TRAINED}
    joint = {"schedule": "weighted", "weight": 0.5}
    return runs.image("flash", "sd3", merged(DISTILL, {"adversary": adversary, "joint": joint}), **RENOISE)


def flash_alone(runs):
    """One group: the second process has no sample, and takes part in what the first does of every role."""
    adversary = {"real": "teacher", "teacher_steps": 2, "blocks": 1, "width": 8, "weight": 0.1, "heads": TRAINED}
    joint = {"objective": "step_dpo", "anchor": {"follow": {"decay": 0.5}}, "schedule": "alternate"}
    stage = merged(DISTILL, {"adversary": adversary, "joint": joint, "groups": 1, "samples": 3})
    return runs.image("flash_alone", "sd3", stage, **RENOISE, **LORA), {"sync": "update"}


def tdm(runs):
    surrogate = {"role": {**TRAINED, "updates": 2}}
    model = {**SD3, "sampling": {"guidance": 2.0, "plan": {"name": "untrained", "boundaries": True}}}
    stage = merged(DISTILL, {"surrogate": surrogate, "times_above": True, "groups": 5, "optim": {"ema": 0.9}})
    return runs.image("tdm", "sd3", stage, **model)


def tdm_alone(runs):
    model = {**SD3, "sampling": {"guidance": 2.0, "plan": {"name": "untrained", "boundaries": True}}}
    return runs.image("tdm_alone", "sd3", merged(DISTILL, {"surrogate": {"role": TRAINED}, "groups": 1}), **model)


def kept(runs):
    """What is sampled and kept is learned from records."""
    sieve = {"kind": "filter", "name": "sieve", "rule": "rejection", "correct_at": 0.0, "steps": 1, "groups": 3, "samples": 2}
    return runs.text("kept", sieve, merged(SFT, {"data_from": "sieve"}))


CASES = [dpo, mpo_lora, scalar, expert, nft, awm_lora, dgpo, drawn_dpo, drawn_dpo_alone]
CASES += [flash, flash_alone, tdm, tdm_alone, kept]
NAMES = [case.__name__ for case in CASES]
