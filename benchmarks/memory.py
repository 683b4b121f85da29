"""The memory that `mmrl plan` estimates against the peak RSS of a training, for a list of settings, on a CPU.

Each side runs in a process of its own: `--estimate FILE` prints what a plan comes to, the training is `mmrl train`.
Models are untrained and built from numbers, large enough to weigh beside the libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

BAR = 0.2  # of the measured peak

TEXT = {
    "path": "built",
    "build": {"hidden": 512, "layers": 8, "heads": 8, "kv_heads": 4},
    "sampling": {"max_tokens": 48},
}
VISION = {
    "path": "built",
    "build": {"kind": "qwen2_5_vl", "hidden": 256, "layers": 6, "heads": 4, "kv_heads": 2},
    "sampling": {"max_tokens": 32},
}
IMAGE = {
    "path": "built",
    "family": "sd3",
    "build": {"layers": 8, "heads": 8, "head_dim": 48, "corpus": ["a red dot"], "grid": 16},
    "sampling": {"steps": 4, "size": 128, "noise_level": 0.7},
    "evaluation": {"steps": 2},
    "rollout_batch": 16,
}
KL = {"algorithm": {"preset": "grpo", "kl_coef": 0.04}}
LORA = {"train": "lora", "lora": {"rank": 16, "alpha": 16}}
CHECKPOINTING = {"gradient_checkpointing": True}

# name -> (modality, changes of the model, changes of the stage)
SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "text, full": ("text", {}, {}),
    "text, full, SPAM": ("text", {}, {"optim": {"name": "spam"}}),
    "text, full, reference and average": ("text", {}, {**KL, "optim": {"ema": 0.9}}),
    "text, full, checkpointing": ("text", CHECKPOINTING, {}),
    "text, full, bfloat16": ("text", {"dtype": "bfloat16"}, {}),
    "text, LoRA": ("text", LORA, {}),
    "text, LoRA, bfloat16": ("text", {**LORA, "dtype": "bfloat16"}, {}),
    "text, full, small micro-batches": ("text", {}, {"micro_batch": 256}),
    "vision, full": ("vision", {}, {}),
    "vision, full, tower trained": ("vision", {"vision": "trained"}, {}),
    "vision, LoRA, bfloat16": ("vision", {**LORA, "dtype": "bfloat16"}, {}),
    "image, full": ("image", {}, {}),
    "image, full, reference and average": ("image", {}, {**KL, "optim": {"ema": 0.9}}),
    "image, full, checkpointing": ("image", CHECKPOINTING, {}),
    "image, LoRA, bfloat16": ("image", {**LORA, "dtype": "bfloat16"}, {}),
}

REWARD = """
def noise(samples):
    return [hash((s.prompt.id, s.index)) % 97 / 97 for s in samples]
"""


def config_of(folder: Path, name: str) -> Path:
    """The config of a setting, with all that it needs, in a folder."""
    modality, model, stage = SETTINGS[name]
    (folder / "noise.py").write_text(REWARD, encoding="utf-8")
    words = "a red dot above a blue one and " * 6
    records = [{"id": str(i), "prompt": f"{i} {words}"} for i in range(8)]
    if modality == "vision":
        from PIL import Image

        Image.effect_noise((112, 112), 50).convert("RGB").save(folder / "noise.png")
        records = [{**record, "images": ["noise.png"]} for record in records]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "prompts.jsonl").write_text(lines, encoding="utf-8")
    base = {"text": TEXT, "vision": VISION, "image": IMAGE}[modality]
    budget = 12 if modality == "image" else 1024
    grpo = {"kind": "grpo", "steps": 2, "groups": 2, "samples": 4, "micro_batch": budget, "optim": {"lr": 1e-4}}
    config = {
        "name": "run",
        "modality": modality,
        "out": str(folder),
        "device": "cpu",
        "threads": 1,
        "model": {**base, **model},
        "data": {"prompts": str(folder / "prompts.jsonl")},
        "rewards": [{"name": f"{folder / 'noise.py'}:noise"}],
        "stages": [_merged(grpo, stage)],
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    both = {k: {**v, **changes.get(k, {})} if isinstance(v, dict) else changes.get(k, v) for k, v in base.items()}
    return {**changes, **both}


def estimate(path: Path) -> None:
    """Print the bytes that a plan of the config comes to."""
    from mmrl.config import load
    from mmrl.training.dry_run import estimates

    ((_, found),) = estimates(load(path))
    print(json.dumps({"peak": found.peak, "phase": found.phase, "parts": found.parts}))


def measure(path: Path) -> float:
    """Peak RSS in bytes of a training of the config."""
    command = [sys.executable, "-m", "mmrl", "train", str(path), "--quiet"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--estimate", type=Path, help="Only print the estimate for this config.")
    parser.add_argument("--only", default="", help="Settings whose name has these letters.")
    arguments = parser.parse_args()
    if arguments.estimate:
        return estimate(arguments.estimate)
    print(f"{platform.machine()}, Python {platform.python_version()}; MB, the estimate over the measured peak")
    worst = 0.0
    for name in (name for name in SETTINGS if arguments.only in name):
        with tempfile.TemporaryDirectory() as folder:
            path = config_of(Path(folder), name)
            command = [sys.executable, __file__, "--estimate", str(path)]
            told = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            measured = measure(path)
        ratio = told["peak"] / measured
        worst = max(worst, abs(ratio - 1))
        print(
            f"{name:36} {told['peak'] / 1e6:7.0f} {measured / 1e6:7.0f} {ratio:6.2f}  {told['phase']}: {told['parts']}"
        )
        sys.stdout.flush()
    print(f"farthest off: {worst:.0%} (bar {BAR:.0%})")
    if worst > BAR:
        sys.exit(1)
    return None


if __name__ == "__main__":
    main()
