"""`mmrl plan` of the families at the size of the models that are published, from their configs alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmrl.config import load
from mmrl.modalities import hollow
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families import family_class
from mmrl.modalities.image.loading import load_family
from mmrl.training.dry_run import estimates

QWEN3_4B = {
    "model_type": "qwen3", "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728, "vocab_size": 151936,
    "tie_word_embeddings": True,
}  # fmt: skip
MISTRAL_SMALL = {
    "model_type": "mistral", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 32768, "vocab_size": 131072,
}  # fmt: skip
QWEN25_VL_7B = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944, "vocab_size": 152064,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}  # fmt: skip
GEMMA_2B = {
    "model_type": "gemma2", "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216, "vocab_size": 256000,
}  # fmt: skip

UMT5_XXL = {
    "model_type": "umt5", "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "vocab_size": 256384, "feed_forward_proj": "gated-gelu", "is_encoder_decoder": False,
}  # fmt: skip

FLUX_VAE = {
    "latent_channels": 16, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip

# Family -> billions of weights that its model card tells of denoiser and text encoder; config of the denoiser where it
# is not that of the class's defaults; the text encoder's.
MODELS: dict[str, tuple[float, float, dict[str, Any], dict[str, Any]]] = {
    "z_image": (6.15, 4.0, {}, QWEN3_4B),
    "qwen_image": (
        20.4,
        8.3,
        {},
        {
            "model_type": "qwen2_5_vl",
            "text_config": QWEN25_VL_7B,
            "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
        },
    ),
    "flux2": (32.2, 24.0, {}, {"model_type": "mistral3", "text_config": MISTRAL_SMALL}),
    "flux2_klein": (
        3.9,
        4.0,
        {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
         "guidance_embeds": False},
        QWEN3_4B,
    ),
    "sana": (1.6, 2.6, {}, GEMMA_2B),
    # Called 1.3B; its weights are 5.68 GB in float32.
    "wan": (1.42, 5.68, {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, UMT5_XXL),
}  # fmt: skip


def write(family: str, folder: Path) -> Path:
    """A folder as the hub has it, but that its weights are those of a tiny model."""
    _, _, denoiser, encoder = MODELS[family]
    pipeline = family_class(family).build(["a red circle"])
    pipeline.save_pretrained(folder)
    vae = FLUX_VAE if family == "z_image" else {}
    for part, config in (("transformer", denoiser), ("vae", vae)):
        name = type(getattr(pipeline, part)).__name__
        (folder / part / "config.json").write_text(json.dumps({"_class_name": name, **config}))
    told = {"architectures": [type(pipeline.text_encoder).__name__], **encoder}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(told))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
def test_the_plan_has_the_weights_of_the_published_model(family, tmp_path):
    with hollow.without_weights():
        made = load_family(ModelConfig(path=str(write(family, tmp_path)), dtype="bfloat16", train="lora"))
    assert made.name == family
    counts = [
        sum(p.numel() for p in module.parameters()) / 1e9 for module in (made.denoiser, *made.text_encoders.values())
    ]
    assert counts == pytest.approx(MODELS[family][:2], rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
def test_memory_of_the_published_model_is_estimated(family, tmp_path):
    frames = 9 if family_class(family).native_frames > 1 else None
    sampling = {"steps": 4, "size": 512, "frames": frames, "plan": {"name": "explicit", "steps": [1]}}
    model = {"path": str(write(family, tmp_path)), "dtype": "bfloat16", "train": "lora", "sampling": sampling}
    values = load("image/tiny").model_dump(mode="json")
    values |= {"model": {**model, "gradient_checkpointing": True}, "rewards": [{"name": "jpeg.incompressible"}]}
    values["data"] |= {"eval_prompts": None, "eval_where": {}}
    values["eval"] = {}
    values["stages"] = [{"kind": "grpo", "steps": 1, "groups": 1, "samples": 4, "micro_batch": 1}]
    ((_, found),) = estimates(load(values))
    billions = sum(MODELS[family][:2])
    assert found.sizes.weights > 2e9 * billions * 0.95
    assert found.sizes.trained < 0.05 * found.sizes.weights
    assert found.sizes.sampling > 0 and found.sizes.update > found.sizes.trained
