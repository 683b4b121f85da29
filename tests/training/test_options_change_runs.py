"""Every option of a stage changes what a run comes to, or is named here as one that changes its speed alone."""

from __future__ import annotations

import json
from functools import cache

import pytest
from able import PROMPTS, Able, able, values
from answers import AnswersConfig
from flowing import Flowing

from mmrl.config import (
    FilterStage,
    ForwardPreferenceStage,
    ForwardProcessStage,
    GrpoStage,
    PreferenceStage,
    RewardModelStage,
    SftStage,
    TrainedTimes,
)
from mmrl.config.grpo_sections import CurriculumConfig, ExpertConfig, HintsConfig, TreeConfig
from mmrl.config.optim import OptimConfig
from mmrl.training.rollouts.sampling import RewardFailure
from mmrl.training.stages.filtered import NothingKept
from mmrl.types import Prompt

REWARDS = """
from mmrl.types import Score

def odd(samples):
    return [(sum(map(ord, s.artifact)) % 5) / 4 for s in samples]

def long(samples):
    return [len(s.artifact) / 5 for s in samples]

def some(samples):
    return [float(len(s.artifact) % 3) if s.index else float("nan") for s in samples]
"""
# An optimizer for nothing is refused; SPAM is AdamW but for what is its own, which is asked below.
IDLE = {"filter": {"optim"}, "optim": {"name"}}
SPEED_ONLY = {"micro_batch", "rollout_chunk"}
ELSEWHERE = {
    "kind": "another stage altogether",
    "components": "tests/training/test_references.py, on a model that has parts",
    "data_from": "tests/training/test_filtering.py",
    **dict.fromkeys(("pass_rates", "pass_rates_of"), "tests/training/test_pass_rates.py"),
    "show": "tests/judging/test_scalar_model.py, on a model that sees",
    "asynchronous": "tests/engines/test_async_rollouts.py, over servers",
    "old_logp": "tests/training/test_old_logp.py, on a model that samples with a cache",
    "sampling": "tests/training/test_own_sampling.py, on a model that draws",
    "branches": "tests/training/test_branches.py, on a model that draws",
    "muon_ratio": "tests/training/test_muon.py, on parameters that are matrices of blocks",
    "muon_momentum": "tests/training/test_muon.py, on parameters that are matrices of blocks",
    "options": "tests/config/test_effects.py, with a function as records",
    "reward": "tests/training/test_curriculum_of_rates.py, with several rewards",
}

TREE = {"iterations": 4, "children": 3, "depth": 4, "step_end": "b", "step_tokens": 3, "least_spread": 0.0}
LEVELS = {"order": "staged", "column": "hard", "window": 2, "advance_at": 0.9}
EXPERT = {"batch": 3, "peak": 0.5, "valley": 0.2, "decay": 3}
HINTS = {"reward": "odd", "threshold": 0.9}
SPAM = {
    "name": "spam",
    "lr": 0.05,
    "spam_threshold": 2.0,
    "spam_reset_every": 3,
    "spam_warmup": 2,
    "spam_clip_after": 1,
}
SEARCH = {k: v for k, v in TREE.items() if k != "least_spread"}
STEPS = {"steps": 2, "rule": "steps", "tree": SEARCH}
FILTER = {"steps": 2, "rule": "difficulty", "low": 0.0, "high": 1.0}
ANSWERS = {"steps": 2, "rule": "rejection"}
BEST = {"steps": 2, "rule": "pairs"}

