"""What published methods do to a small model, each against its baseline: three seeds, intervals, one table.

    python benchmarks/effects_text.py
    python benchmarks/effects_text.py --only stale hints --jobs 1

A decoder of about 90,000 parameters learns worked sums (datasets/arithmetic), and reinforcement learning goes on from
there. Both sides of a comparison have the same model, prompts, steps, optimizer and groups; a seed is that of prompts
and sampling, and differences are taken seed by seed. Runs are kept under runs/effects_text and not repeated; a run that
was cut off goes on. README.md says what each comparison is and how to read the table.
"""

from __future__ import annotations

import importlib.util
import platform
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from effects import Study, main, merged

ROOT = Path("runs/effects_text")
STEPS, GROUPS, SAMPLES = 30, 16, 8
HERE = str(Path(__file__).resolve())
ARITHMETIC = "share://datasets/arithmetic/arithmetic.py"
RIGHT = {"name": "numeric.close", "options": {"extract": "after:#"}}

# ------------------------------------------------------------------ data and monitors


@cache
def arithmetic() -> ModuleType:
    """datasets/arithmetic/arithmetic.py, which is in no package."""
    from mmrl.share import resolve

    spec = importlib.util.spec_from_file_location("effects_arithmetic", resolve(ARITHMETIC))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def styled(
    index: int,
    levels: Sequence[int] = (1, 2),
    forgets: float = 0.0,
    twice: float = 0.3,
    direct: float = 0.3,
    repeats: int = 0,
) -> dict:
    """A worked record in one of three styles: every line twice, the answer alone, or as it is.

    repeats: the answer is said again up to so many times, which makes a text longer and no harder.
    """
    record = arithmetic().worked(index, levels=levels, forgets=forgets)
    rng = random.Random(f"style/{index}")
    style = rng.random()
    lines = record["completion"].split("\n")
    if style < direct:
        lines = lines[-1:]
    elif style < direct + twice:
        lines = [same for line in lines[:-1] for same in (line, line)] + lines[-1:]
    lines += lines[-1:] * (rng.randint(0, repeats) if repeats else 0)
    return {**record, "completion": "\n".join(lines)}


def hard(index: int, carries: int = 3, split: str = "train") -> dict:
    """A sum of three numbers with at least so many carries inside its columns, with its `solution`."""
    number = index * 1000
    while True:
        record = arithmetic().worked(number, levels=(2,), split=split)
        if len(re.findall(r"\d\+\d\+1=", record["completion"])) >= carries:
            return {**record, "id": f"{split}-{index}", "solution": record["completion"]}
        number += 1


def noisy(samples: list, rate: float = 0.4) -> list[float]:
    """A verifier that is wrong in a share `rate` of its verdicts, the same ones for the same answers."""
    verdicts = []
    for sample in samples:
        right = sample.artifact.rpartition("#")[2].strip() == sample.prompt.record["answer"]
        flipped = random.Random(f"{sample.prompt.id}/{sample.index}/{sample.artifact}").random() < rate
        verdicts.append(float(right != flipped))
    return verdicts


def one(samples: list) -> list[float]:
    """1 for every answer: with a weight of -1 and 2 for the right ones, rewards are +1 and -1."""
    return [1.0 for _ in samples]


def length(samples: list) -> list[float]:
    """Tokens of an answer."""
    return [float(len(sample.trajectory.logp)) for sample in samples]


def entropy(samples: list) -> list[float]:
    """Nats per token: the mean of -log p over what was sampled at temperature 1 estimates the policy's entropy."""
    return [float(-sample.trajectory.logp.mean()) for sample in samples]


# ------------------------------------------------------------------ what is run

