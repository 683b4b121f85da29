"""What effects_image.py compares: claims, their sides, and what these start from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effects import merged

LONGER = 60  # steps of the small size: they should cost no more than what the claim allows
DISTILLED = 120  # steps that make the student of few steps
TEACHER = "share://assets/image-tiny"
SAME = 0.5  # scores that are no farther apart are as good to the comparator: half of what it is worth to be right

Section = Mapping[str, Any]
Change = Callable[[Section], Section]  # of a stage as it is shipped


def changed(**options: Any) -> Change:
    """The stage with these options, which are merged into its own."""
    return lambda stage: merged(stage, options)


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: what differs from the effect's setting.

    algorithm: of its stage. claims: whether the claim is about it. sampling: options of model.sampling. stage: makes
    its stage of the shipped one.
    """

    rewards: Sequence[Section]
    algorithm: Section = field(default_factory=dict)
    claims: bool = True
    sampling: Section = field(default_factory=dict)
    stage: Change = dict


@dataclass(frozen=True)
class Effect:
    """See effects.Claim. source: the shipped config, whose last stage is compared. evaluate: measured on held-out
    captions before and after, with so many `samples` each. stage: what differs in the stage of all sides. algorithm:
    what the sides' own is merged into; where both are empty, the stage is as its side makes it. base: in BASES, the run
    from whose policy all sides start; None: they start from the source's model. data: what differs in that section of
    all sides.
    """

    claim: str
    source: str
    arms: Mapping[str, Arm]
    measures: Mapping[str, int]
    evaluate: Sequence[Section]
    stage: Section = field(default_factory=dict)
    algorithm: Section = field(default_factory=dict)
    samples: int = 1
    base: str | None = None
    data: Section = field(default_factory=dict)
    within: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Base:
    """A run before a comparison, from whose policy all sides and seeds start. source: the shipped config. stages: makes
    its stages of the shipped ones. alone: sections and those of their keys that only its stages read."""

    source: str
    stages: Callable[[Sequence[Section]], Sequence[Section]]
    alone: Mapping[str, Sequence[str]] = field(default_factory=dict)
    evaluation: Section = field(default_factory=dict)


def pulled(stage: Section) -> dict[str, Any]:
    """Distillation alone, by the teacher that ships."""
    return {key: value for key, value in stage.items() if key != "joint"} | {"teacher": TEACHER}


def rewarded(stage: Section) -> dict[str, Any]:
    """Rewards alone, on the same few steps and with the same optimizer."""
    return {"kind": "grpo", "optim": stage["optim"], "algorithm": GRPO}


def joint(**options: Any) -> Change:
    """Both, by options of the section `joint`."""
    return lambda stage: pulled(stage) | {"joint": {"algorithm": GRPO, **options}}


def reward(file: str, name: str) -> str:
    """The name of one that stands in a file beside this one."""
    return f"{Path(__file__).resolve().with_name(file)}:{name}"


TRUE, STRICT = {"name": "composition.follows"}, {"name": "composition.strict"}
LIKED = {"name": reward("flawed_scores.py", "liked")}
SWAYED = {"name": reward("flawed_scores.py", "swayed")}
LOUD = {"name": reward("flawed_scores.py", "loud"), "alias": "loud"}
FAR = {"name": reward("teacher_distance.py", "astray")}
CELLS: list[Section] = [
    {"name": "cells.same", "alias": "same"},
    {"name": "cells.each", "alias": "each", "options": {"reward": "composition.follows"}},
]
# Of two scores the comparator's probability is sigmoid(their difference); this far from a half is SAME.
WINS = {"name": "compared.wins", "options": {"judge": SWAYED["name"], "hard": True}}
TIES = merged(WINS, {"options": {"margin": 1 / (1 + math.exp(-SAME)) - 0.5}})

# The 36 captions of one phrase, which are measured themselves: often all eight pictures are right, or all wrong.
PHRASE = {"split": "train", "relation": None}
SINGLE = {"where": PHRASE, "eval_where": PHRASE}

GRPO = {"preset": "grpo", "clamp": 5.0, "clip_low": 1e-3, "clip_high": 1e-3}
FLOW_GRPO = {"preset": "flow_grpo", "clip_low": 1e-3, "clip_high": 1e-3}
# On the forward process the ODE draws, from a noise of each sample's own: one noise for a group would make one picture.
# Steps are warmed up and the policy that samples lags behind from the start, or the velocity is pushed out of bounds
# (old_policies.py).
ODE = {"plan": {"name": "untrained"}, "same_noise": False}
NOISED: dict[str, Any] = {"kind": "forward_process", "draws": 4, "same_noise": True, "old": {"decay": 0.5}}
NOISED |= {"optim": {"warmup": 10}}

BASES = {
    "grids": Base(
        "image/paco_tiny",
        lambda stages: stages[:-1],
        alone={"model": ["supervised_sizes"], "data": ["records", "records_count", "options"]},
    ),
    "four-steps": Base(
        "image/flash_dmd_tiny",
        lambda stages: [{**pulled(stages[0]), "teacher": None, "steps": DISTILLED}],
        evaluation={"every": 0, "prompts": 100, "samples": 4, "rewards": [TRUE, FAR]},
    ),
}

