"""A tiny Stable Diffusion 3: what the shipped supervised config trains to `assets/image-tiny`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmrl.modalities.image.tiny.parts import autoencoder, clip_text_encoder, t5_encoder, word_tokenizers


def build_sd3(
    corpus: Iterable[str],
    layers: int = 4,
    heads: int = 3,
    head_dim: int = 32,
    text_width: int = 48,
    max_length: int = 12,
    latent_channels: int = 8,
    vae_widths: tuple[int, ...] = (16, 32, 48, 64),
    grid: int = 5,
    patch_size: int = 1,
    shift: float = 1.5,
    dual_attention: tuple[int, ...] = (),
) -> Any:
    """A StableDiffusion3Pipeline with random weights; `grid` is the latent side it is built for.

    dual_attention: blocks with a second attention of the picture to itself, as 3.5-medium has in its first ones.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    clip_tokenizer, t5_tokenizer = word_tokenizers(corpus, max_length)
    transformer: Any = SD3Transformer2DModel(
        sample_size=grid,
        patch_size=patch_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=layers,
        attention_head_dim=head_dim,
        num_attention_heads=heads,
        joint_attention_dim=2 * text_width,
        caption_projection_dim=heads * head_dim,
        pooled_projection_dim=2 * text_width,
        pos_embed_max_size=max(16, grid),
        qk_norm="rms_norm",
        dual_attention_layers=tuple(dual_attention),
    )
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=autoencoder(latent_channels, tuple(vae_widths)),
        text_encoder=clip_text_encoder(clip_tokenizer, text_width),
        tokenizer=clip_tokenizer,
        text_encoder_2=clip_text_encoder(clip_tokenizer, text_width),
        tokenizer_2=clip_tokenizer,
        text_encoder_3=t5_encoder(t5_tokenizer, 2 * text_width),
        tokenizer_3=t5_tokenizer,
    )
