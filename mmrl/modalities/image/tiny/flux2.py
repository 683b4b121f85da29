"""Tiny FLUX.2, dev and klein."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from mmrl.modalities.image.tiny.chat import chat_tokenizer, mistral3, qwen3


def block_autoencoder(latent_channels: int, widths: tuple[int, ...]) -> Any:
    """With batch statistics that are no identity."""
    from diffusers import AutoencoderKLFlux2

    levels = len(widths)
    vae: Any = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )
    count = 4 * latent_channels
    vae.bn.running_mean.copy_(torch.linspace(-0.2, 0.2, count))
    vae.bn.running_var.copy_(torch.linspace(0.5, 1.5, count))
    return vae.eval()


def build_flux2(
    corpus: Iterable[str],
    text_layers: int = 30,
    max_length: int = 80,
    text_width: int = 16,
    **options: Any,
) -> Any:
    """A Flux2Pipeline with random weights. The native size is 1024 pixels: sample at a smaller one."""
    from diffusers import Flux2Pipeline
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

    # The pipeline's own words before each prompt are to be words to the tokenizer, not letters.
    tokenizer = chat_tokenizer([*corpus, SYSTEM_MESSAGE], max_length)
    parts = _parts(text_width, guidance_embeds=True, **options)
    return Flux2Pipeline(text_encoder=mistral3(tokenizer, text_width, text_layers), tokenizer=tokenizer, **parts)


def build_flux2_klein(
    corpus: Iterable[str],
    text_layers: int = 27,
    max_length: int = 64,
    text_width: int = 16,
    distilled: bool = False,
    **options: Any,
) -> Any:
    """A Flux2KleinPipeline with random weights. The native size is 1024 pixels: sample at a smaller one."""
    from diffusers import Flux2KleinPipeline

    tokenizer = chat_tokenizer(corpus, max_length)
    parts = _parts(text_width, guidance_embeds=False, **options)
    encoder = qwen3(tokenizer, text_width, text_layers)
    return Flux2KleinPipeline(text_encoder=encoder, tokenizer=tokenizer, is_distilled=distilled, **parts)


def _parts(
    text_width: int,
    guidance_embeds: bool,
    layers: int = 1,
    single_layers: int = 1,
    heads: int = 2,
    axes: tuple[int, ...] = (4, 4, 4, 4),
    latent_channels: int = 4,
    vae_widths: tuple[int, ...] = (16, 32, 48, 64),
) -> dict[str, Any]:
    """What both have: transformer, autoencoder, scheduler. The prompt is three layers of the language model."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

    transformer: Any = Flux2Transformer2DModel(
        in_channels=4 * latent_channels,
        num_layers=layers,
        num_single_layers=single_layers,
        attention_head_dim=sum(axes),
        num_attention_heads=heads,
        joint_attention_dim=3 * text_width,
        axes_dims_rope=tuple(axes),
        guidance_embeds=guidance_embeds,
    )
    return {
        "transformer": transformer.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        "vae": block_autoencoder(latent_channels, tuple(vae_widths)),
    }
