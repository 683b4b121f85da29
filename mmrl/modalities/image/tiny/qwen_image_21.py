"""A tiny Qwen-Image-2.1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mmrl.modalities.image.tiny.chat import chat_tokenizer, picture_processor, qwen3_vl
from mmrl.modalities.image.tiny.qwen_image import TEMPLATE


def build_qwen_image_21(
    corpus: Iterable[str],
    layers: int = 2,
    heads: int = 2,
    axes: tuple[int, ...] = (4, 6, 6),
    text_width: int = 32,
    latent_channels: int = 4,
    vae_width: int = 8,
    max_length: int = 512,
    causal: bool = True,
) -> Any:
    """A QwenImage21Pipeline with random weights. The native size is 1024 pixels: sample at a smaller one."""
    from diffusers import (
        AutoencoderKLQwenImage21,
        FlowMatchEulerDiscreteScheduler,
        QwenImage21Pipeline,
        QwenImage21Transformer2DModel,
    )
    from transformers import Qwen3VLProcessor

    tokenizer = chat_tokenizer([*corpus, *TEMPLATE], max_length)
    transformer: Any = QwenImage21Transformer2DModel(
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=layers,
        attention_head_dim=sum(axes),
        num_attention_heads=heads,
        context_in_dim=text_width,
        axes_dims_rope=tuple(axes),
        causal_condition=causal,
    )
    vae: Any = AutoencoderKLQwenImage21(
        base_dim=vae_width,
        decoder_base_dim=vae_width,
        z_dim=latent_channels,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=np.linspace(-0.2, 0.2, latent_channels).tolist(),
        latents_std=np.linspace(0.6, 1.4, latent_channels).tolist(),
    )
    return QwenImage21Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=vae.eval(),
        text_encoder=qwen3_vl(tokenizer, text_width),
        processor=picture_processor(Qwen3VLProcessor, tokenizer, 16),
    )