EFFECTS = {
    "pref-grpo": Effect(
        "A score with a flaw is over-optimised by GRPO; its win rate, where small differences tie, keeps to the claims",
        "image/tiny",
        {
            "GRPO on the score": Arm([SWAYED]),
            "win rate by the score, with ties": Arm([TIES]),
            "win rate by the score, without ties": Arm([WINS], claims=False),
            "GRPO without the std": Arm([SWAYED], {"advantage": "group_mean"}, claims=False),
            "GRPO with a smallest spread": Arm([SWAYED], {"std_floor": SAME / 2}, claims=False),
        },
        {"eval/composition.strict": 1, "eval/composition.matched": 0, "eval/flawed_scores.swayed": 0},
        [STRICT, {"name": "composition.matched"}, SWAYED],
        stage={"optim": {"lr": 4e-4, "warmup": 4}},
        algorithm=GRPO,
        samples=4,
        data=SINGLE,
    ),
    "objectives": Effect(
        "At equal samples NFT and Flow-DPPO raise the reward farther than Flow-GRPO",
        "image/tiny",
        {
            "Flow-GRPO": Arm([TRUE], FLOW_GRPO),
            "Flow-DPPO": Arm([TRUE], {"preset": "flow_dppo"}, sampling={"keep_mean": True}),
            "NFT": Arm([TRUE], {"preset": "flow_grpo"}, sampling=ODE, stage=changed(**NOISED, objective="nft")),
            "AWM": Arm(
                [TRUE],
                {"preset": "flow_grpo", "clamp": 1.0},
                claims=False,
                sampling=ODE,
                stage=changed(**NOISED, objective="awm", weighting="ghuber"),
            ),
        },
        {"eval/composition.follows": 1, "eval/composition.strict": 0},
        [TRUE, STRICT],
    ),
    "paco-size": Effect(
        "Training at a quarter of the pixels reaches the score at full size for at most 0.6 of the CPU time",
        "image/paco_tiny",
        {
            "training at 80 x 80": Arm(CELLS, sampling={"size": 80}),
            "training at 40 x 40": Arm(CELLS, sampling={"size": 40}),
            "training at 40 x 40, half as many steps again": Arm(
                CELLS, sampling={"size": 40}, stage=changed(steps=LONGER)
            ),
        },
        {"eval/same": 1, "eval/each": 1, "cpu_s": -1},
        CELLS,
        algorithm={**GRPO, "preset": "paco_grpo"},
        samples=4,
        base="grids",
        within={"eval/same": 0.03, "eval/each": 0.03},
        shares={"cpu_s": 0.6},
    ),
    "paco-tame": Effect(
        "Log-taming keeps a reward on a larger scale from starving the others",
        "image/paco_tiny",
        {
            "weighted sum": Arm([*CELLS, LOUD], {"tame": None}),
            "log-tamed, centred": Arm([*CELLS, LOUD]),
            "log-tamed, as released, not centred": Arm([*CELLS, LOUD], {"preset": "paco_grpo_uncentred"}, claims=False),
            "without the loud reward": Arm(CELLS, {"tame": None}, claims=False),
        },
        {"eval/same": 1, "eval/each": 1, "eval/loud": 0},
        [*CELLS, LOUD],
        algorithm={**GRPO, "preset": "paco_grpo"},
        samples=4,
        base="grids",
    ),
    "flash-dmd": Effect(
        "Rewards alone lead a few-step student away from its teacher; with distillation going on it stays nearer, and "
        "earns the rewards",
        "image/flash_dmd_tiny",
        {
            "GRPO alone": Arm([LIKED], stage=rewarded),
            "joint": Arm([LIKED], stage=joint()),
            "distillation alone": Arm([LIKED], stage=pulled, claims=False),
            "joint, weighted": Arm([LIKED], stage=joint(schedule="weighted"), claims=False),
            "joint, by step DPO": Arm(
                [LIKED], stage=joint(objective="step_dpo", algorithm={"preset": "grpo", "clamp": 5.0}), claims=False
            ),
        },
        {"eval/teacher_distance.astray": -1, "eval/flawed_scores.liked": 0, "eval/composition.follows": 0},
        [TRUE, LIKED, FAR],
        samples=4,
        base="four-steps",
    ),
}
NAMES = {
    "eval/composition.follows": "true claims",
    "eval/composition.strict": "all claims true",
    "eval/composition.matched": "objects that were asked for, F1",
    "eval/flawed_scores.swayed": "flawed score",
    "eval/flawed_scores.liked": "flawed score",
    "eval/same": "cells agree, at 80 x 80",
    "eval/each": "cells show what they should, at 80 x 80",
    "eval/loud": "loud reward, at 80 x 80",
    "eval/teacher_distance.astray": "distance to the teacher",
    "cpu_s": "CPU seconds of all steps",
}
