"""The stages of docs/own_stage.md train: one is pulled towards where it began, one has several roles."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

import mmrl
from mmrl.training.checkpoint import Checkpoints
from mmrl.training.run_folder import released

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = ROOT / "tests" / "training" / "answers.py"


def written(folder: Path, name: str) -> str:
    """The Python block of the page that begins with the name of its file, in that file."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own_stage.md").read_text(encoding="utf-8"), re.DOTALL)
    (code,) = (block for block in blocks if block.startswith(f"# {name}"))
    (folder / name).write_text(code, encoding="utf-8")
    return str(folder / name)


def train(folder: Path, name: str, stage: dict, **data: str) -> list[dict]:
    """Rows of metrics of a run of one stage on a toy modality."""
    config = {
        "name": name,
        "out": str(folder / "runs"),
        "modality": f"{ANSWERS}:Answers",
        "data": data,
        "device": "cpu",
        "stages": [stage],
    }
    with released(folder / "runs" / name):
        mmrl.train(config, quiet=True)
    rows = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row) for row in rows]


def test_the_stage_on_the_page_trains_and_is_held_where_it_began(tmp_path):
    file = written(tmp_path, "my_stage.py")
    lines = [{"prompt": "x" * k, "completion": "abc"} for k in (1, 2, 3)]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")

    def last_loss(strength: float) -> float:
        stage = {"kind": f"{file}:Anchored", "name": "own", "steps": 30, "strength": strength}
        stage |= {"batch": 3, "optim": {"lr": 0.1}}
        rows = train(tmp_path, f"run{strength}", stage, records=str(tmp_path / "records.jsonl"))
        return rows[-1]["loss"] - rows[0]["loss"]

    free, held = last_loss(0.0), last_loss(10.0)
    assert free < -1
    assert free < held - 0.5


def test_the_roles_on_the_page_train_each_at_its_pace(tmp_path):
    file = written(tmp_path, "my_roles.py")
    (tmp_path / "prompts.txt").write_text("x\nxx\n", encoding="utf-8")
    ema = {"follow": {"decay": 0.9, "rise": "average"}}
    stage = {"kind": f"{file}:Diverse", "name": "own", "steps": 3, "optim": {"lr": 0.1}, "ema": ema}
    assert len(train(tmp_path, "run", stage, prompts=str(tmp_path / "prompts.txt"))) == 3
    latest = tmp_path / "runs" / "run" / "checkpoints" / "latest"
    state = json.loads((latest / "state.json").read_text())["parts"]
    assert [state[f"role.{name}"]["seen"] for name in ("policy", "fake", "ema")] == [0, 0, 3]
    assert [state[f"role.{name}"]["learner"]["steps"] for name in ("policy", "fake")] == [3, 6]
    _, _, tensors = Checkpoints(tmp_path / "runs" / "run", 1).read()
    policy, fake, average = (tensors[f"role.{name}/param/table"] for name in ("policy", "fake", "ema"))
    assert not torch.equal(policy, fake) and not torch.equal(policy, average)
