"""Whole runs that take a second: an untrained pipeline of a few thousand numbers on 8-pixel pictures."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from divided import merged
from small_runs import content, grpo, outcome, train  # noqa: F401  for the fixture `helpers`

ROOT = Path(__file__).parents[2]
PROMPTS = ["a red dot", "a blue dot", "two green dots", "one red dot", "a green dot", "two blue dots"]

# A reward of a test's own: cheap, different for every picture, and the same on every machine.
REWARD = """
import numpy as np

def brightness(samples):
    return [float(np.asarray(s.artifact, dtype=np.float64).mean()) / 255 for s in samples]

def redness(samples):
    pictures = [np.asarray(s.artifact, dtype=np.float64) for s in samples]
    return [float(p[..., 0].mean() - p[..., 1:].mean()) / 255 for p in pictures]
"""

RECORDS = """
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}

def squares(index):
    name = list(COLOURS)[index % 3]
    image = Image.new("RGB", (8, 8), (10 * (index % 7), 90, 120))
    image.paste(COLOURS[name], (index % 4, index % 3, 4 + index % 4, 5 + index % 3))
    return {"id": str(index), "prompt": f"a {name} dot", "image": image}
"""


@pytest.fixture(autouse=True)
def no_report(monkeypatch, request):
    """Runs of a test leave no report.html unless it is marked `report`: of a run of milliseconds it is 95 %."""
    if request.node.get_closest_marker("report") is None:
        monkeypatch.setattr("mmrl.training.reports.write_report", lambda folder: folder)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """tiny(**overrides) -> a config whose run takes a second; mappings in overrides are merged into its own."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    (tmp_path / "bright.py").write_text(REWARD, encoding="utf-8")
    (tmp_path / "squares.py").write_text(RECORDS, encoding="utf-8")

    def make(**overrides: Any) -> dict[str, Any]:
        base = {
            "name": "run",
            "modality": "image",
            "out": str(tmp_path / "runs"),
            "device": "cpu",
            "threads": 1,
            "model": {
                "path": "built",
                "family": "sd3",
                "build": {
                    "layers": 1,
                    "heads": 2,
                    "head_dim": 16,
                    "text_width": 16,
                    "latent_channels": 4,
                    "vae_widths": [8, 8],
                    "grid": 4,
                    "max_length": 32,
                    "corpus": PROMPTS,
                },
                "sampling": {"steps": 3, "size": 8},
                "evaluation": {"steps": 2},
            },
            "data": {
                "prompts": str(tmp_path / "prompts.txt"),
                "records": f"{tmp_path / 'squares.py'}:squares",
                "records_count": 16,
            },
            "rewards": [{"name": f"{tmp_path / 'bright.py'}:brightness"}],
            "stages": [grpo()],
            "report": {"samples_every": 1, "groups": 8},
        }
        both = merged(base, overrides)
        if ".py:" not in (both["data"]["records"] or ""):
            both["data"].pop("records_count")
        return both

    return make


def sft(**options: Any) -> dict[str, Any]:
    """A stage of 2 steps of 3 micro-batches."""
    return merged({"kind": "sft", "steps": 2, "batch": 6, "micro_batch": 2, "optim": {"lr": 1e-3}}, options)


def command(*words: str, **options: Any) -> subprocess.Popen:
    """`python -m mmrl ...` in a process of its own, with one thread and this checkout. A crash says where it was."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONFAULTHANDLER": "1"}
    return subprocess.Popen(
        [sys.executable, *words], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def processes(count: int, *words: str, float64: bool = False) -> subprocess.Popen:
    """A script and its arguments, in so many processes over gloo, forked from one (forked.py)."""
    return command(str(Path(__file__).with_name("forked.py")), str(count), *["float64"] * float64, *words)


def two_processes(*words: str) -> subprocess.Popen:
    return processes(2, *words)


def torchrun(*words: str) -> subprocess.Popen:
    """The same, as `torchrun` starts them (`accelerate launch --cpu` starts more with MPI only)."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1"]
    return command(*launch, "--master_port", str(port), *words)


def written(config: dict[str, Any], folder: Path) -> Path:
    """The config as a YAML file."""
    path = folder / f"{config['name']}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def helpers():
    """The functions above, for tests in other files."""
    import types

    names = (grpo, sft, merged, outcome, train, command, processes, two_processes, torchrun, written)
    return types.SimpleNamespace(**{f.__name__: f for f in names}, root=ROOT, prompts=PROMPTS)
