"""Configs of tiny runs, of one process and with weights that are divided over several, and how they are run."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save_file

import mmrl
from mmrl.training import optim

PROMPTS = ["one", "two", "three is", "four or so", "five", "six six six"]

# Rewards of a test's own: cheap, and the same on every machine.
REWARDS = """
import numpy as np

def odd(samples):
    ids = [s.actions.tensors["ids"] for s in samples]
    return [float(i[0] % 7) + 0.1 * len(i) for i in ids]

def numbered(samples):
    return [float((7 * s.index + len(s.prompt.text)) % 5) for s in samples]

def bright(samples):
    return [float(np.asarray(s.artifact, dtype=np.float64)[..., 0].mean()) / 255 for s in samples]
"""

# A large eps: Adam divides by the size of a gradient, and would blow up the rounding of a tiny one.
OPTIM = {"lr": 1e-2, "eps": 1e-3}
# Five updates of one rollout: behind an update, rounding could draw another token.
GRPO = {"kind": "grpo", "steps": 1, "groups": 5, "samples": 3, "epochs": 5, "micro_batch": 30, "optim": OPTIM}
SFT = {"kind": "sft", "steps": 2, "batch": 5, "micro_batch": 2, "optim": OPTIM}
SIZES = {"hidden": 16, "layers": 2, "heads": 2, "kv_heads": 1}
SD3 = {"build": {"layers": 2, "heads": 2, "head_dim": 16, "grid": 4}, "sampling": {"guidance": 3.0}}
LORA = {"train": "lora", "lora": {"rank": 2, "alpha": 4}}

# Several runs in one start of the processes: `python SCRIPT JOBS.json`, a list of `job`s.
TRAIN = (
    f"""
import json, os, shutil, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
"""
    + """
from divided import noting
import torch, mmrl, mmrl.training.reports
torch.set_num_threads(1)
mmrl.training.reports.write_report = lambda folder: folder  # most of the time of such a run
for config, resume, allow, fails, copy in json.loads(Path(sys.argv[1]).read_text()):
    folder = Path(config["out"]) / config["name"]
    if copy and os.environ.get("RANK", "0") == "0":  # the others wait for it where the run begins
        presence = shutil.ignore_patterns(".at_*")  # of the other process, which may be at its end
        shutil.copytree(folder, folder.with_name(copy), symlinks=True, ignore=presence)
    try:
        with noting(folder):
            mmrl.train(config, quiet=True, resume=resume, allow=allow)
    except Exception as error:
        if not fails:
            raise
        told = json.dumps(["FAILED", config["name"], os.environ["RANK"], type(error).__name__, str(error)])
        os.write(1, (os.linesep + told + os.linesep).encode())  # at once: the other process writes to the same place
"""
)


@contextmanager
def noting(folder: Path) -> Iterator[None]:
    """Inside, a run puts down the gradient of each update as each process's optimizer sees it."""
    before, rank, made = optim.build, os.environ.get("RANK", "0"), []

    def build(config: Any, parameters: dict[str, Any], shards: Any = None) -> Any:
        optimizer, learner = before(config, parameters, shards), len(made)
        made.append(0)

        def note(*_: Any) -> None:
            place = folder / "gradients" / f"{learner}_{made[learner]:03d}_{rank}.safetensors"
            place.parent.mkdir(parents=True, exist_ok=True)
            kind = {name: "rows" if hasattr(p, "rows") else "whole" for name, p in parameters.items()}
            graded = {f"{kind[k]}/{k}": p.grad.contiguous() for k, p in parameters.items() if p.grad is not None}
            save_file(graded, place)
            made[learner] += 1

        optimizer.register_step_pre_hook(note)
        return optimizer

    optim.build = build
    try:
        yield
    finally:
        optim.build = before


