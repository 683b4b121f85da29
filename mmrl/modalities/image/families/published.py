"""What the configs of published models say of their sizes, so that a plan knows their memory before they are here.

A part is its class's own defaults in diffusers or transformers, and the numbers below where the model has others. They
are the models' files as their authors publish them; where a model is on this machine, its own files are read instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from mmrl.modalities import hollow
from mmrl.modalities.image.families import family_class

Numbers = dict[str, Any]


class Published(NamedTuple):
    """parts: name in the pipeline -> numbers. build: options of the family's builder, among them how many tokens of a
    prompt are read. reads: tokenizer -> its own number of tokens, where that is another."""

    family: str
    parts: dict[str, Numbers]
    build: Numbers
    reads: dict[str, int] = {}


QWEN3: Numbers = {
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
}  # fmt: skip
QWEN3_4B: Numbers = {**QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}
QWEN3_8B: Numbers = {**QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False}
QWEN25_VL_7B: Numbers = {
    "text_config": {
        "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152064,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
}  # fmt: skip
QWEN3_VL_8B: Numbers = {
    "text_config": {
        **QWEN3_8B,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True,
        },
    },
    "vision_config": {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
    },
}  # fmt: skip
UMT5_XXL: Numbers = {
    "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 256384,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
MISTRAL_SMALL: Numbers = {
    "text_config": {
        "model_type": "mistral", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 32768, "vocab_size": 131072,
    },
}  # fmt: skip
GEMMA_2B: Numbers = {
    "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "intermediate_size": 9216, "vocab_size": 256000,
}  # fmt: skip
CLIP_L: Numbers = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "max_position_embeddings": 77, "vocab_size": 49408, "projection_dim": 768,
}  # fmt: skip
CLIP_BIG_G: Numbers = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "max_position_embeddings": 77, "vocab_size": 49408, "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
T5_XXL: Numbers = {
    "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24, "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True,
}  # fmt: skip

VAE: Numbers = {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
WIDE_VAE: Numbers = {**VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
FLUX_VAE: Numbers = {**WIDE_VAE, "scaling_factor": 0.3611, "shift_factor": 0.1159}
SD3_VAE: Numbers = {**WIDE_VAE, "scaling_factor": 1.5305, "shift_factor": 0.0609}
STRONG = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
SANA_VAE: Numbers = {"encoder_block_types": STRONG, "decoder_block_types": STRONG, "scaling_factor": 0.41407}

SD3: Numbers = {
    "sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64,
    "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "out_channels": 16,
    "pos_embed_max_size": 192,
}  # fmt: skip
SD35: Numbers = {
    **SD3, "pos_embed_max_size": 384, "qk_norm": "rms_norm", "dual_attention_layers": list(range(13)),
}  # fmt: skip
SDXL: Numbers = {
    "sample_size": 128, "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip

KLEIN: Numbers = {"guidance_embeds": False}
KLEIN_4B: Numbers = {
    **KLEIN, "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 3 * 2560,
}  # fmt: skip
KLEIN_9B: Numbers = {
    **KLEIN, "num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 3 * 4096,
}  # fmt: skip


def _flux(family: str) -> Published:
    parts = {"transformer": {"guidance_embeds": True}, "vae": FLUX_VAE}
    encoders = {"text_encoder": CLIP_L, "text_encoder_2": T5_XXL}
    return Published(family, parts | encoders, {"max_length": 512}, {"tokenizer": 77})


def _sd3(denoiser: Numbers) -> Published:
    encoders = {"text_encoder": CLIP_L, "text_encoder_2": CLIP_BIG_G, "text_encoder_3": T5_XXL}
    parts = {"transformer": denoiser, "vae": SD3_VAE} | encoders
    return Published("sd3", parts, {"max_length": 256}, {"tokenizer": 77, "tokenizer_2": 77})


def _klein(denoiser: Numbers, encoder: Numbers, distilled: bool) -> Published:
    parts = {"transformer": denoiser, "vae": {}, "text_encoder": encoder}
    return Published("flux2_klein", parts, {"max_length": 512, "distilled": distilled})


def _qwen(family: str) -> Published:
    return Published(family, {"transformer": {}, "vae": {}, "text_encoder": QWEN25_VL_7B}, {"max_length": 1024})


def _sana(side: int) -> Published:
    parts = {"transformer": {"sample_size": side // 32}, "vae": SANA_VAE, "text_encoder": GEMMA_2B}
    return Published("sana", parts, {"max_length": 300, "vae_widths": (8,) * 6})


Z_IMAGE = Published("z_image", {"transformer": {}, "vae": FLUX_VAE, "text_encoder": QWEN3_4B}, {"max_length": 512})

# Hub id -> its sizes.
MODELS: Mapping[str, Published] = {
    "black-forest-labs/FLUX.1-dev": _flux("flux"),
    "black-forest-labs/FLUX.1-Kontext-dev": _flux("flux_kontext"),
    "black-forest-labs/FLUX.2-dev": Published(
        "flux2", {"transformer": {}, "vae": {}, "text_encoder": MISTRAL_SMALL}, {"max_length": 512}
    ),
    "black-forest-labs/FLUX.2-klein-4B": _klein(KLEIN_4B, QWEN3_4B, distilled=True),
    "black-forest-labs/FLUX.2-klein-base-4B": _klein(KLEIN_4B, QWEN3_4B, distilled=False),
    "black-forest-labs/FLUX.2-klein-9B": _klein(KLEIN_9B, QWEN3_8B, distilled=True),
    "black-forest-labs/FLUX.2-klein-base-9B": _klein(KLEIN_9B, QWEN3_8B, distilled=False),
    "Qwen/Qwen-Image": _qwen("qwen_image"),
    "Qwen/Qwen-Image-2512": _qwen("qwen_image"),
    "Qwen/Qwen-Image-Edit-2509": _qwen("qwen_image_edit_plus"),
    "Qwen/Qwen-Image-2.1": Published(
        "qwen_image_21", {"transformer": {}, "vae": {}, "text_encoder": QWEN3_VL_8B}, {"max_length": 1024}
    ),
    "Tongyi-MAI/Z-Image": Z_IMAGE,
    "Tongyi-MAI/Z-Image-Turbo": Z_IMAGE,
    "Efficient-Large-Model/Sana_1600M_512px_diffusers": _sana(512),
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": _sana(1024),
    "stabilityai/stable-diffusion-3-medium-diffusers": _sd3(SD3),
    "stabilityai/stable-diffusion-3.5-medium": _sd3(SD35),
    "stabilityai/stable-diffusion-xl-base-1.0": Published(
        "sdxl",
        {
            "unet": SDXL,
            "vae": {**VAE, "scaling_factor": 0.13025},
            "text_encoder": CLIP_L,
            "text_encoder_2": CLIP_BIG_G,
        },
        {"max_length": 77},
    ),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Published(
        "sd",
        {"unet": {"sample_size": 64, "cross_attention_dim": 768}, "vae": VAE, "text_encoder": CLIP_L},
        {"max_length": 77},
    ),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": Published(
        "wan",
        {
            "transformer": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
            "vae": {},
            "text_encoder": UMT5_XXL,
        },
        {"max_length": 512},
    ),
}


def published_skeleton(name: str, dtype: Mapping[str, torch.dtype]) -> Any:
    """The pipeline of that hub id without weights (see hollow): the models' shapes are its own, tokenizer and noise
    levels those of a tiny pipeline of the family. dtype: of each part, or "default"."""
    model = MODELS[name]
    with hollow.skeleton():
        tiny = family_class(model.family).build(["a picture of a thing"], **model.build)
        made = {part: _sized(getattr(tiny, part), numbers) for part, numbers in model.parts.items()}
    for part, module in made.items():
        nn.Module.to(module, dtype.get(part, dtype["default"])).eval()
    for tokenizer, length in model.reads.items():
        getattr(tiny, tokenizer).model_max_length = length
    options = type(tiny)._get_signature_keys(type(tiny))[1]
    return type(tiny)(**tiny.components | made, **{key: tiny.config[key] for key in options if key in tiny.config})


def _sized(tiny: Any, numbers: Numbers) -> nn.Module:
    """A module of the class of `tiny` with these numbers."""
    if not hasattr(tiny, "config_class"):  # of diffusers
        return type(tiny).from_config(numbers)
    # What marks a picture among the words is the tiny tokenizer's.
    marks = {key: value for key, value in tiny.config.to_dict().items() if "_token_" in key and isinstance(value, int)}
    return type(tiny)(tiny.config_class(**marks | numbers))
