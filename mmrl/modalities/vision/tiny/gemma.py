"""Tiny PaliGemma, PaliGemma 2 and Gemma 3."""

from __future__ import annotations

from typing import Any

from mmrl.modalities.vision.tiny.sizes import Sizes, Tokens, head_dim, siglip_numbers, text_numbers
from mmrl.modalities.vision.tiny.templates import GEMMA

WINDOW = 24  # tokens that a layer with a window sees; 4096 and 1024 in the released models
GEMMA3 = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}


def paligemma(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    return _paligemma(sizes, tokens, {"model_type": "gemma"})


def paligemma2(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    """On Gemma 2: every other layer has a window, and attention and logits soft caps."""
    return _paligemma(
        sizes,
        tokens,
        {"model_type": "gemma2", "sliding_window": WINDOW, "query_pre_attn_scalar": head_dim(sizes)},
    )


def _paligemma(sizes: Sizes, tokens: Tokens, decoder: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )

    tokenizer = tokens(special=["<bos>"], named={"image_token": "<image>"})
    tokenizer.bos_token = "<bos>"
    pictures: Any = SiglipImageProcessor(size={"height": sizes.tile, "width": sizes.tile})
    pictures.image_seq_length = (sizes.tile // sizes.patch) ** 2
    processor = PaliGemmaProcessor(image_processor=pictures, tokenizer=tokenizer)  # adds its 1024 places and 128 codes
    hidden = sizes.text["hidden_size"]
    text = text_numbers(sizes, tokenizer) | {"head_dim": head_dim(sizes)} | decoder
    config = PaliGemmaConfig(
        text_config={**text, "bos_token_id": tokenizer.bos_token_id},
        vision_config=siglip_numbers(sizes),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vocab_size=len(tokenizer),
        projection_dim=hidden,
        hidden_size=hidden,
        tie_word_embeddings=sizes.tied,
    )
    return PaliGemmaForConditionalGeneration(config), processor


def gemma3(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    """The last layer sees everything, those before it a window. Pan and scan is null in its files: off."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    tokenizer = tokens(special=["<bos>", "<start_of_turn>", "<end_of_turn>"], named=GEMMA3)
    tokenizer.bos_token, tokenizer.eos_token = "<bos>", "<end_of_turn>"
    visual_tokens = (sizes.tile // sizes.patch // sizes.merge) ** 2
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": sizes.tile, "width": sizes.tile}),
        tokenizer=tokenizer,
        image_seq_length=visual_tokens,
        chat_template=GEMMA,
    )
    layers = sizes.text["num_hidden_layers"]
    text = text_numbers(sizes, tokenizer) | {
        "bos_token_id": tokenizer.bos_token_id,
        "head_dim": head_dim(sizes),
        "query_pre_attn_scalar": head_dim(sizes),
        "sliding_window": WINDOW,
        "layer_types": [*["sliding_attention"] * (layers - 1), "full_attention"],
    }
    find = tokenizer.convert_tokens_to_ids
    config = Gemma3Config(
        text_config=text,
        vision_config=siglip_numbers(sizes),
        mm_tokens_per_image=visual_tokens,
        image_token_index=find(GEMMA3["image_token"]),
        boi_token_index=find(GEMMA3["boi_token"]),
        eoi_token_index=find(GEMMA3["eoi_token"]),
        initializer_range=sizes.text["initializer_range"],
        tie_word_embeddings=sizes.tied,
    )
    model = Gemma3ForConditionalGeneration(config)
    # The class begins it with zeros, which would hide every picture.
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_(std=sizes.text["initializer_range"])
    return model, processor
