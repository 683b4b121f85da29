"""What a stage's micro_batch is where a config says nothing: tokens of a dozen rows, or evaluations and records."""

from __future__ import annotations

import pytest

from mmrl.config import Config, load

RUN = {"name": "some", "rewards": [{"name": "text.length"}]}
TEXT = {**RUN, "modality": "text", "model": {"path": "built", "build": {}}}
IMAGE = {**RUN, "modality": "image", "model": {"path": "share://assets/image-tiny"}}
DATA = {"prompts": "p.jsonl", "records": "r.jsonl"}


@pytest.mark.parametrize(
    ("run", "stage", "wanted"),
    [
        (TEXT, {"kind": "grpo"}, 8192),
        (TEXT, {"kind": "preference", "pairs": "pairs.jsonl"}, 8192),
        (TEXT, {"kind": "sft"}, 64),
        (TEXT, {"kind": "grpo", "micro_batch": 64}, 64),
        (IMAGE, {"kind": "grpo"}, 64),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) and "kind" in value else None,
)
def test_it_is_as_the_modality_counts(tmp_path, run, stage, wanted):
    made = Config(**run, data=DATA, stages=[{**stage, "steps": 1}])
    assert made.stages[0].micro_batch == wanted
    (tmp_path / "config.yaml").write_text(made.dump())
    assert load(tmp_path / "config.yaml").stages[0].micro_batch == wanted


def test_a_stage_of_ones_own_keeps_its_default(tmp_path):
    """It may count records; nobody has said that it counts tokens."""
    (tmp_path / "own.py").write_text(
        "from mmrl.config import Stage\nfrom mmrl.training.stages.base import Stage as Base\n"
        "class Options(Stage):\n    micro_batch: int = 16\n"
        "class Mine(Base):\n    Options = Options\n"
    )
    made = Config(**TEXT, data=DATA, stages=[{"kind": f"{tmp_path / 'own.py'}:Mine", "steps": 1}])
    assert made.stages[0].micro_batch == 16
