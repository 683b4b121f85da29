"""A tiny SANA."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from mmrl.modalities.image.tiny.chat import chat_tokenizer, gemma2


def strong_autoencoder(latent_channels: int, widths: tuple[int, ...]) -> Any:
    """Pictures of 2 ** (levels - 1) pixels a latent, without noise."""
    from diffusers import AutoencoderDC

    levels = len(widths)
    none: tuple[tuple[int, ...], ...] = ((),) * levels
    vae: Any = AutoencoderDC(
        latent_channels=latent_channels,
        attention_head_dim=8,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1,) * levels,
        decoder_layers_per_block=(1,) * levels,
        encoder_qkv_multiscales=none,
        decoder_qkv_multiscales=none,
        scaling_factor=0.4,
    )
    return vae.eval()


def build_sana(
    corpus: Iterable[str],
    layers: int = 1,
    heads: int = 2,
    head_dim: int = 16,
    text_width: int = 32,
    latent_channels: int = 4,
    vae_widths: tuple[int, ...] = (8, 8, 16, 16),
    grid: int = 5,
    max_length: int = 64,
    shift: float = 3.0,
    own_solver: bool = True,
    timestep_scale: float = 1.0,
    learned_variance: bool = False,
) -> Any:
    """A SanaPipeline with random weights; `grid` is the latent side it is built for.

    own_solver: with the multistep scheduler that the published models have, or with Euler steps.
    """
    from diffusers import (
        DPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
        SanaPipeline,
        SanaTransformer2DModel,
    )

    tokenizer = chat_tokenizer(corpus, max_length)
    width = heads * head_dim
    transformer: Any = SanaTransformer2DModel(
        in_channels=latent_channels,
        out_channels=latent_channels * (2 if learned_variance else 1),
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        num_layers=layers,
        num_cross_attention_heads=heads,
        cross_attention_head_dim=head_dim,
        cross_attention_dim=width,
        caption_channels=text_width,
        sample_size=grid,
        timestep_scale=timestep_scale,
    )
    with torch.device("cpu"):  # its tables are wanted where weights are not, too
        solver = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    return SanaPipeline(
        transformer=transformer.eval(),
        scheduler=solver if own_solver else FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=strong_autoencoder(latent_channels, tuple(vae_widths)),
        text_encoder=gemma2(tokenizer, text_width),
        tokenizer=tokenizer,
    )
