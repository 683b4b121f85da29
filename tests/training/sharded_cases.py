"""Runs of every kind, small, each of which is compared: of one process, and of several that divide its weights.

A case takes Runs and gives a config, or (a config, its options of `sharding` besides shards).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from divided import GRPO, LORA, OPTIM, PROMPTS, SD3, SFT, Runs, both, merged
from PIL import Image

KL = {"algorithm": {"kl_coef": 0.1, "kl_place": "loss"}}
TRAINED: dict[str, Any] = {"optim": OPTIM}
ENDS = {**SD3, "sampling": {"guidance": 1.0, "plan": {"name": "untrained"}}}
FORWARD = {"kind": "forward_process", "steps": 2, "groups": 3, "samples": 2, "micro_batch": 4, "draws": 2, **TRAINED}
RENOISE = {**SD3, "sampling": {"guidance": 1.0, "kernel": "renoise"}}
DISTILL = {
    "kind": "distill",
    "steps": 2,
    "groups": 3,
    "samples": 2,
    "micro_batch": 4,
    "fake": {**TRAINED, "updates": 2},
}
DISTILL |= TRAINED


# ---------------------------------------------------------------- the stage grpo, and sft


def full(runs):
    """Tied embeddings, an average, a reference; three groups and two, cut into micro-batches of their lengths."""
    return runs.text("full", merged(GRPO, {"optim": {"ema": 0.9}, **KL})), {}


def lora(runs):
    return runs.text("lora", merged(GRPO, KL), **LORA), {}


def late(runs):
    """An output layer of its own, and gradients that are summed once for an update."""
    return runs.text("late", GRPO, build={"tied": False}), {"sync": "update"}


def empty(runs):
    """Records and then one group, which is the first process's; layers that are computed again in the backward."""
    return runs.text("empty", SFT, merged(GRPO, {"groups": 1, "samples": 4}), gradient_checkpointing=True), {}


def pictures(runs):
    """Of five groups two show a picture, both to one process; the tower is trained, and every process has all of it."""
    return runs.vision("pictures", merged(GRPO, {"micro_batch": 200}), vision="trained"), {}


def drawn(runs):
    return runs.image("drawn", "sd3", merged(GRPO, {"micro_batch": 4, **KL}), **SD3), {}


def drawn_lora(runs):
    model = merged(SD3, {"sampling": {"guidance_gradient": "both"}})
    return runs.image("drawn_lora", "sd3", merged(GRPO, {"micro_batch": 4, **KL}), **model, **LORA), {}


# ---------------------------------------------------------------- other stages


def answers(runs: Runs) -> str:
    """Of answers of several lengths."""
    made = [{"id": str(i), "prompt": p, "chosen": p[::-1] * (1 + i % 3), "rejected": p} for i, p in enumerate(PROMPTS)]
    return runs.jsonl("pairs", made)


def drawn_pairs(runs: Runs) -> str:
    for i in range(2):
        picture = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(runs.folder / f"drawn{i}.png")
    shown = [{"images": [f"drawn{i}.png"]} for i in range(2)]
    return runs.jsonl(
        "drawn", [{"prompt": p, "candidates": shown, "shares": [i % 2, 1 - i % 2]} for i, p in enumerate(PROMPTS)]
    )


def dpo(runs):
    """Three pairs and two in each step, cut into micro-batches by their lengths."""
    return runs.text(
        "dpo", {"kind": "preference", "pairs": answers(runs), "batch": 5, "micro_batch": 20, "steps": 5, **TRAINED}
    )


def mpo_lora(runs):
    """One pair a step: the second process has none."""
    stage = {"kind": "preference", "pairs": answers(runs), "objective": "mpo", "batch": 1, "steps": 5, **TRAINED}
    return runs.text("mpo_lora", stage, **LORA)


def scalar(runs):
    """A head, which both processes hold, on a decoder that is divided."""
    stage = {"kind": "reward_model", "pairs": answers(runs), "batch": 5, "micro_batch": 60, "steps": 5, **TRAINED}
    return {**runs.text("scalar", stage, head={"init": 0.1}), "data": {}, "rewards": []}


def scalar_alone(runs):
    stage = {"kind": "reward_model", "pairs": answers(runs), "batch": 1, "steps": 5, **TRAINED}
    return {**runs.text("scalar_alone", stage, head={"init": 0.1}, **LORA), "data": {}, "rewards": []}


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
    return runs.image(
        "flash", "sd3", merged(DISTILL, {"adversary": adversary, "joint": joint}), reward="numbered", **RENOISE
    )


def flash_seen(runs):
    """The same, with a reward that sees pictures."""
    name, stages = "flash_seen", flash(runs)["stages"]
    return runs.image(name, "sd3", *stages, reward="bright", **RENOISE)


def flash_alone(runs):
    """One group: the second process has no sample, and takes part in what the first does of every role. Its gradients
    add nothing, so that sums are bit for bit, and Muon's steps of matrices that are gathered, too."""
    adversary = {"real": "teacher", "teacher_steps": 2, "blocks": 1, "width": 8, "weight": 0.1, "heads": TRAINED}
    joint = {"objective": "step_dpo", "anchor": {"follow": {"decay": 0.5}}, "schedule": "alternate"}
    stage = merged(DISTILL, {"adversary": adversary, "joint": joint, "groups": 1, "samples": 3})
    stage = merged(stage, {"fake": {"optim": {"name": "muon"}}})
    return runs.image("flash_alone", "sd3", stage, **RENOISE, **LORA), {"sync": "update"}


