"""Every shipped config of a large model trains: one step on a tiny pipeline with the files that its model has."""

from __future__ import annotations

import pytest
from hub_files import write

from mmrl import api
from mmrl.config import load
from mmrl.share import share
from mmrl.training.plan import plan_text

# Trained denoising steps of a sample, by hand from the papers' numbers: int(10 x 0.99), int(6 x 0.99),
# int(11 x 0.6), int(24 x 0.6), the windows, int(50 x 0.99), int(49 x 0.2).
ACTIONS = {
    "sd35_medium_geneval": 9,
    "sd35_medium_ocr": 9,
    "sd35_medium_fast": 3,
    "flux_dev_pickscore": 5,
    "flux_dev_mixgrpo": 4,
    "flux_dev_dance": 6,
    "flux_dev_pref_grpo": 14,
    "sd15_ddpo_jpeg": 49,
    "sdxl_ddpo": 9,
}
# model.path of a config -> its files here.
HUB = {
    "stabilityai/stable-diffusion-3.5-medium": "sd35",
    "black-forest-labs/FLUX.1-dev": "flux_dev",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
}
SIDE = 48
# The others are in test_real_forward.py and tests/training/test_flash_pictures.py.
REAL = sorted(
    p.stem
    for p in share("configs", "image").glob("*.yaml")
    if "tiny" not in p.stem and {stage.kind for stage in load(f"image/{p.stem}").stages} == {"grpo"}
)


def test_the_table_above_has_every_config():
    assert sorted(ACTIONS) == REAL
    assert {load(f"image/{name}").model.path for name in REAL} == set(HUB)


@pytest.mark.parametrize("name", REAL)
def test_plan_and_one_step_of_the_config_on_a_tiny_pipeline(name, tmp_path):
    config = load(f"image/{name}")
    stage = config.stages[0]
    updates = min(stage.updates, 2)
    # The tiny network's latents are about 300 numbers instead of 65 thousand: float32 keeps the ratio exact.
    values = config.model_dump(mode="json")
    values |= {"out": str(tmp_path / "run"), "threads": 1, "device": "cpu"}
    values["rewards"] = [{"name": "jpeg.incompressible"}]
    values["data"] |= {"eval_prompts": None, "eval_where": {}}
    values["eval"], values["report"] = {}, {}
    values["model"] |= {"path": str(write(HUB[config.model.path], tmp_path / "model", layers=1)), "dtype": "float32"}
    values["model"] |= {"max_sequence_length": 12} if config.model.family in ("sd3", "flux") else {}
    values["model"]["sampling"] |= {"size": SIDE}
    values["stages"][0] |= {"steps": 1, "groups": 2, "samples": 2, "updates": updates, "micro_batch": 18}
    planned = plan_text(load(values))
    assert values["model"]["path"] in planned and f"{4 * ACTIONS[name]}" in planned
    trainer = api.trainer(load(values), quiet=True)
    before = {key: value.detach().clone() for key, value in trainer.adapter.trainable_parameters().items()}
    assert all("lora_" in key for key in before)  # every one of these configs trains LoRA and nothing else

    summary = trainer.train()

    assert summary["steps"] == 1
    assert summary["samples"] == 4
    assert summary["actions"] == 4 * ACTIONS[name]
    after = trainer.adapter.trainable_parameters()
    moved = [key for key in before if not before[key].equal(after[key])]
    # LoRA's second matrix starts at 0, so the first update moves it in every layer of the picture's stream; what SD3's
    # last block does to the text is thrown away, so its text layers (add_*) get no gradient.
    assert {key for key in before if "lora_B" in key and ".to_" in key} <= set(moved)
    assert trainer.stage.learners["policy"].optimizer.param_groups[0]["lr"] == stage.optim.lr
    assert trainer.stage.learners["policy"].steps == updates
