"""Tiny Qwen2-VL, Qwen2.5-VL, Qwen3-VL (dense and with experts) and Qwen3.5."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from mmrl.modalities.vision.tiny.sizes import Sizes, Tokens, head_dim, text_numbers
from mmrl.modalities.vision.tiny.templates import chatml

MARKS = (
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
HALF = [0.5, 0.5, 0.5]


def qwen2_vl(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    tokenizer = tokens(special=MARKS)
    vision = {"embed_dim": sizes.vision["hidden_size"], "hidden_size": sizes.text["hidden_size"], "mlp_ratio": 2}
    config = Qwen2VLConfig(
        text_config=_text(sizes, tokenizer),
        vision_config=_vision(sizes) | vision,
        **_ids(tokenizer),
        tie_word_embeddings=sizes.tied,
    )
    return Qwen2VLForConditionalGeneration(config), _processor(Qwen2VLProcessor, sizes, tokenizer)


def qwen2_5_vl(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    tokenizer = tokens(special=MARKS)
    vision = {
        "intermediate_size": 2 * sizes.vision["hidden_size"],
        "out_hidden_size": sizes.text["hidden_size"],
        "window_size": 4 * sizes.patch * sizes.merge,  # 4 x 4 cells, as in the released models
        "fullatt_block_indexes": [sizes.vision["layers"] - 1],
    }
    config = Qwen2_5_VLConfig(
        text_config=_text(sizes, tokenizer),
        vision_config=_vision(sizes) | vision,
        **_ids(tokenizer),
        tie_word_embeddings=sizes.tied,
    )
    return Qwen2_5_VLForConditionalGeneration(config), _processor(Qwen2_5_VLProcessor, sizes, tokenizer)


def qwen3_vl(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tokenizer = tokens(special=MARKS)
    config = Qwen3VLConfig(**_qwen3_numbers(sizes, tokenizer, {}))
    return Qwen3VLForConditionalGeneration(config), _qwen3_processor(sizes, tokenizer)


def qwen3_vl_moe(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    """Four experts, of which two answer for a token."""
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    tokenizer = tokens(special=MARKS)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": sizes.text["hidden_size"]}
    config = Qwen3VLMoeConfig(**_qwen3_numbers(sizes, tokenizer, experts))
    return Qwen3VLMoeForConditionalGeneration(config), _qwen3_processor(sizes, tokenizer)


def qwen3_5(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    """The last layer attends, those before are of linear attention; a quarter of a head of 32 or more is rotated."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    tokenizer = tokens(special=MARKS)
    wide, layers = max(32, head_dim(sizes)), sizes.text["num_hidden_layers"]
    pairs = wide // 8
    side = pairs // 3
    text = text_numbers(sizes, tokenizer) | {
        "head_dim": wide,
        "layer_types": [*["linear_attention"] * (layers - 1), "full_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.25,
            "mrope_section": [pairs - 2 * side, side, side],
            "mrope_interleaved": True,
        },
    }
    vision = _qwen3_vision(sizes)
    vision.pop("deepstack_visual_indexes")
    config = Qwen3_5Config(text_config=text, vision_config=vision, **_ids(tokenizer), tie_word_embeddings=sizes.tied)
    return Qwen3_5ForConditionalGeneration(config), _qwen3_processor(sizes, tokenizer)


# -------------------------------------------------------------------- numbers


def _text(sizes: Sizes, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections(head_dim(sizes))}
    return text_numbers(sizes, tokenizer) | {"rope_parameters": rope}


def sections(head: int) -> list[int]:
    """Frequencies for (time, height, width): a quarter for time, the rest in halves, as 16, 24, 24 of the originals."""
    time = head // 8
    height = (head // 2 - time) // 2
    return [time, height, head // 2 - time - height]


def interleaved_sections(head: int) -> list[int]:
    """Frequencies for (time, height, width) that take turns: 24, 20, 20 in the originals."""
    side = head // 2 * 5 // 16
    return [head // 2 - 2 * side, side, side]


def _vision(sizes: Sizes) -> dict[str, Any]:
    return {
        "hidden_size": sizes.vision["hidden_size"],
        "depth": sizes.vision["layers"],
        "num_heads": sizes.vision["heads"],
        "patch_size": sizes.patch,
        "spatial_merge_size": sizes.merge,
        "initializer_range": sizes.vision["initializer_range"],
    }


def _qwen3_vision(sizes: Sizes) -> dict[str, Any]:
    inner = list(range(sizes.vision["layers"] - 1))[: min(3, sizes.text["num_hidden_layers"])]
    return _vision(sizes) | {
        "intermediate_size": 2 * sizes.vision["hidden_size"],
        "out_hidden_size": sizes.text["hidden_size"],
        "num_position_embeddings": (sizes.tile // sizes.patch) ** 2,  # interpolated to the grid of each picture
        "deepstack_visual_indexes": inner,
    }


def _qwen3_numbers(sizes: Sizes, tokenizer: PreTrainedTokenizerBase, more: dict[str, Any]) -> dict[str, Any]:
    head = head_dim(sizes)
    text = _text(sizes, tokenizer) | {"head_dim": head} | more
    text["rope_parameters"] |= {"mrope_section": interleaved_sections(head), "mrope_interleaved": True}
    ids = _ids(tokenizer)
    return {"text_config": text, "vision_config": _qwen3_vision(sizes), **ids, "tie_word_embeddings": sizes.tied}


def _ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    find = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": find("<|image_pad|>"),
        "video_token_id": find("<|video_pad|>"),
        "vision_start_token_id": find("<|vision_start|>"),
        "vision_end_token_id": find("<|vision_end|>"),
    }


def _processor(processor: Any, sizes: Sizes, tokenizer: PreTrainedTokenizerBase, **colours: Any) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    cells: dict[str, Any] = {"patch_size": sizes.patch, "merge_size": sizes.merge, **colours}
    smallest, largest = sizes.pixels
    videos = Qwen3VLVideoProcessor if processor is Qwen3VLProcessor else Qwen2VLVideoProcessor
    return processor(
        image_processor=Qwen2VLImageProcessor(
            **cells, temporal_patch_size=2, size={"shortest_edge": smallest, "longest_edge": largest}
        ),
        tokenizer=tokenizer,
        video_processor=videos(**cells),
        chat_template=chatml(
            "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
        ),
    )


def _qwen3_processor(sizes: Sizes, tokenizer: PreTrainedTokenizerBase) -> Any:
    from transformers import Qwen3VLProcessor

    return _processor(Qwen3VLProcessor, sizes, tokenizer, image_mean=HALF, image_std=HALF)
