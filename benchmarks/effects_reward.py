"""What R1-Reward's parts do on the tiny models that ship, each against what it replaces at equal samples: three seeds.

    python benchmarks/effects_reward.py
    python benchmarks/effects_reward.py --only ratios --jobs 1

`advantages`, `ratios`, `near_ratios` and `stale` train assets/text-tiny, one answer a prompt as R1-Reward does. In
`advantages` two verdicts of a hundred are +50 or -50. In `ratios` the sampler tells the trainer a log-prob that is 8 to
15 too low at one token of a hundred (wrong_engine.py), in `near_ratios` 3 to 6 too low, inside of the pre-clip. In
`stale` samples are eight steps old. `consistency` and `contradiction` train the tiny judge of pairs
(configs/reward/tiny_r1_reward.yaml) with that part of its reward and without: from the cold start that ships, and from
one whose verdicts are right and whose reasonings end in the other response half of the time. A seed is that of prompts
and sampling, and of that cold start; differences are taken seed by seed. Runs are kept under runs/effects_reward and
not repeated. README.md says what each comparison is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effects import SEEDS, Study, main, merged

ROOT = Path("runs/effects_reward")
HERE = str(Path(__file__).resolve())
WRONG_ENGINE = f"{Path(HERE).with_name('wrong_engine.py')}:WrongEngine"
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
    """See effects.Claim. source: the shipped config; changes: what differs in it; stage: in the stage that learns.

    base: the cold start, one for each seed, whose policy is trained instead of the config's model.
    """

    claim: str
    source: str
    arms: Mapping[str, Arm]
    measures: Mapping[str, int]
    changes: Mapping[str, Any]
    stage: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None


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


def wrong_engine(least: float, most: float) -> dict[str, Any]:
    """Right or wrong, sampled by an engine whose log-probs are that much too low at one token of a hundred."""
    model = {"wrong_share": 0.01, "wrong_nats": [least, most]}
    # Kept at the end alone: such a run cannot go on.
    return merged(merged(TEXT, PLAIN), {"modality": WRONG_ENGINE, "model": model, "checkpoint": {"every": 20}})


RATIOS = {**ONE_EACH, "steps": 20, "old_logp": "sampler", "optim": {"lr": 2e-4, **OPTIM}}
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
        wrong_engine(8, 15),
        RATIOS,
    ),
    "near_ratios": Effect(
        "StableReinforce stands batches with ratios of 20 to 400, Reinforce++ does not",
        "text/tiny",
        {name: side for name, side in SIDES.items() if side.claims},
        {ACCURACY: 1},
        wrong_engine(3, 6),
        RATIOS,
    ),
    "stale": Effect(
        "StableReinforce stands samples of eight steps ago at a high learning rate, Reinforce++ does not",
        "text/tiny",
        SIDES,
        {ACCURACY: 1},
        merged(TEXT, PLAIN),
        {**ONE_EACH, "staleness": 8, "optim": {"lr": 4e-4, **OPTIM}},
    ),
}


FORM = {"name": "tags.segments", "weight": 0.5, "options": {"names": ["think", "answer"], "boxes": []}}
JUDGE = {"threads": 1, "device": "cpu", "checkpoint": {"every": 30}, "eval": {"every": 0}}
REWARDS = {
    "form and result": Arm(rewards=[FORM, {"name": "verdict.right"}]),
    "form, result and consistency": Arm(rewards=[{"name": "verdict.r1_reward"}]),
}
CONSISTENCY = "R1-Reward's consistency reward raises the agreement of reasoning and verdict"
JUDGED = {AGREES: 1, VERDICT: 0}
EFFECTS |= {
    "consistency": Effect(CONSISTENCY, "reward/tiny_r1_reward", REWARDS, JUDGED, JUDGE, {"steps": 60}),
    "contradiction": Effect(
        f"{CONSISTENCY}, from a cold start that contradicts itself",
        "reward/tiny_r1_reward",
        REWARDS,
        JUDGED,
        JUDGE,
        base="contradicts",
    ),
}
# The stage that gave assets/reward-tiny its habit, with the contradiction in its place.
CONTRADICTS = {
    "kind": "sft",
    "steps": 30,
    "batch": 32,
    "micro_batch": 32,
    "options": {"contradiction": 0.5},
    "optim": {"lr": 5e-4, "warmup": 3, "schedule": "cosine", "weight_decay": 0.0, "betas": [0.9, 0.98]},
}


def shipped(source: str, changes: Mapping[str, Any], name: str, seed: str) -> dict[str, Any]:
    """A config that ships, with changes."""
    import yaml

    from mmrl.share import share

    config = yaml.safe_load((share("configs") / f"{source}.yaml").read_text(encoding="utf-8"))
    own = {"name": name, "out": str(ROOT), "seed": int(seed), "report": {"samples_every": 0}}
    return merged(merged(config, changes), own)


def base_config(base: str) -> dict[str, Any]:
    """The supervised run that makes the cold start of a seed, "contradicts-0" say."""
    records = "share://datasets/judged_scenes/judged_scenes.py:record"
    changes = merged(JUDGE, {"data": {"records": records, "records_count": 4000}, "stages": [CONTRADICTS]})
    return shipped("reward/tiny_r1_reward", changes, base, base.rpartition("-")[2])


def arm_config(effect: str, arm: str, seed: str) -> dict[str, Any]:
    """The run of one side of a comparison with a seed."""
    chosen, side = EFFECTS[effect], EFFECTS[effect].arms[arm]
    made = shipped(chosen.source, chosen.changes, run_name(effect, arm, seed), seed)
    *before, last = made["stages"]
    learning = chosen.stage if "kind" in chosen.stage else merged(last, chosen.stage)
    made["stages"] = [*before, merged(learning, {"algorithm": side.algorithm} if side.algorithm else {})]
    if side.rewards:
        made["rewards"] = list(side.rewards)
    if chosen.base:
        made["model"]["path"] = str(ROOT / f"{chosen.base}-{seed}" / "checkpoints" / "latest" / "policy")
    return made


def config(*words: str) -> dict[str, Any]:
    """The run of a base, or of one side of a comparison with a seed."""
    return base_config(words[0]) if len(words) == 1 else arm_config(*words)


def bases(effects: Sequence[str]) -> list[str]:
    """The cold starts of these comparisons, one for each seed."""
    starts = sorted({base for effect in effects if (base := EFFECTS[effect].base)})
    return [f"{base}-{seed}" for base in starts for seed in SEEDS]


def run_name(effect: str, arm: str, seed: str) -> str:
    return f"{effect}-{re.sub(r'[^a-z0-9]+', '_', arm.lower())}-{seed}"


STUDY = Study(
    script=HERE,
    root=ROOT,
    effects=EFFECTS,
    names=NAMES,
    config=config,
    bases=bases,
    about="equal prompts, answers and updates on both sides",
)

if __name__ == "__main__":
    main(STUDY, __doc__)
