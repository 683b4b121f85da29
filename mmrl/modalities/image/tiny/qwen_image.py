"""A tiny Qwen-Image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mmrl.modalities.image.tiny.chat import chat_tokenizer, picture_processor, qwen25_vl

# Of a system prompt and a user's turn, so that they are words to the tokenizer and not letters.
TEMPLATE = (
    "system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of "
    "the objects and background:",
    "user\n",
    "assistant\n",
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then explain how "
    "the user's text instruction should alter or modify the image.",
    "Comprehend and analyze the provided prompt.",
)


def video_autoencoder(latent_channels: int, width: int) -> Any:
    from diffusers import AutoencoderKLQwenImage

    vae: Any = AutoencoderKLQwenImage(
        base_dim=width,
        z_dim=latent_channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=np.linspace(-0.2, 0.2, latent_channels).tolist(),
        latents_std=np.linspace(0.6, 1.4, latent_channels).tolist(),
    )
    return vae.eval()


def build_qwen_image(
    corpus: Iterable[str],
    layers: int = 2,
    heads: int = 2,
    axes: tuple[int, ...] = (4, 6, 6),
    text_width: int = 32,
    latent_channels: int = 4,
    vae_width: int = 8,
    max_length: int = 64,
    dynamic_shifting: bool = True,
) -> Any:
    """A QwenImagePipeline with random weights. The native size is 1024 pixels: sample at a smaller one."""
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel

    tokenizer = chat_tokenizer([*corpus, *TEMPLATE], max_length)
    transformer: Any = QwenImageTransformer2DModel(
        in_channels=4 * latent_channels,
        out_channels=latent_channels,
        num_layers=layers,
        attention_head_dim=sum(axes),
        num_attention_heads=heads,
        joint_attention_dim=text_width,
        axes_dims_rope=tuple(axes),
    )
    return QwenImagePipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=dynamic_shifting, shift_terminal=0.02),
        vae=video_autoencoder(latent_channels, vae_width),
        text_encoder=qwen25_vl(tokenizer, text_width),
        tokenizer=tokenizer,
    )


def build_qwen_image_edit_plus(corpus: Iterable[str], **options: Any) -> Any:
    """A QwenImageEditPlusPipeline of the same parts, with a processor of pictures."""
    from diffusers import QwenImageEditPlusPipeline
    from transformers import Qwen2_5_VLProcessor

    parts = build_qwen_image(corpus, **options).components
    return QwenImageEditPlusPipeline(**parts, processor=picture_processor(Qwen2_5_VLProcessor, parts["tokenizer"], 14))
