"""What published methods do to a small model, each against its baseline: three seeds, intervals, one table.

    python benchmarks/effects_text.py
    python benchmarks/effects_text.py --only stale hints --jobs 1

A decoder of about 90,000 parameters learns worked sums (datasets/arithmetic), and reinforcement learning goes on from
there. Both sides of a comparison have the same model, prompts, steps, optimizer and groups; a seed is that of prompts
and sampling, and differences are taken seed by seed. Runs are kept under runs/effects_text and not repeated; a run that
was cut off goes on. README.md says what each comparison is and how to read the table.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path("runs/effects_text")
SEEDS = (0, 1, 2)
STEPS, GROUPS, SAMPLES = 30, 16, 8
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # quantile of Student's t, by the number of seeds
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
    """One side of a comparison: what differs from the effect's setting."""

    algorithm: Mapping[str, Any]
    stage: Mapping[str, Any] = field(default_factory=dict)
    rewards: Sequence[Mapping[str, Any]] = ()


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
            "penalty in every group": Arm({"shape": [EVERYWHERE]}),
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
            "entropy band": Arm({"terms": [{"name": "entropy_band", "low": 0.15}]}),
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
            "TOPR, 12 steps stale": Arm({**TOKEN, "ratio": "product", "gate": "topr"}, STALE),
            "GRPO, fresh": Arm(TOKEN, {**STALE, "staleness": 0}),
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
    monitors = [{"name": f"{HERE}:{name}", "weight": 0.0} for name in ("length", "entropy")]
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


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`; sections are merged, but options of another function replace those of the first."""
    both = deepcopy(dict(base))
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(key), Mapping) and not key.endswith("_options")
        both[key] = merged(both[key], value) if nested else deepcopy(value)
    return both


def run_name(effect: str, arm: str, seed: int) -> str:
    return f"{effect}-{re.sub(r'[^a-z0-9]+', '_', arm.lower())}-{seed}"


def policy(base: str) -> Path:
    return ROOT / base / "checkpoints" / "latest" / "policy"


# ------------------------------------------------------------------ running


def finished(config: Mapping[str, Any]) -> bool:
    """Whether the run is there and whole; the folder of one with another config is removed."""
    from mmrl.config import load

    folder = ROOT / config["name"]
    kept = folder / "config.yaml"
    if kept.is_file() and load(kept).dump() != load(config).dump():
        shutil.rmtree(folder)
    return (folder / "summary.json").is_file()


def train(words: Sequence[str]) -> None:
    """In a process of its own: one run, from its last checkpoint where there is one."""
    import mmrl

    config = base_config(words[0]) if len(words) == 1 else arm_config(words[0], words[1], int(words[2]))
    latest = ROOT / config["name"] / "checkpoints" / "latest"
    mmrl.train(config, resume=latest.exists(), fresh=not latest.exists(), quiet=True)


def start(words: Sequence[str]) -> None:
    """Run `train` in another process. Raises RuntimeError with the end of what it said when it fails."""
    done = subprocess.run([sys.executable, HERE, "--train", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"run {' '.join(words)} failed:\n{done.stderr[-2000:]}")
    print(f"done: {' '.join(words)}", flush=True)


def run_all(effects: Sequence[str], seeds: Sequence[int], jobs: int) -> None:
    """Every run that is missing: bases first, then seed by seed, so that a table can be made early."""
    wanted = {EFFECTS[effect].base for effect in effects}
    for base in ("pupil", *sorted(wanted - {"pupil"})):
        if not finished(base_config(base)):
            start([base])
    runs = [(e, a, str(s)) for s in seeds for e in effects for a in EFFECTS[e].arms]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(start, [run for run in runs if not finished(arm_config(run[0], run[1], int(run[2])))]))


# ------------------------------------------------------------------ the table


def after(effect: str, arm: str, seed: int) -> dict[str, float] | None:
    """Held-out numbers before ("before/...") and after a run, or None where it is not finished."""
    path = ROOT / run_name(effect, arm, seed) / "summary.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return {**{f"before/{k}": v for k, v in found["eval"]["before"].items()}, **found["eval"]["after"], **found}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half of the 95% interval by Student's t); an infinite half for a single value."""
    if len(values) < 2:
        return statistics.fmean(values), math.inf
    return statistics.fmean(values), T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))


def verdict(mean: float, half: float, direction: int) -> str:
    """What the interval of a difference says of the claim."""
    if direction == 0:
        return "-" if abs(mean) <= half else ("lower" if mean < 0 else "higher")
    if abs(mean) <= half:
        return "not shown"
    return "yes" if mean * direction > 0 else "opposite"


def table(effects: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Markdown: one block per effect, one line per arm and measure."""
    lines: list[str] = []
    for name in effects:
        effect = EFFECTS[name]
        found = {arm: {s: r for s in seeds if (r := after(name, arm, s))} for arm in effect.arms}
        baseline = next(iter(effect.arms))
        shared = {arm: sorted(set(runs) & set(found[baseline])) for arm, runs in found.items()}
        if not found[baseline]:
            continue
        lines += [f"### {effect.claim}", ""]
        lines += ["| side | measure | before | after, mean ± 95% | minus baseline, paired | claim | seeds |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for measure, direction in effect.measures.items():
            for arm, runs in found.items():
                if not shared[arm]:
                    continue
                before = statistics.fmean(r[f"before/{measure}"] for r in runs.values())
                mean, half = interval([r[measure] for r in runs.values()])
                cells = [arm, NAMES[measure], f"{before:.3f}", f"{mean:.3f} ± {half:.3f}"]
                if arm == baseline:
                    cells += ["baseline", ""]
                else:
                    gaps = [found[arm][s][measure] - found[baseline][s][measure] for s in shared[arm]]
                    mean, half = interval(gaps)
                    cells += [f"{mean:+.3f} ± {half:.3f}", verdict(mean, half, direction)]
                lines.append("| " + " | ".join([*cells, str(len(runs))]) + " |")
        lines.append("")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(EFFECTS), default=list(EFFECTS), help="comparisons to make")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--table", action="store_true", help="run nothing; print the table of what is there")
    parser.add_argument("--train", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train)
        return
    if not options.table:
        run_all(options.only, options.seeds, options.jobs)
    print(f"\n{STEPS} steps of {GROUPS} prompts x {SAMPLES} answers; Python {platform.python_version()}\n")
    print("\n".join(table(options.only, options.seeds)))


if __name__ == "__main__":
    main()
