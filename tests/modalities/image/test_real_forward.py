"""Shipped configs of large models that train no action of the sampler: a step of each on a tiny pipeline."""

from __future__ import annotations

import pytest
from hub_files import write

from mmrl import api
from mmrl.config import load

CUT = {"steps": 1, "groups": 2, "samples": 2, "batch": 2, "micro_batch": 4, "rollout_chunk": None}
PAIRS = "share://datasets/judged_pictures/judged_pictures.py:pair"


@pytest.mark.parametrize("name", ["tdm_r1_sd35", "sd35_medium_dpo"])
def test_a_step_of_the_config_moves_every_role(name, tmp_path):
    values = load(f"image/{name}").model_dump(mode="json")
    values |= {"out": str(tmp_path / "run"), "threads": 1, "device": "cpu", "eval": {}, "report": {}}
    path = str(write("sd35", tmp_path / "model", layers=1))
    values["model"] |= {"path": path, "dtype": "float32", "max_sequence_length": 12}
    values["model"]["sampling"] |= {"size": 48}
    values["data"] |= {"eval_prompts": None, "eval_where": {}}
    [stage] = values["stages"]
    stage |= {key: value for key, value in CUT.items() if key in stage}
    if "pairs" in stage:
        stage["pairs"] = None
        values["data"] |= {"prompts": PAIRS, "prompts_count": 4}
        values["rewards"] = []
        values.pop("eval"), values.pop("report")
    else:
        values["rewards"] = [{"name": "jpeg.incompressible"}]
    trainer = api.trainer(load(values), quiet=True)
    before = {key: value.detach().clone() for key, value in trainer.adapter.trainable_parameters().items()}
    assert trainer.train()["steps"] == 1
    for name, learner in trainer.stage.learners.items():
        moved = [key for key, value in learner.parameters.items() if not before[key].equal(value)]
        assert moved and all("lora_" in key for key in moved), name
