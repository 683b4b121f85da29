"""What `mmrl plan --simulate` would say of this machine, against what steps took on it: one process, and two over gloo.

The numbers of the machine (operations a second, bytes a second of memory and of gloo, what a forward takes at least)
are fitted to some runs; the steps of the other runs, of other sizes, batches and numbers of processes, are predicted
with them, by the functions that simulate clusters. Seconds are CPU seconds of a process, one thread each, so that other
work on the machine counts little; waiting does not count at all.

    python benchmarks/simulation.py              all runs: a few minutes on a quiet machine
    python benchmarks/simulation.py --keep F     the same, with what is measured in a file F, read where it is there
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = 3  # the first warms up
PARTS = ("sampling", "update")
WORDS = (
    "a red dot", "two blue squares", "green and white stripes", "one yellow box", "six dots", "a line", "no box", "x",
)  # fmt: skip
REWARD = """
def noise(samples):
    return [hash((s.prompt.id, s.index)) % 97 / 97 for s in samples]
"""


@dataclass(frozen=True)
class Run:
    """width, layers: of the model. groups x samples: of a step. length: tokens of an answer, or pixels of a picture's
    side. world, shards: processes. fit: whether the machine's numbers are fitted to it."""

    image: bool
    width: int
    layers: int
    groups: int = 2
    length: int = 32
    world: int = 1
    shards: int = 1
    fit: bool = False

    @property
    def name(self) -> str:
        kind, unit = ("image", "px") if self.image else ("text", "tokens")
        way = "1 process" if self.world == 1 else f"2 processes, {'shards' if self.shards > 1 else 'whole copies'}"
        return f"{kind} {self.width} x {self.layers}, {self.groups} x 4, {self.length} {unit}, {way}"


RUNS = (
    Run(False, 256, 6, fit=True),
    Run(False, 512, 8, fit=True),
    Run(True, 256, 4, fit=True),
    Run(False, 384, 8, world=2, fit=True),
    Run(False, 256, 6, world=2, shards=2, fit=True),
    Run(False, 384, 8, groups=4),
    Run(False, 640, 8, length=48),
    Run(False, 1024, 8),
    Run(True, 384, 6),
    Run(True, 256, 4, groups=4),
    Run(False, 512, 8, world=2),
    Run(False, 384, 8, groups=4, world=2, shards=2),
    Run(False, 512, 8, world=2, shards=2),
    Run(True, 256, 4, world=2),
    Run(True, 384, 6, world=2, shards=2),
)


