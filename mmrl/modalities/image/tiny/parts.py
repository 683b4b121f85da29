"""Parts of tiny pipelines: tokenizers, text encoders, autoencoders, schedulers; the real classes with small numbers."""

from __future__ import annotations

from collections.abc import Iterable
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


def t5_encoder(tokenizer: Any, width: int, many_languages: bool = False) -> Any:
    """many_languages: UMT5, whose layers each have their own distances."""
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    # Their classes have no common type.
    classes: tuple[Any, Any] = (UMT5Config, UMT5EncoderModel) if many_languages else (T5Config, T5EncoderModel)
    config_class, model_class = classes
    config = config_class(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=16,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model_class(config).eval()


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
