"""Every shipped config trains: a step of each of its stages on a tiny pipeline of its model's family.

The tiny twin takes the place of `model.path`, a reward that needs no model that of the rewards; sizes and counts are
cut down, and everything else is the config's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hub_files import write

from mmrl import api
from mmrl.config import load
from mmrl.modalities.image.families import family_class
from mmrl.share import share
from mmrl.training.plan import plan_text

ALL = sorted(p.stem for p in share("configs", "image").glob("*.yaml") if not p.stem.startswith("wan_"))
# One of each of today's families in the default suite, where the older ones take steps of the tiny models.
QUICK = ("flux_kontext", "flux2_klein", "qwen_image", "qwen_image_edit_plus", "sana", "z_image")
# Trained denoising steps of a sample, by hand from the papers' numbers: int(10 x 0.99), int(6 x 0.99),
# int(11 x 0.6), int(24 x 0.6), the windows, int(50 x 0.99), int(49 x 0.2), one of three.
ACTIONS = {
    "sd35_medium_geneval": 9,
    "sd35_medium_ocr": 9,
    "sd35_medium_fast": 3,
    "flux_dev_pickscore": 5,
    "flux_dev_mixgrpo": 4,
    "flux_dev_dance": 6,
    "flux_dev_pref_grpo": 14,
    "flux_dev_paco": 1,
    "flux_kontext_paco": 1,
    "sd15_ddpo_jpeg": 49,
    "sdxl_ddpo": 9,
    "qwen_image": 2,
    "qwen_image_edit_plus": 1,
    "qwen_image_21": 1,
    "z_image": 1,
    "z_image_turbo": 1,
    "flux2_klein": 1,
    "flux2_dev": 1,
    "flux_kontext": 1,
    "sana": 3,
}
# model.path of a config -> the files that its model has on the hub, where they are known here.
HUB = {
    "stabilityai/stable-diffusion-3.5-medium": "sd35",
    "black-forest-labs/FLUX.1-dev": "flux_dev",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
}
# Options of the builder; a family that is left out is as tiny as can be.
BUILD = {"sd3": {"layers": 1, "heads": 2, "head_dim": 16, "grid": 8}}
PAIRS = "share://datasets/judged_pictures/judged_pictures.py:pair"
SIDE, SOURCE = 64, 64 * 64  # pixels: of a picture a side, and the area of one that a prompt shows
CUT = {"steps": 1, "groups": 2, "samples": 2, "batch": 2, "micro_batch": 18}


def twin(model: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The `model:` section with a tiny pipeline in the place of its own."""
    if model["path"] in HUB:
        path = write(HUB[model["path"]], folder, layers=1)
        # The tiny tokenizers stop at 12.
        return model | {"path": str(path), "max_sequence_length": 12 if model["max_sequence_length"] else None}
    family = "sd3" if model["family"] == "auto" else model["family"]
    shows = family_class(family).pictures[1] > 0
    return model | {
        "path": "built",
        "revision": None,
        "family": family,
        "build": BUILD.get(family, {}),
        "max_sequence_length": None,
        "source_pixels": SOURCE if shows else None,
    }


def shrunk(name: str, tmp_path: Path) -> dict[str, Any]:
    """The values of a config whose run takes a second."""
    values = load(f"image/{name}").model_dump(mode="json")
    values |= {"out": str(tmp_path / "run"), "threads": 1, "device": "cpu", "eval": {}, "report": {}}
    if values["rewards"]:
        values["rewards"] = [{"name": "jpeg.incompressible"}]
    values["data"] |= {"eval_prompts": None, "eval_where": {}}
    # The tiny network's latents are some hundred numbers instead of 65 thousand: float32 keeps the ratio exact.
    values["model"] = twin(values["model"], tmp_path / "model") | {"dtype": "float32"}
    values["model"]["sampling"] |= {"size": SIDE}
    values["model"]["evaluation"] |= {"size": SIDE}
    for stage in values["stages"]:
        stage |= {key: value for key, value in CUT.items() if key in stage}
        stage |= {"updates": min(2, stage["updates"])} if "updates" in stage else {}
        stage |= {"branches": 2} if stage.get("branches") else {}
        if stage.get("adversary"):
            stage["adversary"] |= {"blocks": 1}  # all that the tiny network has
        if stage.get("pairs"):
            stage["pairs"] = None
            values["data"] |= {"prompts": PAIRS, "prompts_count": 4}
            values["rewards"] = []
    return values


def test_the_table_above_has_every_config_that_trains_actions_of_a_large_model():
    known = {name for name in ALL if load(f"image/{name}").model.path in HUB}
    stages = {name: load(f"image/{name}").stages for name in known}
    acting = {name for name in known if all(s.kind == "grpo" and s.branches is None for s in stages[name])}
    assert acting <= set(ACTIONS) <= set(ALL) and set(QUICK) <= set(ACTIONS)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in ALL])
def test_plan_and_one_step_of_each_stage_of_the_config_on_a_tiny_pipeline(name, tmp_path):
    values = shrunk(name, tmp_path)
    config = load(values)
    planned = plan_text(config)
    trainer = api.trainer(config, quiet=True)
    before = {key: value.detach().clone() for key, value in trainer.adapter.trainable_parameters().items()}

    summary = trainer.train()

    assert summary["steps"] == len(config.stages)
    after = trainer.adapter.trainable_parameters()
    moved = {key for key in before if key not in after or not before[key].equal(after[key])}
    assert moved
    if name not in ACTIONS:
        return
    # Two groups of two.
    assert summary["samples"] == 4 and summary["actions"] == 4 * ACTIONS[name]
    assert values["model"]["path"] in planned and f"{4 * ACTIONS[name]}" in planned
    assert all("lora_" in key for key in before)  # every one of these configs trains LoRA and nothing else
    # LoRA's second matrix starts at 0, so the first update moves it in every layer of the picture's stream; what the
    # last block does to the text is thrown away, so its text layers (*add_*) get no gradient.
    assert {key for key in before if "lora_B" in key and ".to_" in key and "add_" not in key} <= moved
    stage = config.stages[0]
    assert trainer.stage.learners["policy"].optimizer.param_groups[0]["lr"] == stage.optim.lr
    assert trainer.stage.learners["policy"].steps == stage.updates
