"""Python objects as data and rewards in two real processes: each holds its own, and the numbers are those of one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import saved
import torch

# What a person writes who starts `accelerate launch train.py`: no file of data or rewards anywhere.
JOB = '''
import functools
import sys

import torch

import mmrl

ROWS = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(6)]


def drawn():
    """Rows of a function that generates them."""
    yield from ROWS[:3]


def taught(index, add):
    """A function of the index."""
    return {"prompt": f"{index}+{add}=", "completion": str(index + add)}


def letters(samples):
    """Every group has something to say."""
    return [sum(map(ord, sample.artifact)) % 97 / 97 for sample in samples]


def lengths(samples, most):
    return [min(len(sample.artifact), most) / most for sample in samples]


def run(name, out):
    torch.set_num_threads(1)
    optim = {"lr": 1e-2, "eps": 1e-3}  # a large eps: Adam would blow up the rounding of a tiny gradient
    return mmrl.train(
        {
            "name": name,
            "modality": "text",
            "out": out,
            "device": "cpu",
            "threads": 1,
            "model": {
                "path": "built",
                "build": {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1},
                "sampling": {"max_tokens": 6},
            },
            "data": {
                "prompts": ROWS,
                "eval_prompts": drawn,
                "records": taught,
                "records_count": 8,
                "options": {"add": 3},
            },
            "rewards": [letters, {"name": functools.partial(lengths, most=6), "alias": "lengths", "weight": 0.5}],
            "stages": [
                {"kind": "sft", "steps": 1, "batch": 4, "micro_batch": 2, "optim": optim},
                {"kind": "grpo", "steps": 2, "groups": 4, "samples": 4, "updates": 2, "optim": optim},
            ],
            "report": {"samples_every": 0},
        },
        quiet=True,
    )


if __name__ == "__main__":
    run("two", sys.argv[1])
'''


@pytest.mark.slow
def test_objects_of_python_train_in_two_processes_as_in_one(helpers, tmp_path):
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")
    process = helpers.two_processes(str(tmp_path / "job.py"), str(tmp_path))
    spec = importlib.util.spec_from_file_location("job", tmp_path / "job.py")
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    job.run("one", str(tmp_path))
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-4000:]

    weights, rows, scores = zip(*(left_by(tmp_path / name) for name in ("one", "two")))
    assert weights[0].keys() == weights[1].keys() and len(rows[0]) == len(rows[1]) == 3
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=2e-5, msg=name)
    for one, two in zip(*rows):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-4)
    assert scores[1] == pytest.approx(scores[0], rel=1e-3, abs=1e-4)
    assert {"eval/letters", "eval/lengths"} <= set(scores[0]) and rows[0][-1]["grad_norm"] > 0


def left_by(run: Path):
    """(weights, rows of metrics without times, scores of the end) of a run."""
    state = saved.tensors(run / "checkpoints/latest")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]
    kept = [{k: v for k, v in row.items() if isinstance(v, int | float)} for row in rows]
    scores = json.loads((run / "summary.json").read_text())["eval"]["after"]
    return {k: v for k, v in state.items() if "/param/" in k}, kept, scores