def config(run: Run, folder: Path) -> dict[str, Any]:
    (folder / "prompts.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (folder / "noise.py").write_text(REWARD, encoding="utf-8")
    if run.image:
        size = {"layers": run.layers, "heads": run.width // 64, "head_dim": 64, "grid": 32, "text_width": 64}
        size |= {"latent_channels": 4, "vae_widths": [8, 8], "max_length": 16, "corpus": list(WORDS)}
        model = {"family": "sd3", "sampling": {"steps": 4, "size": run.length}, "evaluation": {"steps": 2}}
    else:
        size = {"hidden": run.width, "layers": run.layers, "heads": run.width // 64, "kv_heads": run.width // 128}
        size |= {"chat": False}
        model = {"chat": "off", "sampling": {"max_tokens": run.length}}
    return {
        "name": "run",
        "out": str(folder),
        "modality": "image" if run.image else "text",
        "device": "cpu",
        "threads": 1,
        "timeout": 600,
        "model": {"path": "built", "build": size, **model},
        "data": {"prompts": str(folder / "prompts.txt")},
        "rewards": [{"name": f"{folder / 'noise.py'}:noise"}],
        "stages": [{"kind": "grpo", "steps": STEPS, "groups": run.groups, "samples": 4, "micro_batch": 100_000}],
        "checkpoint": {"every": 0},
        **({"sharding": {"shards": run.shards}} if run.shards > 1 else {}),
    }


# -------------------------------------------------------------------- measured


def one(run: Run, folder: Path) -> dict[str, float]:
    """CPU seconds of this process in a step, by PARTS: the least of the steps behind the first. `optimizer` is the part
    of the update behind the last micro-batch, where one process alone is asked there."""
    import mmrl
    from mmrl.api import trainer

    moments: list[tuple[str, float]] = []

    def at(place: str) -> bool:
        moments.append((place, time.process_time()))
        return False

    summary = trainer(mmrl.load_config(config(run, folder)), should_stop=at, quiet=True).train()
    steps: list[dict[str, float]] = []
    before: float | None = None
    part = {}
    for place, moment in moments:
        name = {"rollout": "sampling", "micro": "gradient", "update": "optimizer", "step": "beside"}.get(place)
        if name is None:
            continue
        if before is not None:
            part[name] = part.get(name, 0.0) + moment - before
        before = moment
        if place == "step":
            steps.append(part)
            part = {}
    for step in steps:
        step["update"] = step.pop("gradient", 0.0) + step["optimizer"]
    found = {name: min(step[name] for step in steps[1:]) for name in (*PARTS, "optimizer")}
    return found | {"length": summary["actions"] / summary["samples"]}


def measured(run: Run) -> dict[str, float]:
    """Of the process that took most of each part."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(run.world)}
        free.close()
        told = json.dumps(dataclasses.asdict(run))
        asked = [sys.executable, __file__, "--one", told, "--folder", folder]
        started = []
        for rank in range(run.world):
            own = ranks | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if run.world > 1 else {}
            started.append(subprocess.Popen(asked, stdout=subprocess.PIPE, text=True, env={**os.environ, **own}))
        said = [process.communicate()[0] for process in started]
        if any(process.returncode for process in started):
            raise SystemExit(f"{run.name}: a process failed")
    found = [json.loads(text.strip().splitlines()[-1]) for text in said]
    return {name: max(one[name] for one in found) for name in found[0]}


# -------------------------------------------------------------------- predicted


def works(runs: Sequence[Run]) -> list[Any]:
    """What the steps of runs compute and send, counted on their shapes."""
    import mmrl
    from mmrl.training.dry_run import made_stages
    from mmrl.training.estimate.work import work_of

    found = []
    for run in runs:
        with tempfile.TemporaryDirectory() as folder:
            [(stage, prompts)] = made_stages(mmrl.load_config(config(dataclasses.replace(run, shards=1), Path(folder))))
            found.append(work_of(stage, prompts))
    return found


# What is fitted, and where the search begins.
NUMBERS = {"update": 3e10, "rollout": 3e10, "bandwidth": 5e9, "forward": 2e-3, "link": 1e9, "latency": 1e-4}


def machine(numbers: Mapping[str, float], length: float) -> Any:
    """length: the mean of an answer, over the longest."""
    from mmrl.training.simulation.hardware import Hardware

    top = max(numbers["update"], numbers["rollout"])
    return Hardware(
        flops=top,
        update_share=numbers["update"] / top,
        rollout_share=numbers["rollout"] / top,
        memory_bandwidth=numbers["bandwidth"],
        decode_share=1.0,
        forward=numbers["forward"],
        link=numbers["link"],
        network=numbers["link"],
        link_latency=numbers["latency"],
        network_latency=numbers["latency"],
        reached=1.0,
        overlap=0.0,
        step=0.0,
        length=min(1.0, length),
        spread=0.0,
    )


def predicted(run: Run, work: Any, numbers: Mapping[str, float], length: float) -> dict[str, float]:
    from mmrl.training.simulation.step import seconds
    from mmrl.training.simulation.work import Layout

    hard = machine(numbers, 1.0 if run.image else length / run.length)
    took = seconds(work, Layout(run.world, run.shards), hard)
    return {
        "sampling": took["sampling"] + took["longest"] + took["whole"],
        "update": took["update"] + took["gathering"] + took["optimizer"],
        "optimizer": took["optimizer"],
    }


def fitted(runs: Sequence[Run], known: Sequence[Any], took: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The numbers with which the logarithms of predicted and measured parts differ least."""
    import numpy as np
    from scipy.optimize import least_squares

    chosen = [i for i, run in enumerate(runs) if run.fit]

    def off(point: Any) -> Any:
        numbers = dict(zip(NUMBERS, np.exp(point)))
        gaps = []
        for i in chosen:
            said = predicted(runs[i], known[i], numbers, took[i]["length"])
            parts = (*PARTS, "optimizer") if runs[i].world == 1 else PARTS
            gaps += [np.log(said[part] / took[i][part]) for part in parts]
        return np.array(gaps)

    best = least_squares(off, np.log(list(NUMBERS.values())), loss="soft_l1", diff_step=1e-3)
    return dict(zip(NUMBERS, np.exp(best.x).tolist()))


def table(runs: Sequence[Run], took: Sequence[Mapping[str, float]], said: Sequence[Mapping[str, float]]) -> None:
    print(f"{'':58} | {' | '.join(f'{part:>13}' for part in (*PARTS, 'step'))} |   off")
    off: dict[str, list[float]] = {part: [] for part in (*PARTS, "step")}
    for run, one, other in zip(runs, took, said, strict=True):
        real, ours = ({**row, "step": sum(row[part] for part in PARTS)} for row in (one, other))
        cells = [f"{ours[part]:5.2f} / {real[part]:5.2f}" for part in off]
        gaps = {part: ours[part] / real[part] - 1 for part in off}
        print(f"{run.name:58} | {' | '.join(cells)} | {gaps['step']:+5.0%}{' (fitted)' if run.fit else ''}")
        if not run.fit:
            off = {part: [*off[part], abs(gaps[part])] for part in off}
    for part, gaps_of in off.items():
        print(f"predicted {part}: off by {sum(gaps_of) / len(gaps_of):.0%} in the mean, {max(gaps_of):.0%} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="a file of what is measured, read where it is there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("PYTHONHASHSEED", "0")
    import torch

    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(one(Run(**json.loads(options.one)), options.folder)))
        return
    took: dict[str, dict[str, float]] = {}
    if options.keep and options.keep.exists():
        took = json.loads(options.keep.read_text())
    for run in RUNS:
        if run.name not in took:
            took[run.name] = measured(run) | {"load": os.getloadavg()[0]}
            print(f"{run.name}: {took[run.name]}", file=sys.stderr, flush=True)
            if options.keep:
                options.keep.write_text(json.dumps(took, indent=1))
    rows, known = [took[run.name] for run in RUNS], works(RUNS)
    numbers = fitted(RUNS, known, rows)
    loads = [row["load"] for row in rows]
    made = f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{made}, one thread a process, load {min(loads):.0f} to {max(loads):.0f}")
    print("fitted: " + ", ".join(f"{name} {value:.3g}" for name, value in numbers.items()))
    print("CPU seconds of a step, predicted / measured")
    table(RUNS, rows, [predicted(run, w, numbers, row["length"]) for run, w, row in zip(RUNS, known, rows)])


if __name__ == "__main__":
    main()
