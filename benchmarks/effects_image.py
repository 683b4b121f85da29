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
LOUD = 2000.0  # of a reward that is to drown out those below 1: some 12 for four objects of the usual size
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


def bold(samples: list) -> list[float]:
    """A reward on another scale than those below 1: the cube of how much colour there is, times LOUD."""
    import numpy as np

    colour = [float(np.asarray(s.artifact.convert("HSV"), dtype=np.float64)[..., 1].mean()) / 255 for s in samples]
    return [LOUD * much**3 for much in colour]


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: what differs from the effect's setting. claims: whether the claim is about it."""

    rewards: Sequence[Mapping[str, Any]]
    algorithm: Mapping[str, Any] = field(default_factory=dict)
    claims: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)


RECORDS = ("records", "records_count", "options")  # keys of data that only supervised stages read


@dataclass(frozen=True)
class Effect:
    """See effects.Claim. source: the shipped config; stage: what differs in its stage; evaluate: measured on held-out
    captions before and after. base: the run of the source's other stages from which all sides start; None: there are
    none, and they start from the source's model."""

    claim: str
    source: str
    arms: Mapping[str, Arm]
    measures: Mapping[str, int]
    evaluate: Sequence[Mapping[str, Any]]
    stage: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    within: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)


TRUE, LIKED = {"name": "composition.follows"}, {"name": f"{HERE}:liked"}
# Of two scores the comparator's probability is sigmoid(their difference); this far from a half is SAME.
WINS = {"name": "compared.wins", "options": {"judge": LIKED["name"], "hard": True}}
TIES = merged(WINS, {"options": {**WINS["options"], "margin": 1 / (1 + math.exp(-SAME)) - 0.5}})
CELLS = [
    {"name": "cells.same", "alias": "same"},
    {"name": "cells.each", "alias": "each", "options": {"reward": "composition.follows"}},
]
BOLD = {"name": f"{HERE}:bold", "alias": "bold"}
GRPO = {"preset": "grpo", "clamp": 5.0, "clip_low": 1e-3, "clip_high": 1e-3}
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
    "paco-size": Effect(
        "Training at a quarter of the pixels reaches the score at full size for at most 0.6 of the CPU time",
        "image/paco_tiny",
        {
            "training at 80 x 80": Arm(CELLS, {"preset": "paco_grpo"}, sampling={"size": 80}),
            "training at 40 x 40": Arm(CELLS, {"preset": "paco_grpo"}, sampling={"size": 40}),
        },
        {"eval/same": 1, "eval/each": 1, "cpu_s": -1},
        CELLS,
        base="grids",
        within={"eval/same": 0.03, "eval/each": 0.03},
        shares={"cpu_s": 0.6},
    ),
    "paco-tame": Effect(
        "Log-taming keeps a reward on a larger scale from starving the others",
        "image/paco_tiny",
        {
            "weighted sum": Arm([*CELLS, BOLD], {"preset": "paco_grpo", "tame": None}),
            "log-tamed, centred": Arm([*CELLS, BOLD], {"preset": "paco_grpo"}),
            "log-tamed, as released, not centred": Arm([*CELLS, BOLD], {"preset": "paco_grpo_uncentred"}, claims=False),
            "without the dominant reward": Arm(CELLS, {"preset": "paco_grpo", "tame": None}, claims=False),
        },
        {"eval/same": 1, "eval/each": 1, "eval/bold": 0},
        [*CELLS, BOLD],
        base="grids",
    ),
}
NAMES = {
    "eval/composition.follows": "true claims",
    "eval/effects_image.liked": "flawed score",
    "eval/same": "cells agree, at 80 x 80",
    "eval/each": "cells show what they should, at 80 x 80",
    "eval/bold": "dominant reward, at 80 x 80",
    "cpu_s": "CPU seconds of all steps",
}


def config(effect: str, arm: str = "", seed: str = "0") -> dict[str, Any]:
    """The run of one side of a comparison with a seed, or a base, by its name alone."""
    import yaml

    from mmrl.share import share

    if effect not in EFFECTS:
        return base_config(effect)
    chosen, side = EFFECTS[effect], EFFECTS[effect].arms[arm]
    shipped = yaml.safe_load((share("configs") / f"{chosen.source}.yaml").read_text(encoding="utf-8"))
    if chosen.base is not None:
        shipped["model"]["path"] = str(ROOT / chosen.base / "checkpoints" / "latest" / "policy")
        shipped["model"].pop("supervised_sizes")
        shipped["data"] = {key: value for key, value in shipped["data"].items() if key not in RECORDS}
    own = {
        "name": run_name(effect, arm, seed),
        "out": str(ROOT),
        "seed": int(seed),
        "device": "cpu",
        "threads": 1,
        "model": {"sampling": dict(side.sampling)},
        "rewards": list(side.rewards),
        "eval": {"every": 0, "prompts": 200, "rewards": list(chosen.evaluate)},
        "report": {"samples_every": 10},
        "checkpoint": {"every": 10, "keep": 1},
    }
    made = merged(shipped, own)
    size = {"steps": STEPS, "groups": GROUPS, "samples": SAMPLES, "micro_batch": 256}
    *_, stage = made["stages"]
    made["stages"] = [merged(stage, size | dict(chosen.stage)) | {"algorithm": merged(GRPO, side.algorithm)}]
    return made


def base_config(name: str) -> dict[str, Any]:
    """The stages before the last of the shipped config whose sides start from this base."""
    import yaml

    from mmrl.share import share

    source = next(effect.source for effect in EFFECTS.values() if effect.base == name)
    shipped = yaml.safe_load((share("configs") / f"{source}.yaml").read_text(encoding="utf-8"))
    own = {"name": name, "out": str(ROOT), "device": "cpu", "threads": 1, "stages": shipped["stages"][:-1]}
    return merged(shipped, own | {"checkpoint": {"every": 50, "keep": 1}})


def bases(effects: Sequence[str]) -> list[str]:
    """The bases of these effects, each once."""
    return list(dict.fromkeys(base for name in effects if (base := EFFECTS[name].base) is not None))


def run_name(effect: str, arm: str, seed: str) -> str:
    return f"{effect}-{re.sub(r'[^a-z0-9]+', '_', arm.lower())}-{seed}"


STUDY = Study(
    script=HERE,
    root=ROOT,
    effects=EFFECTS,
    names=NAMES,
    config=config,
    bases=bases,
    about=f"{STEPS} steps of {GROUPS} captions x {SAMPLES} pictures; all held-out captions, 200 at most",
)

if __name__ == "__main__":
    main(STUDY, __doc__)