# section -> option -> (the stage, another value).
GRPO = {
    "name": ({}, "other"),
    "steps": ({}, 2),
    "optim": ({}, {"lr": 0.01}),
    "groups": ({}, 3),
    "samples": ({}, 3),
    "updates": ({}, 2),
    "epochs": ({}, 2),
    "staleness": ({}, 1),
    "algorithm": ({}, {"preset": "dr_grpo", "constant_length": 5}),
    "curriculum": ({}, {"order": "sorted", "column": "hard"}),
    "refill": ({}, 3),
    "tree": ({}, TREE),
    "hints": ({}, HINTS),
    "expert": ({}, EXPERT),
    "max_invalid": ({"rewards": "some"}, 0.5),
    "shuffle_rewards": ({}, True),
}
AWM = {"objective": "awm"}
FORWARD = {
    **{name: GRPO[name] for name in ("name", "steps", "optim", "groups", "samples", "updates", "epochs", "curriculum")},
    **{name: GRPO[name] for name in ("hints", "max_invalid", "shuffle_rewards")},
    "refill": ({"samples": 2}, 3),
    "algorithm": ({}, {"preset": "grpo"}),
    "objective": ({}, "dgpo"),
    "beta": ({"updates": 2}, 0.5),
    "saturation": ({}, 0.5),
    "weighting": (AWM, "t"),
    "power": ({**AWM, "weighting": "ghuber"}, 0.5),
    "reference_coef": ({}, 0.5),
    "ema_coef": ({}, 0.5),
    "ema": ({"ema_coef": 0.5}, {"decay": 0.9}),
    "draws": ({}, 2),
    "times": ({}, {"share": 0.5}),
    "same_noise": ({}, True),
    "old": ({}, {"decay": 0.9}),
}
UNIFORM = {"name": "uniform"}
TIMES = {
    "name": ({}, "logit_normal"),
    "share": ({}, 0.5),
    "low": (UNIFORM, 0.5),
    "high": (UNIFORM, 0.5),
    "mean": ({"name": "logit_normal"}, 1.0),
    "std": ({"name": "logit_normal"}, 0.5),
    "shift": (UNIFORM, 3.0),
}
CURRICULUM = {
    "order": ({"order": "sorted", "column": "hard"}, "mixed"),
    "column": ({"order": "sorted", "column": "hard"}, "other"),
    "advance_at": ({**LEVELS, "advance_at": 0.0}, 1.0),
    "window": ({**LEVELS, "advance_at": 0.0}, 30),
    "advance_every": (LEVELS, 1),
    "first": ({"order": "sorted", "column": "hard"}, "high"),
    "buckets": ({"order": "mixed", "column": "hard"}, 2),
    "advance": ({"order": "mixed", "column": "hard"}, "evenly"),
    "reestimate": ({"order": "sorted", "column": "rate"}, 1.0),
    "retire_at": ({}, 0.1),
    "correct_at": ({"retire_at": 0.5}, 1.0),
}
HINT = {
    "reward": (HINTS, "long"),
    "threshold": (HINTS, 0.2),
    "fractions": (HINTS, [0.9]),
    "sentence": (HINTS, "?"),
}
EXPERTS = {
    "objective": (EXPERT, "sft_phi"),
    "batch": (EXPERT, 2),
    "peak": (EXPERT, 0.9),
    "valley": (EXPERT, 0.1),
    "warmup": (EXPERT, 2),
    "decay": (EXPERT, 2),
}
TREES = {
    "iterations": (TREE, 2),
    "children": (TREE, 4),
    "depth": (TREE, 1),
    "c": ({**TREE, "iterations": 8}, 0.0),
    "least_spread": (TREE, 0.6),
    "step_end": (TREE, "a"),
    "step_tokens": (TREE, 1),
}
OPTIM = {
    "lr": ({"lr": 0.05}, 0.04),
    "betas": ({"lr": 0.05}, (0.5, 0.9)),
    "eps": ({"lr": 0.05}, 0.1),
    "weight_decay": ({"lr": 0.05}, 0.1),
    "max_grad_norm": ({"lr": 0.05, "eps": 0.1}, 0.01),
    "warmup": ({"lr": 0.05}, 3),
    "schedule": ({"lr": 0.05}, "cosine"),
    "final_lr": ({"lr": 0.05, "schedule": "linear"}, 0.5),
    "ema": ({"lr": 0.05}, 0.5),
    "spam_threshold": (SPAM, 9e9),
    "spam_reset_every": (SPAM, 2),
    "spam_warmup": (SPAM, 1),
    "spam_clip_after": (SPAM, 9),
}
SFT = {
    "name": ({}, "other"),
    "steps": ({}, 2),
    "optim": ({}, {"lr": 0.01}),
    "objective": ({}, "sft_phi"),
    "batch": ({}, 3),
}
PREFERENCE = {
    "name": ({}, "other"),
    "steps": ({}, 2),
    "optim": ({}, {"lr": 0.01}),
    "pairs": ({}, "swapped.jsonl"),
    "objective": ({}, "bco"),
    "beta": ({}, 0.5),
    "form": ({}, "ipo"),
    "label_smoothing": ({}, 0.2),
    "weights": ({"objective": "mpo"}, (0.1, 0.9, 0.0)),
    "batch": ({}, 3),
}
SCALAR = {
    "name": ({}, "other"),
    "steps": ({}, 2),
    "optim": ({}, {"lr": 0.01}),
    "pairs": ({}, "pairs.jsonl"),
    "rows": ({"objective": "mse"}, "steps"),
    "objective": ({}, "plackett_luce"),
    "labels": ({}, "hard"),
    "margin": ({}, 0.5),
    "tie_edge": ({"objective": "ties"}, 2.0),
    "centre": ({}, 0.1),
    "confidence": ({}, 0.9),
    "batch": ({}, 3),
    "calibrate": ({}, 0),
}
NOISED_PAIRS = {
    "name": ({}, "other"),
    "steps": ({}, 2),
    "optim": ({}, {"lr": 0.1}),
    "pairs": ({}, "swapped.jsonl"),
    "beta": ({}, 20.0),
    "label_smoothing": ({}, 0.2),
    "draws": ({}, 2),
    "times": ({}, {"low": 0.5}),
    "batch": ({}, 3),
}
FILTERS = {
    "name": (FILTER, "other"),
    "steps": (FILTER, 1),
    "rule": (ANSWERS, "pairs"),
    "groups": (FILTER, 3),
    "samples": (FILTER, 3),
    "reward": (FILTER, "long"),
    "correct_at": (FILTER, 0.9),
    "margin": (BEST, 0.9),
    "require_correct": ({**BEST, "correct_at": 9.0}, False),
    "keep": (ANSWERS, 1),
    "low": (FILTER, 0.6),
    "high": (FILTER, 0.5),
    "min_attempts": (FILTER, 2),
    "max_invalid": ({**FILTER, "rewards": "some"}, 0.5),
    "tree": (STEPS, {**SEARCH, "iterations": 2}),
}
SECTIONS = {
    "grpo": (GrpoStage, GRPO, None),
    "curriculum": (CurriculumConfig, CURRICULUM, "curriculum"),
    "hints": (HintsConfig, HINT, "hints"),
    "expert": (ExpertConfig, EXPERTS, "expert"),
    "tree": (TreeConfig, TREES, "tree"),
    "optim": (OptimConfig, OPTIM, "optim"),
    "forward_process": (ForwardProcessStage, FORWARD, None),
    "times": (TrainedTimes, TIMES, "times"),
    "sft": (SftStage, SFT, None),
    "preference": (PreferenceStage, PREFERENCE, None),
    "forward_preference": (ForwardPreferenceStage, NOISED_PAIRS, None),
    "reward_model": (RewardModelStage, SCALAR, None),
    "filter": (FilterStage, FILTERS, None),
}
NOISED = {"kind": "forward_process", "steps": 3, "groups": 4, "samples": 4, "optim": {"lr": 0.05}}
PAIRED = {"kind": "preference", "steps": 3, "batch": 2, "pairs": "pairs.jsonl", "optim": {"lr": 0.05}}
KINDS = {
    **dict.fromkeys(("forward_process", "times"), NOISED),
    "grpo": {"kind": "grpo", "steps": 5, "max_invalid": 0.2},
    "sft": {"kind": "sft", "steps": 3, "batch": 2, "optim": {"lr": 0.05}},
    "preference": PAIRED,
    "forward_preference": {**PAIRED, "kind": "forward_preference", "beta": 10.0},
    "reward_model": {"kind": "reward_model", "steps": 3, "batch": 2, "pairs": "shares.jsonl", "optim": {"lr": 0.05}},
    "filter": {"kind": "filter", "groups": 4, "samples": 4},
}


