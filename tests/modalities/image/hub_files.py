"""Tiny pipelines in folders with the scheduler files that published models have on the hub, letter for letter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from small_pipelines import CORPUS

from mmrl.modalities.image.families import family_class

SD = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
EULER = {**SD, "interpolation_type": "linear", "sample_max_value": 1.0, "use_karras_sigmas": False}
FLUX = {"base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
SD3 = {"layers": 2, "heads": 2, "head_dim": 16, "grid": 16, "patch_size": 2}


class Model(NamedTuple):
    family: str
    build: dict[str, Any]  # options of the builder
    scheduler: dict[str, Any]  # scheduler/scheduler_config.json
    vae: dict[str, Any]  # what vae/config.json says of latents


VAES = {
    "sd": {"scaling_factor": 0.18215},
    "sdxl": {"scaling_factor": 0.13025},
    # Playground v2.5 has a mean and a spread for each channel.
    "playground": {
        "scaling_factor": 0.5,
        "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
        "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
    },
    "sd3": {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    "flux": {"scaling_factor": 0.3611, "shift_factor": 0.1159},
}
MODELS = {
    "sd15": Model("sd", {}, {"_class_name": "PNDMScheduler", **SD}, VAES["sd"]),
    "sd21": Model("sd", {}, {"_class_name": "DDIMScheduler", **SD, "prediction_type": "v_prediction"}, VAES["sd"]),
    "sdxl": Model(
        "sdxl",
        {},
        {
            "_class_name": "EulerDiscreteScheduler",
            **EULER,
            "prediction_type": "epsilon",
            "timestep_spacing": "leading",
        },
        VAES["sdxl"],
    ),
    # Trained to pure noise, as Lin et al. 2023 ask for.
    "sdxl_v": Model(
        "sdxl",
        {},
        {
            "_class_name": "EulerDiscreteScheduler",
            **EULER,
            "final_sigmas_type": "zero",
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
        VAES["sdxl"],
    ),
    "playground": Model("sdxl", {}, {"_class_name": "DDIMScheduler", **SD}, VAES["playground"]),
    "sd3": Model("sd3", SD3, {**FLOW, "shift": 3.0}, VAES["sd3"]),
    "sd35": Model("sd3", {**SD3, "dual_attention": (0,)}, {**FLOW, "shift": 3.0}, VAES["sd3"]),
    "sd3_dynamic": Model("sd3", SD3, {**FLOW, **FLUX, "shift": 3.0, "use_dynamic_shifting": True}, VAES["sd3"]),
    "sd3_karras": Model("sd3", SD3, {**FLOW, "shift": 3.0, "use_karras_sigmas": True}, VAES["sd3"]),
    "flux_dev": Model("flux", {}, {**FLOW, **FLUX, "shift": 3.0, "use_dynamic_shifting": True}, VAES["flux"]),
    "flux_schnell": Model(
        "flux",
        {"guidance_embeds": False},
        {**FLOW, **FLUX, "shift": 1.0, "use_dynamic_shifting": False},
        VAES["flux"],
    ),
}


def write(name: str, folder: Path, layers: int | None = None) -> Path:
    """A folder for `model.path`."""
    model = MODELS[name]
    torch.manual_seed(0)
    pipeline = family_class(model.family).build(CORPUS, **{**model.build, **({"layers": layers} if layers else {})})
    pipeline.vae.register_to_config(shift_factor=None)
    pipeline.vae.register_to_config(**model.vae)
    pipeline.save_pretrained(folder, safe_serialization=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(model.scheduler))
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", model.scheduler["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
