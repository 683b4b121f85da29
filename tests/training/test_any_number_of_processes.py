"""One process, two and three give the same weights, rows and samples, also where a run goes on with another number.

Ranks are threads that meet at a barrier; every kind of stage and way of collecting is a case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import three_roles
import torch
from able import Able
from answers import AnswersConfig, make, ranks
from answers import __file__ as MODALITY
from flowing import Flowing

from mmrl.config import load
from mmrl.core.aggregate import AGGREGATIONS
from mmrl.data.records import Records
from mmrl.reporting.sample_index import list_tags, read_index
from mmrl.training.processes import Processes
from mmrl.training.stopping import Stopped
from mmrl.types import Prompt

SOLUTIONS = ["abcab", "bcabc", "cabca"]
PROMPTS = [
    Prompt(f"p{i}", "x" * (1 + i), {"prompt": "x" * (1 + i), "level": i % 3, "solution": SOLUTIONS[i % 3]})
    for i in range(7)
]
HELD_OUT = [Prompt(f"held{i}", "y" * (1 + i), {"prompt": "y" * (1 + i)}) for i in range(5)]
PAIRS = [
    ("one", "aab", "c"),
    ("four", "b", "cc"),
    ("seven", "abca", "ab"),
    ("nine!!", "cab", "acb"),
    ("ten", "a", "bb"),
]

# `sick` fails on every fifth answer or so, `easy` gives most groups no signal.
REWARDS = """
def letters(samples):
    return [s.artifact.count("a") / 5 for s in samples]

def sick(samples):
    return [float("nan") if s.artifact.startswith("c") else s.artifact.count("b") / 5 for s in samples]

def easy(samples):
    return [float(s.artifact[:1] != "b" or len(s.prompt.text) % 2 == 0) for s in samples]

def hard(samples):
    return [float(s.artifact.startswith("c") and not s.prompt.text.endswith("x")) for s in samples]
