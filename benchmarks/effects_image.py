"""What the image systems do to the tiny model that ships, each against its baseline at equal samples: three seeds.

    python benchmarks/effects_image.py
    python benchmarks/effects_image.py --only pref-grpo --jobs 1

All sides start from assets/image-tiny and have the same captions, steps, groups, samples and optimizer; a seed is that
of prompts and sampling, and differences are taken seed by seed. Runs are kept under runs/effects_image and not
repeated; a run that was cut off goes on. README.md says what each comparison is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effects import SEEDS, Study, main, merged

ROOT = Path("runs/effects_image")
HERE = str(Path(__file__).resolve())
STEPS, GROUPS, SAMPLES = 40, 16, 8
DISTILLED = 120  # steps that make the student of few steps
TEACHER = "share://assets/image-tiny"
PULL = 0.5  # weight of colour in the flawed score: a whole picture of colour is worth half of all claims
SAME = 0.06  # scores that are no farther apart are as good to the comparator: half of the smallest claim, an eighth


def liked(samples: list) -> list[float | None]:
    """A flawed score: the share of the caption's claims that hold, and something for how much colour there is.

    The colour of two pictures of a caption differs by a few hundredths, less than any claim. It is what is left where
    two pictures keep the same claims, and it has no end: a picture full of colour earns PULL.
    """
    import numpy as np

    from mmrl.rewarding import load_reward

    colour = [float(np.asarray(s.artifact.convert("HSV"), dtype=np.float64)[..., 1].mean()) / 255 for s in samples]
    claims = load_reward("composition.follows").call(samples)
    return [None if claim.value is None else claim.value + PULL * more for claim, more in zip(claims, colour)]


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: what differs from the effect's setting. claims: whether the claim is about it. stage:
    of the shipped config's stage, the one in its place."""

    rewards: Sequence[Mapping[str, Any]]
    algorithm: Mapping[str, Any] = field(default_factory=dict)
    claims: bool = True
    stage: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Effect:
    """See effects.Claim. source: the shipped config; stage: what differs in its stage; evaluate: measured on held-out
    captions before and after, with so many samples each; base: the run of each seed whose policy all sides start from.
    """

    claim: str
    source: str
    arms: Mapping[str, Arm]
    measures: Mapping[str, int]
    evaluate: Sequence[Mapping[str, Any]]
    stage: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 1
    base: str = ""


TRUE, LIKED = {"name": "composition.follows"}, {"name": f"{HERE}:liked"}
# Of two scores the comparator's probability is sigmoid(their difference); this far from a half is SAME.
WINS = {"name": "compared.wins", "options": {"judge": LIKED["name"], "hard": True}}
TIES = merged(WINS, {"options": {**WINS["options"], "margin": 1 / (1 + math.exp(-SAME)) - 0.5}})
GRPO = {"preset": "grpo", "clamp": 5.0, "clip_low": 1e-3, "clip_high": 1e-3}
FAR = {"name": f"{Path(__file__).with_name('teacher_distance.py')}:astray"}
FOUR_STEPS = "four-steps"  # the student of distillation alone


