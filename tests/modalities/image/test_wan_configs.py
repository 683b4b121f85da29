"""The shipped configs of films: a step of each stage on a tiny model, what is stored of it, and the report."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from mmrl import api
from mmrl.config import load
from mmrl.media import Clip
from mmrl.reporting.report import write_report
from mmrl.reporting.sample_index import list_tags
from mmrl.reporting.sample_records import read_step

BUILD = {
    "layers": 1,
    "heads": 2,
    "head_dim": 12,
    "text_width": 16,
    "vae_width": 4,
    "latent_channels": 4,
    "max_length": 12,
}
CUT = {"steps": 1, "groups": 2, "samples": 2, "batch": 2, "micro_batch": 18}
GREY = {"name": "frames.mean", "options": {"reward": "jpeg.incompressible", "count": 2}}
# Trained steps of a sample: int(20 x 0.99), and int(6 x 0.67).
ACTIONS = {"wan_t2v_1b": 19, "wan_tiny": 4}


def shrunk(name: str, tmp_path: Any) -> dict[str, Any]:
    values = load(f"image/{name}").model_dump(mode="json")
    values |= {"out": str(tmp_path / "run"), "threads": 1, "device": "cpu", "rewards": [GREY]}
    values |= {"eval": {"prompts": 2}, "report": {"samples_every": 1}}
    values["model"] |= {"path": "built", "build": BUILD, "dtype": "float32", "max_sequence_length": None}
    values["model"]["sampling"] |= {"size": 32, "frames": 5}
    values["model"]["evaluation"] |= {"steps": 2}
    for stage in values["stages"]:
        stage |= {key: value for key, value in CUT.items() if key in stage}
    return values


@pytest.mark.parametrize("name", ACTIONS)
def test_step_store_and_report_of_the_config_on_a_tiny_model(name, tmp_path):
    config = load(shrunk(name, tmp_path))
    summary = api.trainer(config, quiet=True).train()
    assert summary["steps"] == len(config.stages) and summary["actions"] == 4 * ACTIONS[name]
    tags = list_tags(config.run_dir)
    assert {"eval_before", "eval_after"} <= set(tags)
    groups, _ = read_step(config.run_dir, next(tag for tag in tags if tag.startswith("step_")))
    films = [sample.artifact for group in groups for sample in group.samples]
    assert all(isinstance(film, Clip) and np.asarray(film).shape == (5, 32, 32, 3) for film in films)
    page = write_report(config.run_dir).read_text()
    assert len(re.findall(r'<img src="data:image/png;base64,[^"]{100,}" alt="sample', page)) >= 4