"""


def grpo(**options: Any) -> dict[str, Any]:
    base = {"kind": "grpo", "steps": 3, "groups": 5, "samples": 4, "micro_batch": 12}
    # A large eps: Adam divides by the size of a gradient, and would blow up the rounding of a tiny one.
    return {**base, "optim": {"lr": 0.05, "eps": 1e-3}, **options}


def tree(**options: Any) -> dict[str, Any]:
    """Trees have children instead of `samples`."""
    search = {**SEARCH, "least_spread": 0.0}
    return {k: v for k, v in grpo(tree=search, **options).items() if k != "samples"}


SEARCH = {"iterations": 4, "children": 3, "depth": 4, "step_end": "b", "step_tokens": 3}


def other(kind: str, **options: Any) -> dict[str, Any]:
    made = {"kind": kind, "steps": 3, **options}
    return made if kind == "filter" else {**made, "optim": {"lr": 0.05, "eps": 1e-3}}


def noised(**options: Any) -> dict[str, Any]:
    """On Flowing; every stage of a run is."""
    return other("forward_process", **{"groups": 4, "samples": 4, "micro_batch": 7, "draws": 2, **options})


KL = {"preset": "grpo", "kl_coef": 0.05}
KL_IN_REWARD = {**KL, "kl_place": "reward", "kl_estimator": "k1"}
SECOND = {"name": "second"}
LENGTH = {"constant": {"constant_length": 5}}
GIVEN = {"pairs": "PAIRS", "micro_batch": 12}
NOVELTY = f"{three_roles.__file__}:Novelty"
FAKE = {"optim": {"lr": 0.05, "eps": 1e-3}, "updates": 2, "follow": {"decay": 0.9}}
# Name -> (stages, reward).
CASES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "grpo": ([grpo()], "letters"),
    "a process without groups": ([grpo(groups=1)], "letters"),
    "two groups": ([grpo(groups=2)], "letters"),
    "invalid rewards": ([grpo(max_invalid=0.9)], "sick"),
    "updates and epochs": ([grpo(groups=4, updates=2, epochs=2)], "letters"),
    "averages": ([grpo(optim={"lr": 0.05, "eps": 1e-3, "ema": 0.5, "warmup": 2, "schedule": "cosine"})], "letters"),
    "chunks": ([grpo(rollout_chunk=1)], "letters"),
    "kl": ([grpo(algorithm=KL), grpo(algorithm=KL, **SECOND)], "letters"),
    "kl in the reward": ([grpo(algorithm=KL_IN_REWARD)], "letters"),
    "stale": ([grpo(steps=4, staleness=2), grpo(staleness=1, **SECOND)], "letters"),
    "refill": ([grpo(refill=3)], "easy"),
    "hints": ([grpo(hints={"reward": "hard", "fractions": [0.3, 0.7]}, samples=8)], "hard"),
    "retiring": ([grpo(steps=4, groups=6, curriculum={"retire_at": 0.7})], "easy"),
    "retiring stale refilled": ([grpo(steps=4, curriculum={"retire_at": 0.9}, refill=2, staleness=1)], "easy"),
    "staged": ([grpo(curriculum={"order": "staged", "column": "level", "advance_at": 0.1, "window": 4})], "letters"),
    "trees": ([tree()], "letters"),
    "a process without trees": ([tree(groups=2)], "letters"),
    "expert": ([grpo(expert={"batch": 5, "micro_batch": 2, "peak": 0.5, "warmup": 0})], "letters"),
    "drop zero variance": ([grpo(algorithm={"drop_zero_variance": True})], "easy"),
    "shuffled rewards": ([grpo(shuffle_rewards=True)], "letters"),
    **{f"preset {name}": ([grpo(algorithm={"preset": name})], "letters") for name in ("gspo", "rloo", "dapo", "cispo")},
    **{
        f"aggregate {name}": ([grpo(algorithm={"aggregate": name, **LENGTH.get(name, {})})], "letters")
        for name in AGGREGATIONS
    },
    "sft": ([other("sft", batch=5, micro_batch=2)], "letters"),
    "sft of one micro-batch": ([other("sft", batch=5, micro_batch=8)], "letters"),
    "sft then grpo": ([other("sft", batch=4, micro_batch=3), grpo(algorithm=KL)], "letters"),
    "dpo": ([other("preference", batch=3, objective="dpo", **GIVEN)], "letters"),
    "bco": ([other("preference", batch=1, objective="bco", **GIVEN)], "letters"),
    "mpo": ([other("preference", batch=4, objective="mpo", **GIVEN)], "letters"),
    "diffusion dpo": ([other("forward_preference", batch=3, draws=2, beta=10.0, **GIVEN)], "letters"),
    "reward model": ([other("reward_model", batch=3, **GIVEN)], "letters"),
    "reward model of few": ([other("reward_model", batch=1, centre=0.1, objective="ties", **GIVEN)], "letters"),
    "three roles": ([other(NOVELTY, fake=FAKE, name="roles")], "letters"),
    "nft": ([noised(objective="nft", updates=2), noised(objective="nft", **SECOND)], "letters"),
    "dgpo of few groups": ([noised(objective="dgpo", groups=2, reference_coef=0.1)], "letters"),
    "filter, then sft": (
        [
            other("filter", groups=3, samples=4, rule="rejection", correct_at=0.2),
            other("sft", batch=3, micro_batch=2, data_from="filter"),
        ],
        "letters",
    ),
    "filter, then preference": (
        [
            other("filter", groups=3, samples=4, rule="pairs", require_correct=False, max_invalid=0.9),
            other("preference", batch=2, micro_batch=20, data_from="filter"),
        ],
        "sick",
    ),
    "filter, then grpo": (
        [
            other("filter", groups=3, samples=4, rule="difficulty", correct_at=0.2, low=0, high=1),
            grpo(data_from="filter"),
        ],
        "letters",
    ),
    "filter of steps, then reward model": (
        [
            other("filter", groups=3, rule="steps", tree=SEARCH),
            other("reward_model", batch=3, micro_batch=12, rows="steps", objective="mse", data_from="filter"),
        ],
        "letters",
    ),
}


@pytest.fixture
def values(tmp_path: Path, monkeypatch):
    """values(case, name) -> its config. Reports are left out: they read what is compared, and are slow to draw."""
    monkeypatch.setattr("mmrl.training.reports.write_report", lambda folder: None)
    (tmp_path / "letters.py").write_text(REWARDS, encoding="utf-8")
    records = [{"id": str(i), "prompt": p, "chosen": c, "rejected": r} for i, (p, c, r) in enumerate(PAIRS)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    records = [{"id": str(i), "prompt": p, "completion": c} for i, (p, c, _) in enumerate(PAIRS)]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")

    def config(case: str, name: str) -> dict[str, Any]:
        stages, reward = json.loads(json.dumps(CASES[case]).replace("PAIRS", str(tmp_path / "pairs.jsonl")))
        kinds = {stage["kind"] for stage in stages}
        rewarded = bool(kinds & {"grpo", "forward_process", "filter", NOVELTY})
        scored = kinds == {"reward_model"}
        measured = rewarded and "reward_model" not in kinds  # which measures numbers of held-out records
        supervised = any(s["kind"] == "sft" and "data_from" not in s for s in stages) or "expert" in stages[0]
        return {
            "name": name,
            "out": str(tmp_path / "runs"),
            "data": {
                **({"prompts": "given"} if rewarded else {}),
                **({"records": str(tmp_path / "records.jsonl")} if supervised else {}),
                **({"eval_prompts": "given"} if measured else {}),
            },
            "rewards": [{"name": f"{tmp_path / 'letters.py'}:{reward}", "alias": reward}] if rewarded else [],
            "stages": stages,
            "report": {} if scored else {"samples_every": 1, "groups": 3, **({"eval_prompts": 4} if measured else {})},
            **({"eval": {"every": 2}} if measured else {}),
        }

    return config


def run(config: dict[str, Any], world: int = 1, resume: bool = False, stop: bool = False) -> list[Any]:
    """The loops of the ranks of a run, or None for those that were stopped: at the first point that they came to."""

    first = config["stages"][0]
    kind = Flowing if first["kind"].startswith("forward_") else Able if "tree" in first else None

    def work(processes: Processes | None) -> Any:
        loop = make(
            config,
            PROMPTS,
            adapter=kind(AnswersConfig()) if kind else None,
            eval_prompts=HELD_OUT if "eval_prompts" in config["data"] else (),
            records=records(config),
            should_stop=lambda point: stop and (world == 1 or point != "micro"),
            processes=processes,
        )
        try:
            loop.train(resume=resume)
        except Stopped:
            return None
        return loop

    return ranks(work, world) if world > 1 else [work(None)]


def records(config: dict[str, Any]) -> Records | None:
    if "records" not in config["data"]:
        return None
    return Records(load({**config, "modality": f"{MODALITY}:Answers"}).data, ("prompt", "completion"))


def left(config: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """What a run left: its rows without times, and by tag which samples are stored, with their rewards."""
    folder = Path(config["out"]) / config["name"]
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]
    samples = {}
    for tag in list_tags(folder):
        index = read_index(folder, tag)
        assert index["missing"] == []
        samples[tag] = [
            (group["index"], group["prompt"]["id"], [list(_scores(sample)) for sample in group["samples"]])
            for group in index["groups"]
        ]
    return rows, samples


def _scores(sample: dict[str, Any]) -> Iterator[tuple[int, str, float | None]]:
    """Rounded: a sum over actions depends on the last bit of its terms."""
    for name, score in sample["scores"].items():
        yield sample["index"], name, None if score["value"] is None else round(score["value"], 4)


@pytest.fixture(scope="module")
def alone() -> Any:
    """alone(values, case) -> (table, rows, samples) of the run of one process; it is made once for all tests."""
    kept: dict[str, Any] = {}

    def of(values: Any, case: str) -> Any:
        if case not in kept:
            config = values(case, "one")
            (loop,) = run(config)
            assert (loop.adapter.table - loop.adapter.start).abs().max() > 1e-3
            kept[case] = (loop.adapter.table.detach(), *left(config))
        return kept[case]

    return of


def assert_same(loops: list[Any], config: dict[str, Any], one: Any) -> None:
    table, wanted_rows, wanted_samples = one
    for loop in loops:
        torch.testing.assert_close(loop.adapter.table.detach(), table, rtol=0, atol=1e-6)
    rows, samples = left(config)
    assert samples == wanted_samples
    for row, wanted_row in zip(rows, wanted_rows, strict=True):
        assert row.keys() == wanted_row.keys() and row["stage"] == wanted_row["stage"]
        for name in row.keys() - {"stage"}:
            number = wanted_row[name]
            wanted = number if number is None else pytest.approx(number, rel=1e-5, abs=1e-6, nan_ok=True)
            assert row[name] == wanted, name


OPTIONS = [case for case in CASES if case.startswith(("preset", "aggregate"))]


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_processes_gives_the_numbers_of_one(values, alone, case):
    for world in (3,) if case in OPTIONS else (2, 3):
        config = values(case, f"with_{world}")
        assert_same(run(config, world), config, alone(values, case))


@pytest.mark.parametrize("case", [case for case in CASES if case not in OPTIONS])
def test_every_resume_may_have_another_number_of_processes(values, alone, case):
    """Stopped at the first point of every start, and gone on with from there: 2, 1, 3, 1 ... processes."""
    config = values(case, "stopped")
    worlds = cycle([2, 1, 3, 1, 1, 2, 3])
    loops = run(config, next(worlds), stop=True)
    starts = 1
    while None in loops:
        loops = run(config, next(worlds), resume=True, stop=True)
        starts += 1
        assert starts < 200
    assert starts > 3
    assert_same(loops, config, alone(values, case))
