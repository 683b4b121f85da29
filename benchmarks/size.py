"""What size costs: records, curricula, stored samples, reports and checkpoints, as tables.

A run over a file of records is a process of its own (`--records N`), so that its memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

SIZES = (1_000, 100_000, 1_000_000)
STEPS = 4
PARTS = ("records", "pairs", "curriculum", "store", "report", "checkpoint")
WORDS = ["a", "box", "holds", "red", "apples", "and", "green", "pears", "how", "many", "when", "few", "are", "eaten"]
ORDERS: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "shuffled, retire_at": {"retire_at": 0.9},
    "sorted": {"order": "sorted"},
    "staged, 5 buckets": {"order": "staged", "buckets": 5},
    "mixed, reestimate": {"order": "mixed", "buckets": 5, "reestimate": 0.5},
    "shifting, 5 buckets": {"order": "shifting", "buckets": 5, "steps": 100},
}
TEXT = {
    "modality": "text",
    "model": {"path": "share://assets/text-tiny", "chat": "off", "sampling": {"max_tokens": 8}},
    "rewards": [{"name": "numeric.close", "options": {"extract": "after:#"}}],
    "checkpoint": {"every": 0},
}


def write_records(path: Path, count: int) -> None:
    """Questions of about 200 letters with an answer and a pass rate, a record a line."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            told = " ".join(rng.choices(WORDS, k=30))
            record = {"id": f"q{number}", "prompt": f"{number}: {told}?", "answer": str(number % 97), "pass_rate": 0.5}
            file.write(json.dumps(record) + "\n")


def config(folder: Path, records: Path, steps: int, looked_at: int | None = None, **stage: Any) -> dict[str, Any]:
    given = {"kind": "grpo", "steps": steps, "groups": 4, "samples": 4, **stage}
    data = {"prompts": str(records)} | ({} if looked_at is None else {"looked_at": looked_at})
    return {**TEXT, "out": str(folder), "name": "run", "data": data, "stages": [given]}


# -------------------------------------------------------------------- records


def one_size(count: int, looked_at: int | None) -> dict[str, float]:
    """A run of STEPS steps over so many records, in this process."""
    import mmrl
    from mmrl.api import trainer

    moments: list[tuple[str, float]] = []

    def at(place: str) -> bool:
        moments.append((place, time.process_time()))
        return False

    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "records.jsonl"
        write_records(records, count)
        made = mmrl.load_config(config(Path(folder), records, STEPS, looked_at))
        before, began = _rss_mb(), time.process_time()
        trainer(made, should_stop=at, quiet=True).train()
    first = next(moment for place, moment in moments if place == "rollout")
    ends = [moment for place, moment in moments if place == "step"]
    steps = [b - a for a, b in pairwise(ends)]
    return {"start_s": first - began, "step_s": min(steps), "held_mb": _rss_mb() - before, "peak_mb": _peak_mb()}


def _told(looked_at: int | None) -> str:
    return "as the default says" if looked_at is None else f"{looked_at or 'all'}"


