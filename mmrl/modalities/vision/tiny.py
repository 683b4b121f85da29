"""Tiny untrained vision-language models with processors of their own, made without any file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from mmrl.modalities.tokens.tokenizer import build_tokenizer

QWEN = (
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
INTERNVL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
IDEFICS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}
Tokens = Callable[..., Any]  # build_tokenizer that has its corpus and wants the special tokens
MOST_TILES = 6  # along a side: the processors of Idefics3 and SmolVLM have names for no more

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}{{ 'PICTURE' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Sizes:
    """What the arguments of `build` come to, for the functions that make one family each."""

    text: dict[str, Any]  # of the decoder's config, but for what the tokenizer decides
    vision: dict[str, Any]  # hidden_size and depth of the tower; the names differ by family
    patch: int
    merge: int
    tile: int
    tiles: int
    pixels: tuple[int, int]
    tied: bool


def build(
    kind: str = "qwen2_5_vl",
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vision_hidden: int = 64,
    vision_layers: int = 2,
    vision_heads: int = 4,
    patch: int = 14,
    merge: int = 2,
    min_pixels: int = 0,
    max_pixels: int = 0,
    image_size: int = 0,
    tiles: int = 1,
    context: int = 2048,
    tied: bool = True,
    initializer_range: float = 0.02,
    seed: int = 0,
    corpus: str | Sequence[str] = (),
    vocab: int = 0,
) -> tuple[Any, Any]:
    """(model, processor) of one of KINDS, the same for the same arguments.

    hidden, layers, heads, kv_heads: the decoder; vision_hidden, vision_layers, vision_heads: the vision tower.
    patch: side of a patch in pixels. merge: merge x merge patches become one visual token (paligemma: one each).
    min_pixels, max_pixels: area to which a qwen*-vl processor resizes a picture, kept in shape and rounded to cells of
    patch * merge pixels; 0 is 4 and 64 cells. The other families cut or resize to squares of image_size pixels (0 is
    4 cells), and internvl, idefics3 and smolvlm show up to tiles x tiles of them and the whole picture as one more;
    with tiles=1 just the whole. initializer_range: standard deviation of the weights; the default is meant for widths
    above a thousand, and at a width of 128 leaves attention so even that it hardly learns: hidden**-0.5 suits it.
    corpus, vocab: see `build_tokenizer`;
    paligemma's processor adds its 1152 places and codes.

    Raises ValueError for an unknown kind and for sizes that do not divide.
    """
    if kind not in KINDS:
        raise ValueError(f"model.build.kind={kind!r}: known are {', '.join(KINDS)}")
    cell = patch if kind == "paligemma" else patch * merge
    tile = image_size or 4 * cell
    for name, whole, part in (
        ("hidden, heads", hidden, 2 * heads),
        ("heads, kv_heads", heads, kv_heads),
        ("vision_hidden, vision_heads", vision_hidden, 4 * vision_heads),
        ("image_size", tile, cell),
    ):
        if whole % part:
            raise ValueError(f"model.build: {name}: {whole} is no multiple of {part}")
    if not 1 <= tiles <= MOST_TILES:
        raise ValueError(f"model.build.tiles={tiles}: from 1 to {MOST_TILES}")
    sizes = Sizes(
        text={
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": context,
            "initializer_range": initializer_range,
            "bos_token_id": None,
        },
        vision={
            "hidden_size": vision_hidden,
            "layers": vision_layers,
            "heads": vision_heads,
            "initializer_range": initializer_range,
        },
        patch=patch,
        merge=merge,
        tile=tile,
        tiles=tiles,
        pixels=(min_pixels or 4 * cell**2, max_pixels or 64 * cell**2),
        tied=tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = KINDS[kind](sizes, partial(build_tokenizer, corpus, vocab, chat=False))
    tokenizer = processor.tokenizer
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # the latter is what is saved
    for holder in (model.generation_config, model.config.get_text_config()):
        holder.bos_token_id = tokenizer.bos_token_id
        holder.eos_token_id = tokenizer.eos_token_id
        holder.pad_token_id = tokenizer.pad_token_id
    return model, processor


def _qwen2_vl(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    tokenizer = tokens(special=QWEN)
    vision = {"embed_dim": sizes.vision["hidden_size"], "hidden_size": sizes.text["hidden_size"], "mlp_ratio": 2}
    config = Qwen2VLConfig(
        text_config=_qwen_text(sizes, tokenizer),
        vision_config=_qwen_vision(sizes) | vision,
        **_qwen_ids(tokenizer),
        tie_word_embeddings=sizes.tied,
    )
    return Qwen2VLForConditionalGeneration(config), _qwen_processor(Qwen2VLProcessor, sizes, tokenizer)


def _qwen2_5_vl(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    tokenizer = tokens(special=QWEN)
    vision = {
        "intermediate_size": 2 * sizes.vision["hidden_size"],
        "out_hidden_size": sizes.text["hidden_size"],
        "window_size": 4 * sizes.patch * sizes.merge,  # 4 x 4 cells, as in the released models
        "fullatt_block_indexes": [sizes.vision["layers"] - 1],
    }
    config = Qwen2_5_VLConfig(
        text_config=_qwen_text(sizes, tokenizer),
        vision_config=_qwen_vision(sizes) | vision,
        **_qwen_ids(tokenizer),
        tie_word_embeddings=sizes.tied,
    )
    return Qwen2_5_VLForConditionalGeneration(config), _qwen_processor(Qwen2_5_VLProcessor, sizes, tokenizer)


def _qwen3_vl(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    tokenizer = tokens(special=QWEN)
    head_dim = sizes.text["hidden_size"] // sizes.text["num_attention_heads"]
    side = sizes.tile // sizes.patch
    vision = {
        "intermediate_size": 2 * sizes.vision["hidden_size"],
        "out_hidden_size": sizes.text["hidden_size"],
        "num_position_embeddings": side**2,  # interpolated to the grid of each picture
        "deepstack_visual_indexes": list(range(sizes.vision["layers"] - 1))[: min(3, sizes.text["num_hidden_layers"])],
    }
    text = _qwen_text(sizes, tokenizer) | {"head_dim": head_dim}
    text["rope_parameters"] |= {"mrope_section": _interleaved_sections(head_dim), "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=_qwen_vision(sizes) | vision,
        **_qwen_ids(tokenizer),
        tie_word_embeddings=sizes.tied,
    )
    return Qwen3VLForConditionalGeneration(config), _qwen_processor(Qwen3VLProcessor, sizes, tokenizer)


def _internvl(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    tokenizer = tokens(named=INTERNVL)
    square = {"height": sizes.tile, "width": sizes.tile}
    visual_tokens = (sizes.tile // sizes.patch // sizes.merge) ** 2
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            size=square, crop_to_patches=sizes.tiles > 1, min_patches=1, max_patches=sizes.tiles**2
        ),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=square),
        image_seq_length=visual_tokens,
        chat_template=CHATML.replace("PICTURE", "<IMG_CONTEXT>\\n"),
    )
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **_text(sizes, tokenizer)},
        vision_config=_vision(sizes) | {"image_size": [sizes.tile] * 2, "patch_size": [sizes.patch] * 2},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=visual_tokens,
        downsample_ratio=1 / sizes.merge,
        tie_word_embeddings=sizes.tied,
    )
    return InternVLForConditionalGeneration(config), processor


def _idefics3(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    tokenizer = tokens(special=_tile_names(), named=IDEFICS)
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(**_idefics_pictures(sizes)),
        tokenizer=tokenizer,
        image_seq_len=(sizes.tile // sizes.patch // sizes.merge) ** 2,
        chat_template=CHATML.replace("PICTURE", "<image>"),
    )
    return Idefics3ForConditionalGeneration(Idefics3Config(**_idefics_numbers(sizes, tokenizer))), processor


def _smolvlm(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    tokenizer = tokens(special=_tile_names(), named=IDEFICS)
    square = {"longest_edge": sizes.tile}
    films: dict[str, Any] = {"video_sampling": {"fps": 1, "max_frames": 4, "video_size": square}}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**_idefics_pictures(sizes)),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(size=square, max_image_size=square, **films),
        image_seq_len=(sizes.tile // sizes.patch // sizes.merge) ** 2,
        chat_template=CHATML.replace("PICTURE", "<image>"),
    )
    return SmolVLMForConditionalGeneration(SmolVLMConfig(**_idefics_numbers(sizes, tokenizer))), processor


def _paligemma(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
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
    text = _text(sizes, tokenizer) | {"head_dim": hidden // sizes.text["num_attention_heads"]}
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", **text, "bos_token_id": tokenizer.bos_token_id},
        vision_config=_vision(sizes)
        | {
            "model_type": "siglip_vision_model",
            "image_size": sizes.tile,
            "patch_size": sizes.patch,
            "vision_use_head": False,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vocab_size=len(tokenizer),
        projection_dim=hidden,
        hidden_size=hidden,
        tie_word_embeddings=sizes.tied,
    )
    return PaliGemmaForConditionalGeneration(config), processor


KINDS: dict[str, Callable[[Sizes, Tokens], tuple[Any, Any]]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "internvl": _internvl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "paligemma": _paligemma,
}


def _tile_names() -> list[str]:
    return [f"<row_{row + 1}_col_{column + 1}>" for row in range(MOST_TILES) for column in range(MOST_TILES)]


def _text(sizes: Sizes, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return sizes.text | ids | {"vocab_size": len(tokenizer), "tie_word_embeddings": sizes.tied}


def _vision(sizes: Sizes) -> dict[str, Any]:
    hidden, layers, heads = (sizes.vision[name] for name in ("hidden_size", "layers", "heads"))
    return {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "initializer_range": sizes.vision["initializer_range"],
    }


def _qwen_text(sizes: Sizes, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    head_dim = sizes.text["hidden_size"] // sizes.text["num_attention_heads"]
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": _sections(head_dim)}
    return _text(sizes, tokenizer) | {"rope_parameters": rope}


def _sections(head_dim: int) -> list[int]:
    """Frequencies for (time, height, width): a quarter for time, the rest in halves, as 16, 24, 24 of the originals."""
    time = head_dim // 8
    height = (head_dim // 2 - time) // 2
    return [time, height, head_dim // 2 - time - height]


def _interleaved_sections(head_dim: int) -> list[int]:
    """Frequencies for (time, height, width) that take turns: 24, 20, 20 in the originals."""
    side = head_dim // 2 * 5 // 16
    return [head_dim // 2 - 2 * side, side, side]


def _qwen_vision(sizes: Sizes) -> dict[str, Any]:
    return {
        "hidden_size": sizes.vision["hidden_size"],
        "depth": sizes.vision["layers"],
        "num_heads": sizes.vision["heads"],
        "patch_size": sizes.patch,
        "spatial_merge_size": sizes.merge,
        "initializer_range": sizes.vision["initializer_range"],
    }


def _qwen_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    find = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": find("<|image_pad|>"),
        "video_token_id": find("<|video_pad|>"),
        "vision_start_token_id": find("<|vision_start|>"),
        "vision_end_token_id": find("<|vision_end|>"),
    }


def _qwen_processor(processor: Any, sizes: Sizes, tokenizer: PreTrainedTokenizerBase) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    cells: dict[str, Any] = {"patch_size": sizes.patch, "merge_size": sizes.merge}
    smallest, largest = sizes.pixels
    videos = Qwen3VLVideoProcessor if processor is Qwen3VLProcessor else Qwen2VLVideoProcessor
    return processor(
        image_processor=Qwen2VLImageProcessor(
            **cells, temporal_patch_size=2, size={"shortest_edge": smallest, "longest_edge": largest}
        ),
        tokenizer=tokenizer,
        video_processor=videos(**cells),
        chat_template=CHATML.replace("PICTURE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )


def _idefics_pictures(sizes: Sizes) -> dict[str, Any]:
    return {
        "size": {"longest_edge": sizes.tile * sizes.tiles},
        "max_image_size": {"longest_edge": sizes.tile},
        "do_image_splitting": sizes.tiles > 1,
    }


def _idefics_numbers(sizes: Sizes, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "text_config": {"model_type": "llama", **_text(sizes, tokenizer)},
        "vision_config": _vision(sizes) | {"image_size": sizes.tile, "patch_size": sizes.patch},
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": sizes.merge,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": sizes.tied,
    }