def merged(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in overrides.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        both[key] = merged(base[key], value) if nested else value
    return both


class Runs:
    """Configs of tiny runs in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
        (folder / "mine.py").write_text(REWARDS, encoding="utf-8")
        rows = [{"id": str(i), "prompt": p, "completion": p[::-1] * (1 + i % 3)} for i, p in enumerate(PROMPTS)]
        self.jsonl("records", rows)

    def jsonl(self, name: str, rows: list[dict[str, Any]]) -> str:
        path = self.folder / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
        return str(path)

    def _base(self, modality: str, reward: str, model: dict[str, Any], stages: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "out": str(self.folder / "runs"),
            "modality": modality,
            "device": "cpu",
            "threads": 1,
            "model": model,
            "data": {"prompts": str(self.folder / "prompts.txt")},
            "rewards": [{"name": f"{self.folder / 'mine.py'}:{reward}"}],
            "stages": stages,
        }

    def text(self, name: str, *stages: dict[str, Any], **model: Any) -> dict[str, Any]:
        built = {"kind": "qwen3", "context": 64, **SIZES, **model.pop("build", {})}
        model = {"path": "built", "build": built, "chat": "off", "sampling": {"max_tokens": 6}, **model}
        made = self._base("text", "odd", model, list(stages))
        if any((stage["kind"] == "sft" and "data_from" not in stage) or "expert" in stage for stage in stages):
            made["data"]["records"] = str(self.folder / "records.jsonl")
        return {"name": name, **made}

    def image(
        self, name: str, family: str, *stages: dict[str, Any], reward: str = "bright", **model: Any
    ) -> dict[str, Any]:
        """reward: one of REWARDS. What sees a picture sees it in 8 bits, and a rounding may turn one of them."""
        model = merged(
            {
                "path": "built",
                "family": family,
                "build": {"corpus": PROMPTS},
                "sampling": {"steps": 3, "size": 32},
                "evaluation": {"steps": 2},
            },
            model,
        )
        return {"name": name, **self._base("image", reward, model, list(stages))}

    def vision(self, name: str, *stages: dict[str, Any], kind: str = "qwen2_5_vl", **model: Any) -> dict[str, Any]:
        """Of six prompts two show a picture, which come to one process only."""
        rows: list[dict[str, Any]] = []
        for i, prompt in enumerate(PROMPTS):
            shown = {}
            if i in (1, 4):
                Image.fromarray(np.random.default_rng(i).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(
                    self.folder / f"{i}.png"
                )
                shown, prompt = {"images": [f"{i}.png"]}, f"<image>{prompt}"
            rows.append({"id": str(i), "prompt": prompt, **shown})
        build = {"kind": kind, "vision_hidden": 32, "vision_heads": 2, "patch": 8, **SIZES, "hidden": 32}
        model = {"path": "built", "build": build, "sampling": {"max_tokens": 6}, **model}
        made = self._base("vision", "odd", model, list(stages))
        made["data"]["prompts"] = self.jsonl("seen", rows)
        return {"name": name, **made}

    def audio(self, name: str, *stages: dict[str, Any], kind: str = "qwen2_audio", **model: Any) -> dict[str, Any]:
        """Of six prompts two play a sound."""
        import soundfile

        rows = []
        for i, prompt in enumerate(PROMPTS):
            heard = {}
            if i in (1, 4):
                tone = 0.3 * np.sin(2 * np.pi * (200 + 90 * i) * np.arange(8000) / 16_000)
                soundfile.write(self.folder / f"{i}.wav", tone, 16_000)
                heard, prompt = {"sounds": [f"{i}.wav"]}, f"<audio>{prompt}"
            rows.append({"id": str(i), "prompt": prompt, **heard})
        build = {"kind": kind, "audio_hidden": 16, "audio_layers": 1, "audio_heads": 2, "seconds": 1, **SIZES}
        model = {"path": "built", "build": build, "sampling": {"max_tokens": 6}, **model}
        made = self._base("audio", "odd", model, list(stages))
        made["data"]["prompts"] = self.jsonl("heard", rows)
        return {"name": name, **made}


def job(
    config: dict[str, Any], resume: bool = False, allow: Sequence[str] = (), fails: bool = False, copy: str = ""
) -> list[Any]:
    """A run of TRAIN. fails: whether it has to fail alike on all processes, which tell how. copy: the name of a run
    that the folder is copied to before."""
    return [config, resume, list(allow), fails, copy]


def failures(out: str) -> dict[str, dict[int, tuple[str, str]]]:
    """Name of a run -> process -> (kind of error, its message), of what TRAIN printed."""
    found: dict[str, dict[int, tuple[str, str]]] = {}
    for line in out.splitlines():
        if line.startswith('["FAILED"'):
            _, name, rank, kind, message = json.loads(line)
            found.setdefault(name, {})[int(rank)] = kind, message
    return found


def both(config: dict[str, Any], **sharding: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the run of one process, the same of two)."""
    divided = {"name": f"{config['name']}_divided", "sharding": {"shards": 2, **sharding}}
    return {**config, "name": f"{config['name']}_alone"}, {**config, **divided}


def one(config: dict[str, Any], resume: bool = False) -> None:
    """The run, in this process alone."""
    with warnings.catch_warnings(), noting(folder_of(config)):
        warnings.simplefilter("ignore")
        mmrl.train(config, quiet=True, resume=resume)


def folder_of(config: dict[str, Any]) -> Path:
    return Path(config["out"]) / config["name"]


def together(helpers: Any, folder: Path, jobs: list[list[Any]], count: int = 2, float64: bool = False) -> str:
    """Standard output of so many processes that do these (TRAIN)."""
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    (folder / "jobs.py").write_text(TRAIN, encoding="utf-8")
    process = helpers.processes(count, str(folder / "jobs.py"), str(folder / "jobs.json"), float64=float64)
    out, err = process.communicate(timeout=1800)
    assert process.returncode == 0, err[:3000] + err[-3000:]
    return str(out)
