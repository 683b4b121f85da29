"""Tiny models that cut pictures into tiles: InternVL, Idefics3, SmolVLM and LLaVA-OneVision."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from mmrl.modalities.vision.tiny.sizes import Sizes, Tokens, siglip_numbers, text_numbers, vision_numbers
from mmrl.modalities.vision.tiny.templates import PICTURES_FIRST, chatml, speakers

MOST_TILES = 6  # along a side: the processors of Idefics3 and SmolVLM have names for no more
INTERNVL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
BOXES = ["<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
IDEFICS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}
HALF = [0.5, 0.5, 0.5]


def internvl(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    """Its files say that pictures are not cut, as those of released models do."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    tokenizer = tokens(special=BOXES, named=INTERNVL)
    square = {"height": sizes.tile, "width": sizes.tile}
    colours: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    visual_tokens = (sizes.tile // sizes.patch // sizes.merge) ** 2
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            size=square, crop_to_patches=False, min_patches=1, max_patches=sizes.tiles**2, **colours
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=square, **colours),
        image_seq_length=visual_tokens,
        chat_template=chatml("<IMG_CONTEXT>\\n", "<video>\\n"),
    )
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **text_numbers(sizes, tokenizer)},
        vision_config=vision_numbers(sizes) | {"image_size": [sizes.tile] * 2, "patch_size": [sizes.patch] * 2},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=visual_tokens,
        downsample_ratio=1 / sizes.merge,
        tie_word_embeddings=sizes.tied,
    )
    return InternVLForConditionalGeneration(config), processor


def idefics3(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    classes = (Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, Idefics3ImageProcessor)
    return _idefics(sizes, tokens, *classes)


def smolvlm(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    classes = (SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor, SmolVLMImageProcessor)
    square = {"longest_edge": sizes.tile}
    films: dict[str, Any] = {"video_sampling": {"fps": 1, "max_frames": 4, "video_size": square}}
    video = SmolVLMVideoProcessor(size=square, max_image_size=square, **films)
    return _idefics(sizes, tokens, *classes, video_processor=video)


def _idefics(
    sizes: Sizes, tokens: Tokens, config: Any, model: Any, processor: Any, pictures: Any, **more: Any
) -> tuple[Any, Any]:
    """Of these classes; more: of the processor."""
    tokenizer = tokens(special=_tile_names(), named=IDEFICS)
    tokenizer.eos_token = IDEFICS["end_of_utterance_token"]
    made = processor(
        image_processor=pictures(**_idefics_pictures(sizes)),
        tokenizer=tokenizer,
        image_seq_len=(sizes.tile // sizes.patch // sizes.merge) ** 2,
        chat_template=speakers("<|im_start|>"),
        **more,
    )
    return model(config(**_idefics_numbers(sizes, tokenizer))), made


def llava_onevision(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    tokenizer = tokens(special=["<image>", "<video>"])
    square = {"height": sizes.tile, "width": sizes.tile}
    sides = [sizes.tile * (n + 1) for n in range(sizes.tiles)]
    grid = [[height, width] for height in sides for width in sides]
    colours: dict[str, Any] = {"image_mean": HALF, "image_std": HALF}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=grid, **colours),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=square, **colours),
        num_image_tokens=(sizes.tile // sizes.patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=PICTURES_FIRST,
    )
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text_numbers(sizes, tokenizer)},
        vision_config=siglip_numbers(sizes),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        tie_word_embeddings=sizes.tied,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


# -------------------------------------------------------------------- numbers


def _tile_names() -> list[str]:
    return [f"<row_{row + 1}_col_{column + 1}>" for row in range(MOST_TILES) for column in range(MOST_TILES)]


def _idefics_pictures(sizes: Sizes) -> dict[str, Any]:
    return {
        "size": {"longest_edge": sizes.tile * sizes.tiles},
        "max_image_size": {"longest_edge": sizes.tile},
        "do_image_splitting": sizes.tiles > 1,
    }


def _idefics_numbers(sizes: Sizes, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "text_config": {"model_type": "llama", **text_numbers(sizes, tokenizer)},
        "vision_config": vision_numbers(sizes) | {"image_size": sizes.tile, "patch_size": sizes.patch},
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": sizes.merge,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": sizes.tied,
    }
