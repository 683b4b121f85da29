"""Interrupts trainings of every kind and compares what they end with to the run that was never stopped.

    python tests/training/interruptions.py [TOTAL [KIND]]

A run is stopped at each of its points (it saves itself and goes on), and gets SIGKILL or SIGTERM at random moments in a
child, also while it is loading (it goes on from its last checkpoint), until TOTAL interruptions (1,000) are made over
all kinds, or those whose name begins with KIND. Weights, optimizer, averages, references, curricula, rows of metrics,
counts and samples must be the same, bit for bit.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import saved
import torch
from able import Able
from answers import AnswersConfig, make
from flowing import Flowing
from renoising import Renoising

import mmrl.training.reports
from mmrl.config import DataConfig
from mmrl.data.records import Records
from mmrl.training.stopping import Stopped
from mmrl.types import Prompt

HERE = Path(__file__).parent
TEXTS = ["x" * (1 + i % 5) for i in range(12)]
PROMPTS = [
    Prompt(f"p{i}", t, {"id": f"p{i}", "prompt": t, "solution": "abc", "hard": i % 3, "rate": i % 5 / 4})
    for i, t in enumerate(TEXTS)
]
ANSWERS = [("ab", "ba"), ("a", "c"), ("abc", "b"), ("ca", "cb"), ("aa", "bb"), ("b", "ab")]
REWARD = "def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n"

ADAMW = {"lr": 0.05}
EMA = {"lr": 0.05, "ema": 0.5, "warmup": 2, "schedule": "cosine"}
SPAM = {"name": "spam", "lr": 0.02, "spam_reset_every": 3, "spam_warmup": 2}
GRPO = {"kind": "grpo", "groups": 4, "samples": 4, "updates": 2, "micro_batch": 20}
RATES = {"column": "rate", "first": "high", "buckets": 3, "reestimate": 0.5}
KL = {"preset": "grpo", "kl_coef": 0.1}
TREES = {k: v for k, v in GRPO.items() if k != "samples"} | {  # a tree has children
    "tree": {"iterations": 4, "children": 3, "depth": 3, "step_end": "b", "step_tokens": 3, "least_spread": 0.0}
}
NOVELTY = f"{HERE / 'three_roles.py'}:Novelty"
FAKE = {"optim": SPAM, "updates": 2, "follow": {"decay": 0.9}}  # trained, and pulled to the policy
FORWARD = {"kind": "forward_process", "groups": 4, "samples": 4, "updates": 2, "micro_batch": 7, "draws": 2}
DISTILL = {"kind": "distill", "groups": 4, "samples": 2, "micro_batch": 3, "fake": {"optim": ADAMW, "updates": 2}}
HEADS = {"blocks": 2, "width": 3, "heads": {"optim": ADAMW, "updates": 2}}
FLASH = {**DISTILL, "samples": 3, "updates": 2, "micro_batch": 5, "optim": EMA, "fake": FAKE}
LOADING_S = 0.02  # what a child takes until it trains, and a little more
STOPPED = 3  # exit code of a child that saved itself


def kinds(given: str) -> dict[str, list[dict[str, Any]]]:
    """Name -> stages; given: a file of records and pairs."""
    pairs = {"kind": "preference", "batch": 4, "micro_batch": 10, "pairs": given}
    expert = {"batch": 4, "micro_batch": 2, "peak": 0.5, "valley": 0.5}
    kept = {"kind": "filter", "name": "keep", "groups": 4, "samples": 4, "steps": 3}
    search = {k: v for k, v in TREES["tree"].items() if k != "least_spread"}
    searched = {"kind": "filter", "rule": "steps", "groups": 4, "steps": 2, "tree": search}
    of_steps = {"kind": "reward_model", "rows": "steps", "objective": "mse", "batch": 3, "micro_batch": 10, "steps": 2}
    return {
        "grpo": [{**GRPO, "epochs": 2}],
        "grpo, ema": [{**GRPO, "optim": EMA}],
        "grpo, spam": [{**GRPO, "optim": SPAM}],
        "grpo, reference": [{**GRPO, "algorithm": KL}],
        "grpo, KL off the reward": [{**GRPO, "algorithm": {**KL, "kl_place": "reward", "kl_estimator": "k1"}}],
        "staleness": [{**GRPO, "staleness": 2, "steps": 5}],
        "replayed": [{**GRPO, "old_logp": "replay", "epochs": 2}],
        "replayed, staleness": [{**GRPO, "old_logp": "replay", "updates": 1, "staleness": 1, "steps": 4}],
        "refill": [{**GRPO, "refill": 3, "samples": 2}],
        "retiring prompts": [{**GRPO, "curriculum": {"retire_at": 0.5, "correct_at": 0.3}, "steps": 9}],
        "staleness, retiring": [
            {**GRPO, "staleness": 1, "curriculum": {"retire_at": 0.5, "correct_at": 0.3}, "steps": 6}
        ],
        "buckets that open, estimated": [
            {**GRPO, "curriculum": {**RATES, "order": "mixed", "advance": "evenly"}, "staleness": 1, "steps": 4}
        ],
        "shifting buckets, estimated": [{**GRPO, "curriculum": {**RATES, "order": "shifting"}, "refill": 2}],
        "trees": [{**TREES, "epochs": 2}],
        "trees, reference": [{**TREES, "algorithm": KL, "optim": EMA}],
        "sft, then trees": [
            {"kind": "sft", "batch": 6, "micro_batch": 2},
            {**TREES, "curriculum": {"order": "sorted", "column": "hard"}},
        ],
        "hints": [{**GRPO, "hints": {"reward": "letters.a"}}],
        "expert": [{**GRPO, "expert": expert}],
        "sft": [{"kind": "sft", "batch": 6, "micro_batch": 2, "optim": EMA}],
        "sft, spam": [{"kind": "sft", "batch": 6, "micro_batch": 2, "optim": SPAM}],
        "dpo": [{**pairs, "optim": EMA}],
        "mpo": [{**pairs, "objective": "mpo", "optim": SPAM}],
        "bco": [{**pairs, "objective": "bco"}],
        "diffusion dpo": [{**pairs, "kind": "forward_preference", "draws": 2, "beta": 10.0, "optim": EMA}],
        "reward model": [{**pairs, "kind": "reward_model", "optim": EMA}],
        "filter, then grpo": [{**kept, "rule": "difficulty", "low": 0.0, "high": 1.0}, {**GRPO, "data_from": "keep"}],
        "filter of steps, then reward model": [
            {**searched, "name": "one"},
            {**of_steps, "data_from": "one", "optim": EMA},
            {**searched, "name": "two"},
            {**of_steps, "data_from": "two"},
        ],
        "sft, then filter": [
            {"kind": "sft", "batch": 6, "micro_batch": 2},
            {**kept, "rule": "rejection", "correct_at": 0.2},
        ],
        "nft, ema": [{**FORWARD, "optim": EMA, "steps": 4, "old": {"decay": 0.5, "rise": "linear", "slope": 0.3}}],
        "awm, reference, average": [{**FORWARD, "objective": "awm", "epochs": 2, "reference_coef": 0.1, "ema_coef": 1}],
        "dgpo, then nft": [{**FORWARD, "objective": "dgpo"}, {**FORWARD, "name": "two", "steps": 2}],
        "distill": [{**DISTILL, "optim": EMA}],
        "distill, surrogate": [
            {
                **DISTILL,
                "samples": 4,
                "times_above": True,
                "optim": EMA,
                "surrogate": {"role": {"optim": SPAM, "updates": 2}},
            }
        ],
        "distill, then nft": [{**DISTILL, "fake": FAKE, "every": 2}, {**FORWARD, "name": "two", "steps": 2}],
        "flash: teacher, grpo": [
            {
                **FLASH,
                "adversary": {**HEADS, "real": "teacher", "teacher_steps": 2},
                "joint": {"after": 1, "algorithm": KL, "schedule": "alternate"},
            }
        ],
        "flash: records, step_dpo": [
            {
                **FLASH,
                "pulls": 1,
                "adversary": {**HEADS, "features": "fake", "form": "hinge"},
                "joint": {"objective": "step_dpo", "schedule": "weighted", "anchor": {"follow": {"decay": 0.5}}},
            }
        ],
        "own kind, two learners": [{"kind": f"{HERE / 'test_own_stage.py'}:Baseline", "steps": 6, "optim": EMA}],
        "own kind, three roles": [{"kind": NOVELTY, "steps": 3, "optim": EMA, "fake": FAKE}],
        "roles behind a reference": [{**GRPO, "algorithm": KL, "steps": 2}, {"kind": NOVELTY, "steps": 2}],
        "five stages": [
            {"kind": "sft", "batch": 6, "micro_batch": 2, "steps": 2},
            {**kept, "rule": "difficulty", "low": 0.0, "high": 1.0},
            {**GRPO, "name": "one", "algorithm": KL, "optim": EMA, "steps": 2},
            {**pairs, "steps": 2},
            {**GRPO, "name": "two", "algorithm": KL, "optim": SPAM, "steps": 2},
        ],
    }


@dataclass
class Case:
    """A kind of run, in its folder; `loop` makes it anew."""

    name: str
    stages: list[dict[str, Any]]
    folder: Path

    def loop(self, run: str, should_stop: Any = None) -> Any:
        stages = [
            {"name": f"s{i}", "steps": 3, **({"optim": ADAMW} if s["kind"] != "filter" else {}), **s}
            for i, s in enumerate(self.stages)
        ]
        kinds = {s["kind"] for s in stages}
        samples = bool(kinds & {"grpo", "forward_process", "distill", "filter", NOVELTY})
        supervised = "sft" in kinds or any("expert" in s or learns_from_records(s) for s in stages)
        given = str(self.folder / "given.jsonl")
        # A reward model measures the numbers of held-out records, of which there are none.
        measured = samples and "reward_model" not in kinds
        data = {"prompts": "unused.txt"} if samples else {}
        data |= {"eval_prompts": "held.txt"} if measured else {}
        values = {
            "name": run,
            "out": str(self.folder),
            "data": data | ({"records": given} if supervised else {}),
            "rewards": [{"name": f"{self.folder / 'letters.py'}:a"}] if samples else [],
            "stages": stages,
            "report": {"samples_every": 1} if samples else {},
            "checkpoint": {"every": 1},
            **({"eval": {"every": 2}} if measured else {}),
        }
        records = Records(DataConfig(records=given), ("completion",)) if supervised else None
        held = PROMPTS[:3] if measured else ()
        prompts = PROMPTS if samples else ()
        own = {"adapter": Able(AnswersConfig())} if any("tree" in s for s in stages) else {}
        if kinds & {"forward_process", "distill", "forward_preference"}:
            adapter = Renoising if any("joint" in s for s in stages) else Flowing
            own = {"adapter": adapter(AnswersConfig())}
        return make(values, prompts, eval_prompts=held, records=records, should_stop=should_stop, **own)

    def left(self, run: str) -> dict[str, Any]:
        """What a finished run leaves, without times and paths."""
        folder = self.folder / run
        latest = (folder / "checkpoints" / "latest").resolve()
        state = json.loads((latest / "state.json").read_text())
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        stored = sorted(p for part in ("samples", "data") for p in (folder / part).rglob("*") if p.is_file())
        cursor = {k: v for k, v in state["cursor"].items() if k != "wall_s"}
        return {
            "tensors": {k: (v.dtype, v.tolist()) for k, v in saved.tensors(latest).items()},
            "parts": state["parts"],
            "cursor": cursor,
            "rows": [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines],
            "stored": {str(p.relative_to(folder)): p.read_bytes() for p in stored},
        }


def learns_from_records(stage: dict[str, Any]) -> bool:
    """Whether it is a distill stage whose real samples are records."""
    return "adversary" in stage and stage["adversary"].get("real", "records") == "records"


def cases(folder: Path) -> Iterator[Case]:
    """One of each kind, its files written."""
    for number, (name, stages) in enumerate(kinds(str(folder / "given.jsonl")).items()):
        own = folder / f"{number:02d}"
        own.mkdir()
        (own / "letters.py").write_text(REWARD)
        records = (
            {"prompt": "x" * n, "completion": a, "chosen": a, "rejected": b} for n, (a, b) in enumerate(ANSWERS, 1)
        )
        text = "".join(f"{json.dumps(record)}\n" for record in records)
        (own / "given.jsonl").write_text(text)
        (folder / "given.jsonl").write_text(text)
        yield Case(name, stages, own)


def stop_everywhere(case: Case) -> int:
    """Stop at each point of the run, resuming in between; how often."""
    points: list[str] = []
    resume = False
    while True:
        try:
            case.loop("stopped", lambda point: not points.append(point)).train(resume=resume)
        except Stopped:
            resume = True
        else:
            return len(points)


def kill(case: Case, times: int, rng: random.Random, seconds: float) -> int:
    """Interrupt the run at random moments of its next `seconds`, starting anew or resuming in between; how often.

    Two thirds are SIGKILL; of the SIGTERMs half come while the child is loading, where they end it at once.
    """
    killed, finished = 0, False
    for attempt in range(3 * times):
        if killed == times or finished:
            break
        run = case.folder / "killed"
        resume = (run / "checkpoints" / "latest").exists()
        if not resume:
            shutil.rmtree(run, ignore_errors=True)
        number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        early = number == signal.SIGTERM and rng.random() < 0.5
        child = _child(case, resume)
        time.sleep(rng.uniform(0.0, LOADING_S if early else seconds))
        os.kill(child, number)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in (0, -number, STOPPED):
            raise RuntimeError(f"{case.name}: the child ended with {code} at attempt {attempt}")
        killed += code != 0
        finished = code == 0
    end = os.waitpid(_child(case, (case.folder / "killed" / "checkpoints" / "latest").exists()), 0)[1]
    if os.waitstatus_to_exitcode(end):
        raise RuntimeError(f"{case.name}: it did not go on after {killed} kills")
    return killed


def _child(case: Case, resume: bool) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        case.loop("killed").train(resume=resume)
        code = 0
    except Stopped:
        code = STOPPED
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    return [name for name in wanted if found[name] != wanted[name]]


def interrupt(case: Case, rng: random.Random, kills: int, total: int = 0) -> tuple[int, int, list[str]]:
    """(stops, kills, what is different afterwards); kills: at least so many, more where stops do not make `total`."""
    case.loop("straight").train()
    wanted = case.left("straight")
    stops = stop_everywhere(case)
    wrong = [f"stopped: {name}" for name in differing(case.left("stopped"), wanted)]
    kills, killed = max(kills, total - stops), 0
    while killed < kills:
        shutil.rmtree(case.folder / "killed", ignore_errors=True)
        killed += kill(case, kills - killed, rng, 0.25)
        wrong += [f"killed: {name}" for name in differing(case.left("killed"), wanted)]
    return stops, killed, wrong


def main() -> int:
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    beginning = sys.argv[2] if len(sys.argv) > 2 else ""
    torch.set_num_threads(1)
    mmrl.training.reports.write_report = lambda folder: folder  # takes far longer than these trainings
    rng, done, bad = random.Random(7), 0, 0
    began = time.monotonic()
    print(f"{'kind':28}{'stops':>8}{'kills':>8}  same as never stopped", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        everything = [case for case in cases(Path(folder)) if case.name.startswith(beginning)]
        for number, case in enumerate(everything):
            rest = -(-(total - done) // (len(everything) - number))
            stops, killed, wrong = interrupt(case, rng, 3, rest)
            done, bad = done + stops + killed, bad + bool(wrong)
            print(f"{case.name:28}{stops:8}{killed:8}  {'; '.join(wrong) or 'yes'}", flush=True)
    print(f"{done} interruptions in {time.monotonic() - began:.0f} s, {bad} kinds differ")
    return int(bad > 0 or done < total)


if __name__ == "__main__":
    sys.exit(main())
