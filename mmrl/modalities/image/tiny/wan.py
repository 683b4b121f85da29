"""A tiny Wan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from mmrl.modalities.image.tiny.parts import t5_encoder, word_tokenizers


def film_autoencoder(latent_channels: int, width: int, halvings: Sequence[bool], patch: int | None) -> Any:
    """halvings: one entry for each time that height and width are halved: whether time is, too. patch: pixels to a side
    of the blocks that are the channels of what it sees, as in Wan 2.2 5B; None: it sees pixels."""
    from diffusers import AutoencoderKLWan

    halvings = list(halvings)
    channels = 3 * (patch or 1) ** 2
    vae: Any = AutoencoderKLWan(
        base_dim=width,
        z_dim=latent_channels,
        dim_mult=[1] * (1 + len(halvings)),
        num_res_blocks=1,
        temperal_downsample=halvings,
        latents_mean=np.linspace(-0.2, 0.2, latent_channels).tolist(),
        latents_std=np.linspace(0.6, 1.4, latent_channels).tolist(),
        in_channels=channels,
        out_channels=channels,
        patch_size=patch,
        scale_factor_temporal=2 ** sum(halvings),
        scale_factor_spatial=2 ** len(halvings) * (patch or 1),
    )
    return vae.eval()


def build_wan(
    corpus: Iterable[str],
    layers: int = 2,
    heads: int = 2,
    head_dim: int = 12,
    text_width: int = 32,
    latent_channels: int = 4,
    vae_width: int = 8,
    halvings: Sequence[bool] = (True, True),
    patch: int | None = 2,
    max_length: int = 16,
    shift: float = 3.0,
    own_solver: bool = True,
    boundary_ratio: float | None = None,
    expand_timesteps: bool = False,
) -> Any:
    """A WanPipeline with random weights. The native size is 480 x 832 pixels and 81 frames: sample at a smaller one.

    own_solver: with the multistep scheduler that the published models have, or with Euler steps. boundary_ratio: with
    a second denoiser, as 2.2 A14B has it.
    """
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        UniPCMultistepScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )

    tokenizer = word_tokenizers(corpus, max_length)[1]

    def transformer() -> Any:
        model: Any = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            in_channels=latent_channels,
            out_channels=latent_channels,
            text_dim=text_width,
            freq_dim=32,
            ffn_dim=4 * heads * head_dim,
            num_layers=layers,
            rope_max_seq_len=64,
        )
        return model.eval()

    with torch.device("cpu"):  # its tables are wanted where weights are not, too
        solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    return WanPipeline(
        transformer=transformer(),
        transformer_2=None if boundary_ratio is None else transformer(),
        scheduler=solver if own_solver else FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=film_autoencoder(latent_channels, vae_width, halvings, patch),
        text_encoder=t5_encoder(tokenizer, text_width, many_languages=True),
        tokenizer=tokenizer,
        boundary_ratio=boundary_ratio,
        expand_timesteps=expand_timesteps,
    )
