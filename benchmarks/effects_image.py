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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effects import Study, main, merged

ROOT = Path("runs/effects_image")
HERE = str(Path(__file__).resolve())
STEPS, GROUPS, SAMPLES = 40, 16, 8
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
    """One side of a comparison: what differs from the effect's setting. stage: in the stage, whose kind it may name.
    sampling: options of model.sampling. claims: whether the claim is about it."""

    rewards: Sequence[Mapping[str, Any]]
    algorithm: Mapping[str, Any] = field(default_factory=dict)
    claims: bool = True
    stage: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Effect:
    """See effects.Claim. source: the shipped config; stage: what differs in its stage; evaluate: measured on held-out
    captions before and after. algorithm: what the arms' own is merged into."""

    claim: str
    source: str
    arms: Mapping[str, Arm]
    measures: Mapping[str, int]
    evaluate: Sequence[Mapping[str, Any]]
    stage: Mapping[str, Any] = field(default_factory=dict)
    algorithm: Mapping[str, Any] = field(default_factory=dict)


TRUE, LIKED = {"name": "composition.follows"}, {"name": f"{HERE}:liked"}
# Of two scores the comparator's probability is sigmoid(their difference); this far from a half is SAME.
WINS = {"name": "compared.wins", "options": {"judge": LIKED["name"], "hard": True}}
TIES = merged(WINS, {"options": {**WINS["options"], "margin": 1 / (1 + math.exp(-SAME)) - 0.5}})
STRICT = {"name": "composition.strict"}
GRPO = {"preset": "grpo", "clamp": 5.0, "clip_low": 1e-3, "clip_high": 1e-3}
FLOW_GRPO = {"preset": "flow_grpo", "clip_low": 1e-3, "clip_high": 1e-3}
# On the forward process the ODE draws, from a noise of each sample's own: one noise for a group would make one picture.
# Steps are warmed up and the policy that samples lags behind from the start, or the velocity is pushed out of bounds
# (old_policies.py).
ODE = {"plan": {"name": "untrained"}, "same_noise": False}
NOISED = {"kind": "forward_process", "draws": 4, "same_noise": True, "old": {"decay": 0.5}}
NOISED |= {"optim": {"warmup": 10}}
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
        algorithm=GRPO,
    ),
    "objectives": Effect(
        "At equal samples NFT and Flow-DPPO raise the reward farther than Flow-GRPO",
        "image/tiny",
        {
            "Flow-GRPO": Arm([TRUE], FLOW_GRPO),
            "Flow-DPPO": Arm([TRUE], {"preset": "flow_dppo"}, sampling={"keep_mean": True}),
            "NFT": Arm([TRUE], {"preset": "flow_grpo"}, stage={**NOISED, "objective": "nft"}, sampling=ODE),
            "AWM": Arm(
                [TRUE],
                {"preset": "flow_grpo", "clamp": 1.0},
                claims=False,
                stage={**NOISED, "objective": "awm", "weighting": "ghuber"},
                sampling=ODE,
            ),
        },
        {"eval/composition.follows": 1, "eval/composition.strict": 0},
        [TRUE, STRICT],
    ),
}
NAMES = {
    "eval/composition.follows": "true claims",
    "eval/composition.strict": "all claims true",
    "eval/effects_image.liked": "flawed score",
}


def config(effect: str, arm: str, seed: str) -> dict[str, Any]:
    """The run of one side of a comparison with a seed."""
    import yaml

    from mmrl.share import share

    chosen, side = EFFECTS[effect], EFFECTS[effect].arms[arm]
    shipped = yaml.safe_load((share("configs") / f"{chosen.source}.yaml").read_text(encoding="utf-8"))
    own = {
        "name": run_name(effect, arm, seed),
        "out": str(ROOT),
        "seed": int(seed),
        "device": "cpu",
        "threads": 1,
        "rewards": list(side.rewards),
        "eval": {"every": 0, "prompts": 200, "rewards": list(chosen.evaluate)},
        "report": {"samples_every": 10},
        "checkpoint": {"every": 10, "keep": 1},
    }
    made = merged(shipped, own)
    made["model"]["sampling"] |= side.sampling
    size = {"steps": STEPS, "groups": GROUPS, "samples": SAMPLES, "micro_batch": 256}
    [stage] = made["stages"]
    stage = merged(merged(stage, size | dict(chosen.stage)), side.stage)
    made["stages"] = [stage | {"algorithm": merged(chosen.algorithm, side.algorithm)}]
    return made


def run_name(effect: str, arm: str, seed: str) -> str:
    return f"{effect}-{re.sub(r'[^a-z0-9]+', '_', arm.lower())}-{seed}"


STUDY = Study(
    script=HERE,
    root=ROOT,
    effects=EFFECTS,
    names=NAMES,
    config=config,
    bases=lambda effects: [],
    about=f"{STEPS} steps of {GROUPS} captions x {SAMPLES} pictures; 200 held-out captions",
)

if __name__ == "__main__":
    main(STUDY, __doc__)