def records_table(sizes: list[int], looked_at: int | None) -> None:
    print(f"\nA run of the tiny text model over JSONL records of 260 bytes, looked at: {_told(looked_at)}")
    print("records      start, CPU s   a step, CPU s   held MB   peak MB")
    for count in sizes:
        told = subprocess.run(
            [
                sys.executable,
                __file__,
                "--one",
                str(count),
                *([] if looked_at is None else ["--looked-at", str(looked_at)]),
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        found = json.loads(told.strip().splitlines()[-1])
        print(
            f"{count:>9,}   {found['start_s']:12.2f}   {found['step_s']:13.3f}   {found['held_mb']:7.0f}   "
            f"{found['peak_mb']:7.0f}",
            flush=True,
        )


def pairs_table(count: int = 20_000) -> None:
    from mmrl.data.pairs import read_pairs

    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number in range(count):
                asked, *answers = (" ".join(rng.choices(WORDS, k=20)) for _ in range(3))
                record = {
                    "id": f"q{number}",
                    "prompt": asked,
                    "chosen": answers[0],
                    "rejected": f"{answers[1]} {number}",
                }
                file.write(json.dumps(record) + "\n")
        before, began = _rss_mb(), time.process_time()
        found = read_pairs(path)
        taken, held = time.process_time() - began, _rss_mb() - before
    each = f"{1e6 * taken / len(found):.0f} us of CPU time and {1e6 * held / len(found):,.0f} bytes each"
    print(f"\nPairs, all held in memory: {each}", flush=True)


# -------------------------------------------------------------------- curricula


def curriculum_table(sizes: list[int]) -> None:
    from mmrl.training.rollouts.curriculum import Curriculum

    print("\nA step of the curriculum (64 prompts drawn, their results recorded), CPU ms, median behind the first")
    print(f"{'order':22}" + "".join(f"{count:>12,}" for count in sizes))
    rng = random.Random(0)
    for name, options in ORDERS.items():
        cells = []
        for count in sizes:
            ids = [f"q{i}" for i in range(count)]
            made = Curriculum(ids, [rng.randrange(17) / 16 for _ in ids], **options)
            times = []
            for step in range(21):
                began = time.process_time()
                for i in made.order(step, 64, 0):
                    made.record(ids[i], rng.randrange(9) / 8)
                times.append(time.process_time() - began)
            cells.append(f"{1e3 * sorted(times[1:])[10]:12.2f}")
        print(f"{name:22}" + "".join(cells), flush=True)


# -------------------------------------------------------------------- what a run leaves


def _bytes_below(folder: Path) -> int:
    """As the disk has them: whole blocks, a file of several names once."""
    files = {(s.st_dev, s.st_ino): s.st_blocks * 512 for p in folder.rglob("*") if (s := p.lstat()) and p.is_file()}
    return sum(files.values())


def _group(number: int) -> Any:
    import torch

    from mmrl.types import Group, Prompt, Sample, Score, Trajectory, Turn

    prompt, samples = Prompt(f"q{number}", " ".join(WORDS * 3)), []
    for index in range(8):
        words = [f" {WORDS[k % len(WORDS)]}" for k in range(200)]
        acted = Trajectory(torch.full((200,), -1.2345), torch.ones(200, dtype=torch.bool))
        sample = Sample(prompt, index, "".join(words), acted, words=words, reward=0.5, advantage=0.1)
        sample.scores = {name: Score.of(0.5, found="12", wanted="13") for name in ("numeric.close", "format")}
        sample.turns = (Turn("user", prompt.text), Turn("assistant", sample.artifact, trained=True))
        samples.append(sample)
    return Group(prompt, number, samples)


def store_table(steps: int = 1000) -> None:
    from mmrl.config import ReportConfig
    from mmrl.reporting.samples import SampleStore

    options = ReportConfig()
    with tempfile.TemporaryDirectory() as folder:
        store = SampleStore(Path(folder))
        groups = [_group(number) for number in range(options.groups)]
        told, tens = [], steps * 10
        for step in range(1, tens + 1):
            if step % options.samples_every == 0 or step == 1:
                store.write(f"step_{step:06d}", groups)
            if step in (steps, tens):
                files = sum(1 for p in Path(folder).rglob("*") if p.is_file())
                told.append(f"{step:>6,} steps {_bytes_below(Path(folder)) / 1e6:8.1f} MB in {files:,} files")
    print("\nThe sample store at its defaults (4 groups of 8 texts of 200 tokens each tenth step)")
    print("\n".join(told), flush=True)


def report_table(steps: int = 10_000) -> None:
    from mmrl.reporting.metrics import MetricsWriter
    from mmrl.reporting.report import write_report

    rng = random.Random(0)
    names = ("reward/mean", "reward/std", "reward/numeric.close", "reward/format", "loss", "kl", "ratio/max_dev")
    names += ("clip/low", "clip/high", "entropy", "grad_norm", "lr", "group/zero_variance", "reward/invalid")
    names += ("time/step", "time/rollout", "time/reward", "time/update", "length/mean", "length/max", "memory/gpu_mb")
    with tempfile.TemporaryDirectory() as folder:
        with MetricsWriter(Path(folder) / "metrics.jsonl") as writer:
            for step in range(1, steps + 1):
                writer.write({"step": step, "stage": "grpo", **{name: rng.random() for name in names}})
        began = time.process_time()
        path = write_report(Path(folder))
        taken, size = time.process_time() - began, path.stat().st_size
    print(f"\nA report of {steps:,} steps of {len(names)} metrics: {taken:.1f} CPU s, {size / 1e6:.2f} MB", flush=True)


def checkpoint_table() -> None:
    import mmrl
    from mmrl.api import trainer

    print("\nA checkpoint over the bytes of its weights (a text model of 26 MB, AdamW)")
    cases: dict[str, dict[str, Any]] = {
        "full": {},
        "full, KL": {"algorithm": {"preset": "grpo", "kl_coef": 0.04}},
        "full, EMA": {"optim": {"ema": 0.9}},
    }
    for name, stage in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            records = Path(folder) / "records.jsonl"
            write_records(records, 100)
            made = config(Path(folder), records, 1, **stage)
            made["model"] = {
                "path": "built",
                "build": {"hidden": 256, "layers": 8, "heads": 4, "kv_heads": 2, "chat": False},
                "chat": "off",
                "sampling": {"max_tokens": 8},
            }
            trainer(mmrl.load_config(made), quiet=True).train()
            saved = (Path(folder) / "run" / "checkpoints" / "latest").resolve()
            weights = sum(p.stat().st_size for p in (saved / "policy").glob("*.safetensors"))
            print(f"{name:12} {_bytes_below(saved) / weights:6.2f} x {weights / 1e6:.1f} MB", flush=True)


def _rss_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--looked-at", type=int, help="data.looked_at of the runs over records; 0: all")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.one:
        print(json.dumps(one_size(options.one, options.looked_at)))
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}, one thread")
    tables = {
        "records": lambda: records_table(options.sizes, options.looked_at),
        "pairs": pairs_table,
        "curriculum": lambda: curriculum_table(options.sizes),
        "store": store_table,
        "report": report_table,
        "checkpoint": checkpoint_table,
    }
    for part in options.only:
        tables[part]()


if __name__ == "__main__":
    main()