BUILD = {"kind": "qwen3", "hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "context": 256, "chat": False}


@dataclass(frozen=True)
class Base:
    """A supervised run that reinforcement learning starts from. `start` is another base, or nothing."""

    steps: int
    records: str
    options: Mapping[str, Any]
    start: str = ""


WORDY = {"levels": [1, 2], "forgets": 0.1, "direct": 0.2, "twice": 0.0, "repeats": 6}
BASES = {
    "pupil": Base(800, f"{ARITHMETIC}:worked", {"levels": [1, 2], "forgets": 0.6}),
    "stubborn": Base(120, f"{ARITHMETIC}:worked", {"levels": [1, 2], "forgets": 0.95}, "pupil"),
    "styles": Base(200, f"{HERE}:styled", {"levels": [1, 2], "forgets": 0.6}, "pupil"),
    "wordy": Base(200, f"{HERE}:styled", WORDY, "pupil"),
}


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: what differs from the effect's setting. claims: the claim is about it."""

    algorithm: Mapping[str, Any]
    stage: Mapping[str, Any] = field(default_factory=dict)
    rewards: Sequence[Mapping[str, Any]] = ()
    claims: bool = True


@dataclass(frozen=True)
class Effect:
    """A published claim, its setting, and its arms; the first arm is the baseline.

    measures: a held-out number and which way the claim says that it goes: 1 up, -1 down, 0 says nothing.
    """

    claim: str
    base: str
    arms: Mapping[str, Arm]
    measures: Mapping[str, int]
    config: Mapping[str, Any] = field(default_factory=dict)


ACCURACY, LENGTH = "eval/numeric.close", "eval/effects_text.length"
ENTROPY, GOOD_STEPS = "eval/effects_text.entropy", "eval/worked.steps"
NAMES = {ACCURACY: "accuracy", LENGTH: "tokens", ENTROPY: "entropy", GOOD_STEPS: "right steps"}

TOKEN = {"aggregate": "token_mean"}
EVERYWHERE = {"name": "length_lambda", "mode": "threshold", "threshold": 0.0}
STALE = {"staleness": 12, "optim": {"lr": 2e-4}}
SIGNED = [{**RIGHT, "weight": 2.0}, {"name": f"{HERE}:one", "weight": -1.0}]
NOISY = [{"name": f"{HERE}:noisy"}, {"name": "worked.steps", "weight": 0.0}]
PROF = {"name": "prof", "process": "worked.steps", "keep": 4}
HARD = {
    "prompts": f"{HERE}:hard",
    "prompts_count": 500,
    "prompts_options": {"carries": 3},
    "eval_prompts": f"{HERE}:hard",
    "eval_prompts_options": {"carries": 3, "split": "heldout"},
}
LONG = {"model": {"sampling": {"max_tokens": 110}}}

EFFECTS = {
    "length": Effect(
        "GRPO-lambda shortens answers without a collapse of accuracy",
        "wordy",
        {
            "GRPO": Arm({}),
            "GRPO-lambda": Arm({"preset": "grpo_lambda"}),
            "penalty in every group": Arm({"shape": [EVERYWHERE]}, claims=False),
        },
        {LENGTH: -1, ACCURACY: 0},
        LONG,
    ),
    "entropy": Effect(
        "Lp-Reg and an entropy band keep entropy where GRPO's falls",
        "styles",
        {
            "GRPO": Arm({}),
            "Lp-Reg": Arm({"preset": "lp_reg"}),
            "Lp-Reg, a tenth of the tokens": Arm({"preset": "lp_reg", "terms": [{"name": "proxy_kl", "share": 0.1}]}),
            "entropy band": Arm({"action_masks": ["forking"], "terms": ["entropy_band"]}),
        },
        {ENTROPY: 1, ACCURACY: 0},
        LONG,
    ),
    "stale": Effect(
        "BAPO and TOPR stand rollouts of 12 steps ago better than PPO's clip",
        "pupil",
        {
            "GRPO, 12 steps stale": Arm(TOKEN, STALE),
            "BAPO, 12 steps stale": Arm({"preset": "bapo"}, STALE),
            # The paper's: +1 and -1 as they are, without a baseline.
            "TOPR, 12 steps stale": Arm({"preset": "topr"}, STALE, SIGNED),
            "TOPR less the group's mean, 12 steps stale": Arm(
                {"preset": "topr", "advantage": "group_mean"}, STALE, claims=False
            ),
            "GRPO, fresh": Arm(TOKEN, {**STALE, "staleness": 0}, claims=False),
        },
        {ACCURACY: 1},
    ),
    "process": Effect(
        "PROF learns from a verifier that is wrong four times in ten, where plain GRPO learns less",
        "pupil",
        {
            "GRPO": Arm({}, rewards=NOISY),
            "PROF": Arm({"filters": [PROF]}, rewards=NOISY),
            "PROF, wrong ones at random": Arm({"filters": [{**PROF, "correct_only": True}]}, rewards=NOISY),
        },
        {ACCURACY: 1, GOOD_STEPS: 1},
    ),
    "hints": Effect(
        "GHPO's hints learn from problems on which GRPO has no signal",
        "stubborn",
        {
            "GRPO, refilled": Arm({}, {"refill": 4}),
            "GHPO": Arm({}, {"hints": {"reward": "numeric.close", "sentence": ""}}),
        },
        {ACCURACY: 1},
        {"data": HARD},
    ),
}


def base_config(name: str) -> dict[str, Any]:
    """The supervised run of a base."""
    base = BASES[name]
    model = {"path": str(policy(base.start))} if base.start else {"path": "built", "build": {**BUILD, "seed": 1}}
    rate = 1e-3 if base.start else 3e-3
    optim = {"lr": rate, "betas": [0.9, 0.98], "weight_decay": 0.01, "warmup": 50, "schedule": "cosine"}
    return {
        "name": name,
        "modality": "text",
        "seed": 1,
        "out": str(ROOT),
        "device": "cpu",
        "threads": 1,
        "model": {**model, "chat": "off", "sampling": {"max_tokens": 110}},
        "data": {"records": base.records, "records_count": 96000, "options": dict(base.options)},
        "stages": [{"kind": "sft", "steps": base.steps, "batch": 64, "micro_batch": 64, "optim": optim}],
        "checkpoint": {"every": 100},
    }


def arm_config(effect: str, arm: str, seed: int) -> dict[str, Any]:
    """The run of one side of a comparison."""
    chosen, side = EFFECTS[effect], EFFECTS[effect].arms[arm]
    problem = f"{ARITHMETIC}:problem"
    monitors = [{"name": f"{HERE}:{name}"} for name in ("length", "entropy")]
    stage = {
        "kind": "grpo",
        "steps": STEPS,
        "groups": GROUPS,
        "samples": SAMPLES,
        "updates": 2,
        "micro_batch": 8192,
        "optim": {"lr": 1e-4, "weight_decay": 0.0},
        "algorithm": {"preset": "grpo", **side.algorithm},
    }
    return merged(
        {
            "name": run_name(effect, arm, seed),
            "modality": "text",
            "seed": seed,
            "out": str(ROOT),
            "device": "cpu",
            "threads": 1,
            "model": {
                "path": str(policy(chosen.base)),
                "chat": "off",
                "sampling": {"temperature": 1.0, "max_tokens": 80},
                "evaluation": {"temperature": 1.0},
                "rollout_batch": 512,
            },
            "data": {
                "prompts": problem,
                "prompts_count": 4000,
                "prompts_options": {"levels": [1, 2]},
                "eval_prompts": problem,
                "eval_prompts_count": 200,
                "eval_prompts_options": {"levels": [1, 2], "split": "heldout"},
            },
            "rewards": list(side.rewards) or [RIGHT],
            "stages": [merged(stage, side.stage)],
            "eval": {"prompts": 200, "samples": 2, "rewards": [RIGHT, *monitors, {"name": "worked.steps"}]},
            "report": {"samples_every": 0},
            "checkpoint": {"every": 10},
        },
        chosen.config,
    )


def run_name(effect: str, arm: str, seed: int) -> str:
    return f"{effect}-{re.sub(r'[^a-z0-9]+', '_', arm.lower())}-{seed}"


def policy(base: str) -> Path:
    return ROOT / base / "checkpoints" / "latest" / "policy"


def config(*words: str) -> dict[str, Any]:
    """The run of a base, or of one side of a comparison with a seed."""
    return base_config(words[0]) if len(words) == 1 else arm_config(words[0], words[1], int(words[2]))


def bases(effects: Sequence[str]) -> list[str]:
    """What the comparisons start from; `pupil`, which the others start from, first."""
    return ["pupil", *sorted({EFFECTS[effect].base for effect in effects} - {"pupil"})]


STUDY = Study(
    script=HERE,
    root=ROOT,
    effects=EFFECTS,
    names=NAMES,
    config=config,
    bases=bases,
    about=f"{STEPS} steps of {GROUPS} prompts x {SAMPLES} answers; Python {platform.python_version()}",
)

if __name__ == "__main__":
    main(STUDY, __doc__ or "")
