"""`mmrl plan --measure`: a step of every stage in a temporary folder and a process of its own, with its seconds and its
memory, and what they come to over a whole run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmrl.config import Config, load

# Only evaluations use these.
OF_EVALUATION = ("eval_prompts", "eval_where", "eval_prompts_count", "eval_prompts_options", "eval_split")
WAITED = ("rollout", "reward", "update")
CHILD = "from mmrl.training.measure import train_and_tell; train_and_tell()"


class MeasureError(RuntimeError):
    """The step that was to be measured failed; its reason in a line."""


def measured(config: Config, done: int = 0) -> Iterator[str]:
    """Lines about a step of every stage, and the whole run's time. done: steps that a resume does not take again.

    Raises MeasureError where the steps cannot be trained.
    """
    with tempfile.TemporaryDirectory(prefix="mmrl-plan-") as place:
        values = json.dumps(one_step_each(config, place))
        child = subprocess.run([sys.executable, "-c", CHILD], input=values, text=True, stdout=subprocess.PIPE)
        said = child.stdout.splitlines()
        found = json.loads(said[-1]) if said and said[-1].startswith("{") else {}
        if child.returncode or "error" in found:
            why = found.get("error") or (
                f"it was ended by signal {-child.returncode}" + (" (out of memory?)" if child.returncode == -9 else "")
                if child.returncode < 0
                else f"it ended with status {child.returncode}"
            )
            raise MeasureError(f"a step could not be measured: {why}")
        rows = [json.loads(line) for line in (Path(place) / config.name / "metrics.jsonl").read_text().splitlines()]
    yield from told(config, rows, done)
    gpu = f", {found['gpu'] / 1e9:.2f} GB of a GPU" if found["gpu"] else ""
    yield f"measured: {found['host'] / 1e6:.0f} MB of main memory at most{gpu}"


def one_step_each(config: Config, out: str) -> dict[str, Any]:
    """The config of a run below `out` with one step a stage, one checkpoint a stage and no evaluation."""
    values: dict[str, Any] = config.model_dump(mode="json")
    for stage in values["stages"]:
        stage["steps"] = min(1, stage["steps"])
    values["data"] = {key: value for key, value in values["data"].items() if key not in OF_EVALUATION}
    values["report"].pop("eval_prompts")
    values.pop("eval")
    return values | {"out": out, "trackers": [], "checkpoint": {"every": 0}}


def told(config: Config, rows: Sequence[Mapping[str, Any]], done: int = 0) -> Iterator[str]:
    """Lines about the steps' rows of metrics, and the time of a run whose steps are all like them."""
    seconds = {row["stage"]: float(row["time/step"]) for row in rows}
    left = 0.0
    for stage in config.stages:
        steps, done = max(0, stage.steps - done), max(0, done - stage.steps)
        if stage.name not in seconds:
            continue
        row = next(row for row in rows if row["stage"] == stage.name)
        parts = [f"{what} {row[f'time/{what}']:.1f}" for what in WAITED if f"time/{what}" in row]
        among = f" ({', '.join(parts)})" if parts else ""
        yield f"measured: stage {stage.name}: {seconds[stage.name]:.1f} s{among} for its first step; {steps} to go"
        left += steps * seconds[stage.name]
    yield f"time: about {timedelta(seconds=round(left))} (h:mm:ss) for what is left, evaluations not counted"


def train_and_tell() -> None:
    """Train the config that stands in JSON on the standard input; the last line printed is what it took, or why not."""
    import torch

    from mmrl.reporting.summary import own_peak_rss_mb
    from mmrl.training.assemble import assemble
    from mmrl.training.loop import Loop

    try:
        Loop(assemble(load(json.loads(sys.stdin.read()))), quiet=True).train()
    except Exception as error:
        print(json.dumps({"error": " ".join(str(error).split()) or type(error).__name__}))
        return
    gpu = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    print(json.dumps({"host": own_peak_rss_mb() * 2**20, "gpu": gpu}))