def pulled(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Distillation alone, by the teacher that ships."""
    return {key: value for key, value in stage.items() if key != "joint"} | {"teacher": TEACHER}


def rewarded(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Rewards alone, on the same few steps and with the same optimizer."""
    return {"kind": "grpo", "optim": stage["optim"], "algorithm": GRPO}


def joint(**options: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda stage: pulled(stage) | {"joint": {"algorithm": GRPO, **options}}


EFFECTS = {
    "pref-grpo": Effect(
        "A score with a flaw is over-optimised by GRPO; its win rate, where small differences tie, keeps to the claims",
        "image/tiny",
        {
            "GRPO on the score": Arm([LIKED]),
            "win rate by the score, with ties": Arm([TIES]),
            "win rate by the score, without ties": Arm([WINS], claims=False),
            "GRPO without the std": Arm([LIKED], {"advantage": "group_mean"}, claims=False),
            "GRPO with a smallest spread": Arm([LIKED], {"std_floor": SAME / 2}, claims=False),
        },
        {"eval/composition.follows": 1, "eval/effects_image.liked": 0},
        [TRUE, LIKED],
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
            "joint, by step DPO": Arm([LIKED], stage=joint(objective="step_dpo"), claims=False),
        },
        {"eval/teacher_distance.astray": -1, "eval/effects_image.liked": 0, "eval/composition.follows": 0},
        [TRUE, LIKED, FAR],
        samples=4,
        base=FOUR_STEPS,
    ),
}
NAMES = {
    "eval/composition.follows": "true claims",
    "eval/effects_image.liked": "flawed score",
    "eval/teacher_distance.astray": "distance to the teacher",
}


def shipped(source: str) -> dict[str, Any]:
    """A config of configs/ as a mapping."""
    import yaml

    from mmrl.share import share

    found: dict[str, Any] = yaml.safe_load((share("configs") / f"{source}.yaml").read_text(encoding="utf-8"))
    return found


def config(*words: str) -> dict[str, Any]:
    """The run of a base, or of one side of a comparison with a seed."""
    return base_config(words[0]) if len(words) == 1 else arm_config(*words)


def base_config(name: str) -> dict[str, Any]:
    """A student of four steps that has earned no rewards, of a seed."""
    made = shipped("image/flash_dmd_tiny")
    [stage] = made["stages"]
    stage = {key: value for key, value in stage.items() if key != "joint"} | {"steps": DISTILLED}
    own = {"name": name, "out": str(ROOT), "seed": int(name.rpartition("-")[2]), "device": "cpu", "threads": 1}
    evaluated = {"every": 0, "prompts": 100, "samples": 4, "rewards": [TRUE, FAR]}
    return merged(made, own) | {"stages": [stage], "eval": evaluated}


def bases(effects: Sequence[str]) -> list[str]:
    """What these comparisons start from, one for each seed."""
    starts = sorted({base for effect in effects if (base := EFFECTS[effect].base)})
    return [f"{base}-{seed}" for base in starts for seed in SEEDS]


def arm_config(effect: str, arm: str, seed: str) -> dict[str, Any]:
    chosen, side = EFFECTS[effect], EFFECTS[effect].arms[arm]
    own = {
        "name": run_name(effect, arm, seed),
        "out": str(ROOT),
        "seed": int(seed),
        "device": "cpu",
        "threads": 1,
        "rewards": list(side.rewards),
        "eval": {
            "every": 0,
            "prompts": 200 if chosen.samples == 1 else 100,
            "samples": chosen.samples,
            "rewards": list(chosen.evaluate),
        },
        "report": {"samples_every": 10},
        "checkpoint": {"every": 10, "keep": 1},
    }
    if chosen.base:
        policy = ROOT / f"{chosen.base}-{seed}" / "checkpoints" / "latest" / "policy"
        own["model"] = {"path": str(policy)}
    made = merged(shipped(chosen.source), own)
    size = {"steps": STEPS, "groups": GROUPS, "samples": SAMPLES, "micro_batch": 256}
    [stage] = made["stages"]
    algorithm = {"algorithm": merged(GRPO, side.algorithm)}
    stage = dict(side.stage(stage)) if side.stage else {**stage, **algorithm}
    made["stages"] = [merged(stage, size | dict(chosen.stage))]
    return made


def run_name(effect: str, arm: str, seed: str) -> str:
    return f"{effect}-{re.sub(r'[^a-z0-9]+', '_', arm.lower())}-{seed}"


STUDY = Study(
    script=HERE,
    root=ROOT,
    effects=EFFECTS,
    names=NAMES,
    config=config,
    bases=bases,
    about=f"{STEPS} steps of {GROUPS} captions x {SAMPLES} pictures",
)

if __name__ == "__main__":
    main(STUDY, __doc__)
