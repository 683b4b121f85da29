"""What CAD-RL's parts do to the tiny model that ships, each against training without it, at equal samples: three seeds.

    python benchmarks/effects_cad.py
    python benchmarks/effects_cad.py --only gate --jobs 1

Two bases continue assets/cad-tiny for some supervised steps, so that there is more to mend: `stubborn`, whose right
turns are rare, and `unfinished`, half of whose programs end in an outline that is no solid. All sides of a comparison
have the same prompts, steps, groups, samples and optimizer; a seed is that of prompts and sampling, and differences are
taken seed by seed. Runs are kept under runs/effects_cad and not repeated; a run that was cut off goes on. README.md
says what each comparison is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effects import Study, main, merged

ROOT = Path("runs/effects_cad")
PARTS = "share://datasets/parts/parts.py"
HABITS = str(Path(__file__).resolve().with_name("cad_habits.py"))
SPANS = "share://rewards/cad_spans.py:spans"
GROUPS, SAMPLES = 8, 8
TAUGHT, COLD = 20, 6  # supervised steps: of a base, and of a cold start
HELDOUT, DRAWN = 40, 3  # parts, and programs for each
POLICY = "checkpoints/latest/policy"
KINDS = ["plate", "pocket", "tube", "shaft"]  # two with a place for each of the two mistakes
PROMPTS = 16  # to train on, again and again: what is built once is remembered, and time is short
ADAM = {"betas": [0.9, 0.98], "weight_decay": 0.0}

Section = Mapping[str, Any]

PATIENT = {"options": {"runs": {"seconds": 60, "workers": 4}}}  # a busy machine is no fault of a program
IOU, BUILDS = {"name": "cad.iou", **PATIENT}, {"name": "cad.executes", **PATIENT}
MARK = {"name": f"{HABITS}:detail"}
GATED = {"name": "compose.gated", "options": {"condition": BUILDS, "then": [IOU, MARK]}}
MEASURES = [IOU, BUILDS, {"name": f"{HABITS}:numbers"}]
WEIGHTED = {"name": "precision_tokens", "weight": 2.0}
STRETCH = {"gate": {"name": "absolute", "low": 0.6, "high": 1.8}}
# Six optimizer steps of a rollout, so that there is a ratio to bound; at twice the learning rate the numbers get lost.
OFTEN = {"steps": 12, "updates": 2, "epochs": 3, "optim": {"lr": 1.0e-4}}
TWICE = {"steps": 8, "updates": 2, "epochs": 2, "optim": {"lr": 2.0e-4}}

# Supervised runs that arms start from: the records of each.
BASES: dict[str, Section] = {
    "stubborn": {"records": f"{PARTS}:program", "options": {"slips": 0.95}},
    "unfinished": {"records": f"{HABITS}:unfinished", "options": {"slips": 0.95, "rate": 0.5}},
}


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    run: name of its runs, which other comparisons may have, too. stage, model: what differs. rewards: of its training;
    None for a cold start, which is supervised.
    """

    run: str
    stage: Section = field(default_factory=dict)
    rewards: Sequence[Section] | None = (IOU,)
    model: Section = field(default_factory=dict)
    claims: bool = True


@dataclass(frozen=True)
class Effect:
    """See effects.Claim. base: of BASES, where all of its arms start."""

    claim: str
    base: str
    arms: Mapping[str, Arm]
    measures: Mapping[str, int]