@pytest.mark.parametrize("section", SECTIONS)
def test_no_option_is_forgotten_here(section):
    options, table, _ = SECTIONS[section]
    assert set(table) == set(options.model_fields) - SPEED_ONLY - (set(ELSEWHERE) - set(table)) - IDLE.get(
        section, set()
    )


class Records:
    count = 5

    def batch(self, step, count, seed):
        words = ["ab", "cab", "b", "acc", "aaa"]
        return [
            {"id": str(i), "prompt": "x" * (1 + i), "completion": words[(seed + step * count + i) % 5]}
            for i in range(count)
        ]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """result(stage as JSON) -> all that its run leaves: weights, rows, what a filter kept, how it ended."""
    folder = tmp_path_factory.mktemp("options")
    (folder / "graded.py").write_text(REWARDS)
    pairs = [("one", "aab", "c"), ("four", "b", "cc"), ("seven", "abca", "ab"), ("nine!!", "cab", "acb")]
    for name, way in [("pairs", (1, 2)), ("swapped", (2, 1))]:
        lines = [{"prompt": p[0], "chosen": p[way[0]], "rejected": p[way[1]]} for p in pairs]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    shares = [[0.7, 0.3, 0.0], [0.2, 0.0, 0.8], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]
    lines = [
        {"prompt": p, "candidates": [c, r, "b" * (i + 1) + "a"], "steps": [c, r, "a"], "shares": share, "values": share}
        | ({"margin": 0.2, "confidence": 0.7 + 0.1 * i} if i else {})
        for i, ((p, c, r), share) in enumerate(zip(pairs, shares))
    ]
    (folder / "shares.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    @cache
    def run(text):
        stage = json.loads(text)
        named = stage.pop("rewards", "odd")
        if "pairs" in stage:
            stage["pairs"] = str(folder / stage["pairs"])
        names = [named] if named == "some" else ["odd", "long"]
        rewards = [{"name": f"{folder / 'graded.py'}:{n}", "alias": n, "weight": float(n == names[0])} for n in names]
        data = {"prompts": "unused.txt"}
        if stage["kind"] == "sft" or stage.get("expert"):
            data["records"] = "unused.jsonl"

        more = {p.id: {"other": -p.record["hard"], "rate": p.record["hard"] / 100} for p in PROMPTS}
        prompts = [Prompt(p.id, p.text, {**p.record, **more[p.id]}) for p in PROMPTS]
        out = folder / str(abs(hash(text + " ")))
        out.mkdir(exist_ok=True)
        given = {} if stage["kind"] == "reward_model" else {"rewards": rewards, "data": data}
        config = values(out, stage, **given)
        made = Flowing if stage["kind"].startswith("forward_") else Able
        loop = able(config, prompts, adapter=made(AnswersConfig()), records=Records())
        ended = "done"
        try:
            loop.train()
        except (RewardFailure, NothingKept) as error:
            ended = type(error).__name__
        rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in loop.rows]
        spread = loop.adapter.score_notes.get("std")
        files = sorted((out / "run" / "data").glob("*.jsonl"))  # that of pass rates tells the options themselves
        kept = {p.name: p.read_text() for p in files if "pass_rates" not in p.name}
        weights = [p.detach().flatten().tolist() for p in loop.adapter.trainable_parameters().values()]
        return str(weights), str(rows), str(kept), ended, spread

    return run


CASES = [(s, option, *case) for s, (_, table, _) in SECTIONS.items() for option, case in table.items()]


@pytest.mark.parametrize(("section", "option", "base", "other"), CASES, ids=[f"{c[0]}.{c[1]}" for c in CASES])
def test_an_option_changes_something(result, section, option, base, other):
    _, _, inside = SECTIONS[section]
    kind = KINDS.get(section, KINDS["grpo"])
    changed = {**base, option: other}
    one, two = ({**kind, **x} if inside is None else {**kind, inside: x} for x in (base, changed))
    if section == "tree" or option == "tree":
        whole = ("max_invalid", *(("samples",) if section == "filter" else ()))
        one, two = ({k: v for k, v in x.items() if not (x.get("tree") and k in whole)} for x in (one, two))
    assert result(json.dumps(one)) != result(json.dumps(two))


def test_a_run_is_the_same_twice(result):
    stage = json.dumps(KINDS["grpo"])
    assert result(stage) == result(f" {stage}")
