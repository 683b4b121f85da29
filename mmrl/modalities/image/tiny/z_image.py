"""A tiny Z-Image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmrl.modalities.image.tiny.chat import chat_tokenizer, qwen3
from mmrl.modalities.image.tiny.parts import autoencoder


def build_z_image(
    corpus: Iterable[str],
    layers: int = 2,
    heads: int = 2,
    axes: tuple[int, ...] = (8, 8, 8),
    text_width: int = 32,
    latent_channels: int = 4,
    vae_widths: tuple[int, ...] = (16, 32, 48, 64),
    max_length: int = 64,
    shift: float = 3.0,
) -> Any:
    """A ZImagePipeline with random weights. The native size is 1024 pixels: sample at a smaller one."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    tokenizer = chat_tokenizer(corpus, max_length)
    transformer: Any = ZImageTransformer2DModel(
        in_channels=latent_channels,
        dim=heads * sum(axes),
        n_layers=layers,
        n_refiner_layers=1,
        n_heads=heads,
        n_kv_heads=heads,
        cap_feat_dim=text_width,
        axes_dims=list(axes),
        axes_lens=[1024, 128, 128],
    )
    for pad in (transformer.x_pad_token, transformer.cap_pad_token):
        pad.data.normal_(std=0.02)
    return ZImagePipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=autoencoder(latent_channels, tuple(vae_widths)),
        text_encoder=qwen3(tokenizer, text_width),
        tokenizer=tokenizer,
    )
