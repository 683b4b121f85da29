"""What R1-Reward's parts do on the tiny models that ship, each against what it replaces at equal samples: three seeds.

    python benchmarks/effects_reward.py
    python benchmarks/effects_reward.py --only advantages --jobs 1

`advantages` and `ratios` train assets/text-tiny, one answer a prompt as R1-Reward does: in the one, two verdicts of a
hundred are +50 or -50; in the other, samples are eight steps old and the learning rate is high, so that ratios run
away. `consistency` trains the tiny judge of pairs (configs/reward/tiny_r1_reward.yaml) with that part of its reward and
without. A seed is that of prompts and sampling, and differences are taken seed by seed. Runs are kept under
runs/effects_reward and not repeated; a run that was cut off goes on. README.md says what each comparison is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effects import Study, main, merged

ROOT = Path("runs/effects_reward")
HERE = str(Path(__file__).resolve())
RIGHT = {"name": "numeric.close", "options": {"extract": "after:#"}}


def spiky(samples: list, rate: float = 0.02, size: float = 50.0) -> list[float]:
    """Right or wrong, but a share `rate` of the verdicts is plus or minus `size`, the same for the same answers."""
    verdicts = []
    for sample in samples:
        right = sample.artifact.rpartition("#")[2].strip() == str(sample.prompt.record["answer"])
        draw = random.Random(f"{sample.prompt.id}/{sample.index}/{sample.artifact}")
        verdicts.append(draw.choice((-size, size)) if draw.random() < rate else float(right))
    return verdicts


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: what differs from the effect's setting. claims: the claim is about it."""

    algorithm: Mapping[str, Any] = field(default_factory=dict)
    rewards: Sequence[Mapping[str, Any]] = ()
    claims: bool = True


@dataclass(frozen=True)
class Effect:
    """See effects.Claim. source: the shipped config; changes: what differs in it; stage: in the stage that learns."""

    claim: str
    source: str
    arms: Mapping[str, Arm]
    measures: Mapping[str, int]
    changes: Mapping[str, Any]
    stage: Mapping[str, Any] = field(default_factory=dict)


ACCURACY, VERDICT, AGREES = "eval/numeric.close", "eval/verdict.right", "eval/verdict.consistent"
NAMES = {ACCURACY: "accuracy", VERDICT: "right verdicts", AGREES: "agreement, -1 to 1"}
OPTIM = {"weight_decay": 0.0}
ONE_EACH = {"kind": "grpo", "steps": 60, "groups": 128, "samples": 1, "updates": 2, "micro_batch": 8192}
TEXT = {"threads": 1, "device": "cpu", "eval": {"prompts": 200, "rewards": [RIGHT]}, "checkpoint": {"every": 10}}
SPIKY = {"rewards": [{"name": f"{HERE}:spiky"}]}
PLAIN = {"rewards": [RIGHT]}
SIDES = {
    "Reinforce++": Arm({"preset": "reinforce_pp"}),
    "StableReinforce": Arm({"preset": "stable_reinforce"}),
    "StableReinforce without its filter": Arm({"preset": "stable_reinforce", "advantage": "whiten"}, claims=False),
    "StableReinforce without its pre-clip": Arm({"preset": "stable_reinforce", "gate": "ppo"}, claims=False),
}
EFFECTS = {
    "advantages": Effect(
        "StableReinforce stands batches with extreme advantages, Reinforce++ does not",
        "text/tiny",
        SIDES,
        {ACCURACY: 1},
        merged(TEXT, SPIKY),
        {**ONE_EACH, "optim": {"lr": 2e-4, **OPTIM}},
    ),
    "ratios": Effect(
        "StableReinforce stands batches with extreme ratios, Reinforce++ does not",
        "text/tiny",
        SIDES,
        {ACCURACY: 1},
        merged(TEXT, PLAIN),
        {**ONE_EACH, "staleness": 8, "optim": {"lr": 4e-4, **OPTIM}},
    ),
}


FORM = {"name": "tags.segments", "weight": 0.5, "options": {"names": ["think", "answer"], "boxes": []}}
JUDGE = {"threads": 1, "device": "cpu", "checkpoint": {"every": 30}, "eval": {"every": 0}}
EFFECTS["consistency"] = Effect(
    "R1-Reward's consistency reward raises the agreement of reasoning and verdict",
    "reward/tiny_r1_reward",
    {
        "form and result": Arm(rewards=[FORM, {"name": "verdict.right"}]),
        "form, result and consistency": Arm(rewards=[{"name": "verdict.r1_reward"}]),
    },
    {AGREES: 1, VERDICT: 0},
    JUDGE,
    {"steps": 60},
)


def config(effect: str, arm: str, seed: str) -> dict[str, Any]:
    """The run of one side of a comparison with a seed."""
    import yaml

    from mmrl.share import share

    chosen, side = EFFECTS[effect], EFFECTS[effect].arms[arm]
    shipped = yaml.safe_load((share("configs") / f"{chosen.source}.yaml").read_text(encoding="utf-8"))
    own = {"name": run_name(effect, arm, seed), "out": str(ROOT), "seed": int(seed), "report": {"samples_every": 0}}
    made = merged(merged(shipped, chosen.changes), own)
    *before, last = made["stages"]
    learning = chosen.stage if "kind" in chosen.stage else merged(last, chosen.stage)
    made["stages"] = [*before, merged(learning, {"algorithm": side.algorithm} if side.algorithm else {})]
    if side.rewards:
        made["rewards"] = list(side.rewards)
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
    about="equal prompts, answers and updates on both sides",
)

if __name__ == "__main__":
    main(STUDY, __doc__)
