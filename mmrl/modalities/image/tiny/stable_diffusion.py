"""Tiny Stable Diffusion 1, 2 and XL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmrl.modalities.image.tiny.parts import autoencoder, clip_text_encoder, ddim_scheduler, word_tokenizers


def build_sd(
    corpus: Iterable[str],
    prediction: str = "epsilon",
    layers: int = 1,
    widths: tuple[int, int] = (32, 64),
    heads: int = 4,
    text_width: int = 48,
    max_length: int = 12,
    latent_channels: int = 4,
    vae_widths: tuple[int, ...] = (16, 32, 48, 64),
    grid: int = 6,
) -> Any:
    """A StableDiffusionPipeline with random weights; `grid` is the latent side it is built for."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    tokenizer, _ = word_tokenizers(corpus, max_length)
    unet: Any = UNet2DConditionModel(
        sample_size=grid,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=layers,
        block_out_channels=tuple(widths),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=heads,
        norm_num_groups=8,
    )
    return StableDiffusionPipeline(
        unet=unet.eval(),
        scheduler=ddim_scheduler(prediction),
        vae=autoencoder(latent_channels, tuple(vae_widths), quant=True),
        text_encoder=clip_text_encoder(tokenizer, text_width, projection=False),
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_sdxl(
    corpus: Iterable[str],
    prediction: str = "epsilon",
    layers: int = 1,
    widths: tuple[int, int] = (32, 64),
    heads: tuple[int, int] = (2, 4),
    text_width: int = 48,
    max_length: int = 12,
    latent_channels: int = 4,
    vae_widths: tuple[int, ...] = (16, 32, 48, 64),
    grid: int = 6,
) -> Any:
    """A StableDiffusionXLPipeline with random weights; `grid` is the latent side it is built for."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    tokenizer, _ = word_tokenizers(corpus, max_length)
    size_width = 8
    unet: Any = UNet2DConditionModel(
        sample_size=grid,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=layers,
        block_out_channels=tuple(widths),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=2 * text_width,
        attention_head_dim=tuple(heads),
        use_linear_projection=True,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=size_width,
        projection_class_embeddings_input_dim=6 * size_width + text_width,
    )
    return StableDiffusionXLPipeline(
        unet=unet.eval(),
        scheduler=ddim_scheduler(prediction),
        vae=autoencoder(latent_channels, tuple(vae_widths), quant=True),
        text_encoder=clip_text_encoder(tokenizer, text_width, projection=False),
        tokenizer=tokenizer,
        text_encoder_2=clip_text_encoder(tokenizer, text_width),
        tokenizer_2=tokenizer,
        add_watermarker=False,
    )
