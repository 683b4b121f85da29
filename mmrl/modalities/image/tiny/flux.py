"""A tiny FLUX.1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmrl.modalities.image.tiny.parts import autoencoder, clip_text_encoder, t5_encoder, word_tokenizers


def build_flux(
    corpus: Iterable[str],
    layers: int = 1,
    single_layers: int = 1,
    heads: int = 3,
    head_dim: int = 32,
    text_width: int = 48,
    max_length: int = 12,
    latent_channels: int = 4,
    vae_widths: tuple[int, ...] = (16, 32, 48, 64),
    guidance_embeds: bool = True,
    dynamic_shifting: bool = True,
    shift: float = 3.0,
) -> Any:
    """A FluxPipeline with random weights, like dev; schnell: guidance_embeds, dynamic_shifting off.

    The native size is FLUX's own 128 latents a side, whatever these numbers are: sample at a smaller one.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    clip_tokenizer, t5_tokenizer = word_tokenizers(corpus, max_length)
    # FLUX.1 splits a head into 1/8 for the index and 7/16 each for row and column, all even.
    rotary = 2 * (7 * head_dim // 32)
    transformer: Any = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * latent_channels,
        num_layers=layers,
        num_single_layers=single_layers,
        attention_head_dim=head_dim,
        num_attention_heads=heads,
        joint_attention_dim=2 * text_width,
        pooled_projection_dim=text_width,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(head_dim - 2 * rotary, rotary, rotary),
    )
    return FluxPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift, use_dynamic_shifting=dynamic_shifting),
        vae=autoencoder(latent_channels, tuple(vae_widths)),
        text_encoder=clip_text_encoder(clip_tokenizer, text_width, projection=False),
        tokenizer=clip_tokenizer,
        text_encoder_2=t5_encoder(t5_tokenizer, 2 * text_width),
        tokenizer_2=t5_tokenizer,
    )


def build_flux_kontext(corpus: Iterable[str], **options: Any) -> Any:
    """A FluxKontextPipeline of the same parts."""
    from diffusers import FluxKontextPipeline

    return FluxKontextPipeline(**build_flux(corpus, **options).components)