def muon(runs):
    """A step of one micro-batch, the first process's."""
    return runs.text("muon", merged(SFT, {"batch": 2, "steps": 1, "optim": {"name": "muon", "max_grad_norm": 1e9}}))


def muon_everywhere(runs):
    """Updates of which each process has a part of the gradient."""
    return runs.text("muon_everywhere", merged(GRPO, {"optim": {"name": "muon"}}))


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
    sieve = {
        "kind": "filter",
        "name": "sieve",
        "rule": "rejection",
        "correct_at": 0.0,
        "steps": 1,
        "groups": 3,
        "samples": 2,
    }
    return runs.text("kept", sieve, merged(SFT, {"data_from": "sieve"}))


def rated(runs):
    """Prompts are measured, which marks the whole weights, and learned from in the order of their rates."""
    sieve = {"kind": "filter", "name": "sieve", "rule": "difficulty", "low": 0.0, "high": 1.0, "correct_at": 0.0}
    sieve |= {"steps": 1, "groups": 4, "samples": 2}
    sort = {"order": "sorted", "column": "pass_rate", "first": "high"}
    return runs.text("rated", sieve, merged(GRPO, {"data_from": "sieve", "curriculum": sort, "steps": 1, "groups": 2}))


# ---------------------------------------------------------------- every family, other options

# Guidance that runs two passes where the family has them; options of the builder.
GUIDED = {"z_image": 1.0, "flux": 3.5}
DRAWING = ("sd", "sdxl", "flux", "qwen_image", "sana", "wan", "z_image", "flux2_klein")


def family_case(name: str, train: str):
    def case(runs):
        sampling = {"guidance": GUIDED.get(name, 3.0), "frames": 5 if name == "wan" else None}
        build = {"max_length": 48} if name == "flux2_klein" else {}
        model = LORA if train == "lora" else {}
        stage = merged(GRPO, {"micro_batch": 4, "groups": 3, "epochs": 2})
        return runs.image(f"{name}_{train}", name, stage, build=build, sampling=sampling, **model), {}

    return case


def heard(runs):
    return runs.audio("heard", merged(GRPO, {"micro_batch": 200}), **LORA), {}


def spam(runs):
    return runs.text("spam", merged(GRPO, {"optim": {"name": "spam"}})), {}


# What is not divided: two processes have all weights.
WHOLE = {"shards": 1}


def edited(runs):
    """Prompts of which all but one show a picture."""
    stage = merged(GRPO, {"micro_batch": 4, "groups": 3, "samples": 2, "epochs": 2})
    made = runs.image("edited", "flux_kontext", stage, source_pixels=4096, **LORA)
    rows: list[dict[str, Any]] = [{"id": str(i), "prompt": prompt} for i, prompt in enumerate(PROMPTS)]
    for i in range(1, len(rows)):
        picture = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(runs.folder / f"source{i}.png")
        rows[i]["images"] = [f"source{i}.png"]
    return {**made, "data": {"prompts": runs.jsonl("edited", rows)}}, WHOLE


def two_denoisers(runs):
    stage = merged(GRPO, {"micro_batch": 4, "groups": 3, "epochs": 2})
    return runs.image(
        "two_denoisers", "wan", stage, build={"boundary_ratio": 0.7}, sampling={"guidance": 3.0, "frames": 5}
    ), WHOLE


def both_directions(runs):
    """Prompts that see themselves in both directions."""
    return runs.vision("both_directions", merged(GRPO, {"micro_batch": 200}), kind="paligemma"), WHOLE


# ---------------------------------------------------------------- tables

GROUPS = {case.__name__: case for case in (full, lora, late, empty, pictures, drawn, drawn_lora)}
MORE = {f"{name}_{train}": family_case(name, train) for name in DRAWING for train in ("full", "lora")}
MORE |= {"heard": heard, "spam": spam}
STAGES = [dpo, mpo_lora, scalar, scalar_alone, expert, nft, awm_lora, dgpo, drawn_dpo, drawn_dpo_alone]
STAGES += [flash, flash_alone, muon, tdm, tdm_alone, kept, rated]
# Of which float32 says little: it makes much of a rounding.
ROUNDED = [flash_seen, muon_everywhere]
RARE = {name: family_case(*name.rsplit("_", 1)) for name in ("qwen_image_21_full", "qwen_image_21_lora")}
RARE |= {name: family_case(*name.rsplit("_", 1)) for name in ("flux2_lora", "flux_kontext_lora")}
RARE |= {case.__name__: case for case in (edited, two_denoisers, both_directions)}
ALL: dict[str, Callable[[Runs], Any]] = {**GROUPS, **{case.__name__: case for case in STAGES + ROUNDED}, **MORE, **RARE}


def pairs(runs: Runs, names: Iterable[str]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Case -> (the run of one process, that of two)."""
    found = {}
    for name in names:
        config = ALL[name](runs)
        config, sharding = config if isinstance(config, tuple) else (config, {})
        found[name] = both(config, **sharding)
    return found
