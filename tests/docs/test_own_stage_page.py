"""The stage of docs/own_stage.md trains, pulled towards where it began."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mmrl
from mmrl.training.run_folder import released

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = ROOT / "tests" / "training" / "answers.py"


def test_the_stage_on_the_page_trains_and_is_held_where_it_began(tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "own_stage.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "my_stage.py").write_text(code[1], encoding="utf-8")
    lines = [{"prompt": "x" * k, "completion": "abc"} for k in (1, 2, 3)]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")

    def last_loss(strength: float) -> float:
        stage = {"kind": f"{tmp_path / 'my_stage.py'}:Anchored", "name": "own", "steps": 30, "strength": strength}
        config = {
            "name": f"run{strength}",
            "out": str(tmp_path / "runs"),
            "modality": f"{ANSWERS}:Answers",
            "data": {"records": str(tmp_path / "records.jsonl")},
            "device": "cpu",
            "stages": [{**stage, "batch": 3, "optim": {"lr": 0.1}}],
        }
        with released(tmp_path / "runs" / config["name"]):
            mmrl.train(config, quiet=True)
        rows = (tmp_path / "runs" / config["name"] / "metrics.jsonl").read_text().splitlines()
        return json.loads(rows[-1])["loss"] - json.loads(rows[0])["loss"]

    free, held = last_loss(0.0), last_loss(10.0)
    assert free < -1
    assert free < held - 0.5
