"""A short stage, a training without its progress, and what a finished run has left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from divided import merged

import mmrl


def grpo(**options: Any) -> dict[str, Any]:
    """A stage of 2 steps, each with 2 updates of 2 micro-batches."""
    base = {
        "kind": "grpo",
        "steps": 2,
        "groups": 4,
        "samples": 4,
        "updates": 2,
        "micro_batch": 12,
        "optim": {"lr": 1e-3},
        "algorithm": {"preset": "flow_grpo"},
    }
    return merged(base, options)


def outcome(config: dict[str, Any]) -> dict[str, Any]:
    """What a finished run leaves: final trainer state and policy as bytes, and metrics without their times."""
    run = Path(config["out"]) / config["name"]
    latest = run / "checkpoints" / "latest"
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return {
        "trainer": (latest / "trainer.safetensors").read_bytes(),
        "policy": {str(p.relative_to(latest)): content(p) for p in sorted(latest.rglob("policy/**/*.safetensors"))},
        "rows": rows,
        "counts": {key: summary[key] for key in ("steps", "samples", "actions")},
    }


def content(path: Path) -> tuple[dict[str, Any], bytes]:
    """(header, data) of a safetensors file: its format leaves the order of the metadata's keys open."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def train(config: dict[str, Any], **options: Any) -> dict[str, Any]:
    """mmrl.train without progress; the folder is free again afterwards, as when a process ends."""
    from mmrl.training.run_folder import released

    with released(Path(config["out"]) / config["name"]):
        return mmrl.train(config, quiet=True, **options)