PLAIN = Arm("plain", OFTEN)
PRECISE = {"precise": SPANS}
EFFECTS = {
    "gate": Effect(
        "A reward that is gated by executability builds more solids than the sum of its parts, which pays for what is "
        "written",
        "unfinished",
        {
            "sum of overlap and mark": Arm("summed", TWICE, (IOU, MARK)),
            "gated sum": Arm("gated", TWICE, (GATED,)),
            "sum with executability": Arm("added", TWICE, (IOU, MARK, BUILDS), claims=False),
        },
        {"eval/cad.executes": 1, "eval/cad.iou": 1},
    ),
    "stretch": Effect(
        "Bounds of 0.6 and 1.8 on the ratio let rare right turns rise faster than a clip of 0.2",
        "stubborn",
        {"clip of 0.2": PLAIN, "bounds of 0.6 and 1.8": Arm("stretched", {**OFTEN, "algorithm": STRETCH})},
        {"eval/cad.iou": 1, "eval/cad_habits.numbers": 0, "eval/cad.executes": 0},
    ),
    "precision": Effect(
        "Tokens that have to be exact weigh 2 in the policy gradient, and overlap ends higher",
        "stubborn",
        {
            "weight 1": PLAIN,
            "weight 2": Arm("precise", {**OFTEN, "algorithm": {"action_weights": [WEIGHTED]}}, model=PRECISE),
        },
        {"eval/cad.iou": 1, "eval/cad_habits.numbers": 1, "eval/cad.executes": 0},
    ),
    "precision, supervised": Effect(
        "Tokens that have to be exact weigh 2 in a cold start, and overlap ends higher",
        "stubborn",
        {
            "weight 1": Arm("cold", {"objective": "sft"}, None),
            "weight 2": Arm("cold_precise", {"objective": "sft_precise"}, None, {**PRECISE, "precise_weight": 2.0}),
        },
        {"eval/cad.iou": 1, "eval/cad_habits.numbers": 1, "eval/cad.executes": 0},
    ),
}
NAMES = {
    "eval/cad.iou": "mean overlap (IoU)",
    "eval/cad.executes": "builds a solid",
    "eval/cad_habits.numbers": "all numbers right",
}


def config(*words: str) -> dict[str, Any]:
    """The run of a base, or of one side of a comparison with a seed."""
    return base_config(*words) if len(words) == 1 else arm_config(*words)


def arm_config(effect: str, arm: str, seed: str) -> dict[str, Any]:
    chosen, side = EFFECTS[effect], EFFECTS[effect].arms[arm]
    made = common(f"{side.run}-{seed}", seed, str(ROOT / chosen.base / POLICY))
    made["model"] |= side.model
    made["data"] = {
        "eval_prompts": f"{PARTS}:part",
        "eval_prompts_count": HELDOUT,
        "eval_prompts_options": {"split": "heldout", "only": KINDS},
    }
    made["eval"] = {"every": 0, "prompts": HELDOUT, "samples": DRAWN, "rewards": MEASURES}
    if side.rewards is None:
        made["data"] |= {"records": f"{PARTS}:program", "records_count": COLD * 64, "options": {"seed": int(seed)}}
        made["stages"] = [supervised(COLD) | side.stage]
        return made
    made["rewards"] = list(side.rewards)
    made["data"] |= {
        "prompts": f"{PARTS}:part",
        "prompts_count": PROMPTS,
        "prompts_options": {"seed": int(seed), "only": KINDS},
    }
    size = {"kind": "grpo", "groups": GROUPS, "samples": SAMPLES, "micro_batch": 16384}
    made["stages"] = [merged({**size, "optim": {**ADAM, "warmup": 2}, "algorithm": {"preset": "grpo"}}, side.stage)]
    return made


def base_config(name: str) -> dict[str, Any]:
    made = common(name, "0", "share://assets/cad-tiny")
    made["data"] = {**BASES[name], "records_count": TAUGHT * 64}
    made["model"].pop("evaluation")
    made["stages"] = [supervised(TAUGHT)]
    return made


def supervised(steps: int) -> dict[str, Any]:
    optim = {**ADAM, "lr": 5.0e-4, "warmup": 3, "schedule": "cosine"}
    return {"kind": "sft", "steps": steps, "batch": 64, "micro_batch": 64, "optim": optim}


def common(name: str, seed: str, path: str) -> dict[str, Any]:
    """What all runs have."""
    return {
        "name": name,
        "modality": "cad",
        "out": str(ROOT),
        "seed": int(seed),
        "device": "cpu",
        "threads": 1,
        "model": {
            "path": path,
            "chat": "off",
            "sampling": {"temperature": 1.0, "max_tokens": 96},
            "evaluation": {"temperature": 1.0},
            "rollout_batch": 256,
        },
        "report": {"samples_every": 0},
        "checkpoint": {"every": 10, "keep": 1},
    }


def bases(effects: Sequence[str]) -> list[str]:
    """The runs that these comparisons start from, each once."""
    return list(dict.fromkeys(EFFECTS[effect].base for effect in effects))


STUDY = Study(
    script=str(Path(__file__).resolve()),
    root=ROOT,
    effects=EFFECTS,
    names=NAMES,
    config=config,
    bases=bases,
    about=f"12 steps, for gates 8, of {GROUPS} parts x {SAMPLES} programs; {HELDOUT} held-out parts, {DRAWN} programs "
    "each at temperature 1; what builds nothing overlaps by 0",
)

if __name__ == "__main__":
    main(STUDY, __doc__)
