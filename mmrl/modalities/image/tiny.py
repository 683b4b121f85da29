"""Pipelines of a few MB, one builder per family, built from config: the real classes with small numbers.

`build_sd3` makes the untrained skeleton that the shipped supervised config turns into `assets/image-tiny`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def word_tokenizers(corpus: Iterable[str], max_length: int) -> tuple[Any, Any]:
    """(CLIPTokenizer, fast T5-side tokenizer) whose merges make each word of the corpus one token.

    Byte-level underneath, so any other text still has a spelling.
    """
    import json

    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    corpus = list(corpus)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())

    clip = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    clip.normalizer = normalizers.Lowercase()
    clip.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    # Letters that end a word are listed here because the trainer would number them in hash order, and the same
    # corpus would then give other ids in the next process.
    special = ["<|startoftext|>", "<|endoftext|>", *(char + "</w>" for char in alphabet)]
    clip.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=1056,
            special_tokens=special,
            end_of_word_suffix="</w>",
            show_progress=False,
            initial_alphabet=alphabet,
        ),
    )
    model = json.loads(clip.to_str())["model"]
    merges: Any = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in model["merges"]]
    clip_tokenizer = CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=max_length)

    t5 = Tokenizer(models.BPE())
    t5.normalizer = normalizers.Lowercase()
    t5.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t5.decoder = decoders.ByteLevel()
    t5.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=800, special_tokens=["<pad>", "</s>"], show_progress=False, initial_alphabet=alphabet
        ),
    )
    t5_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=t5,
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="right",
        model_max_length=max_length,
    )
    return clip_tokenizer, t5_tokenizer


def clip_text_encoder(tokenizer: Any, width: int, projection: bool = True) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def t5_encoder(tokenizer: Any, width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=16,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    return T5EncoderModel(config).eval()


def autoencoder(latent_channels: int, widths: tuple[int, ...], quant: bool = False) -> Any:
    from diffusers import AutoencoderKL

    levels = len(widths)
    vae: Any = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=64,
        shift_factor=0.0,
        scaling_factor=1.0,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
        mid_block_add_attention=False,
    )
    return vae.eval()


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


def ddim_scheduler(prediction: str) -> Any:
    """DDIM on Stable Diffusion's noise schedule, with the published offset and final alpha."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


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


BUILDERS: dict[str, Callable[..., Any]] = {"sd3": build_sd3, "flux": build_flux, "sd": build_sd, "sdxl": build_sdxl}
