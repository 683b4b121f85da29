"""Tiny thinkers of Qwen2.5-Omni and Qwen3-Omni (with experts), which hear and see."""

from __future__ import annotations

from typing import Any

from mmrl.modalities.audio.tiny.sizes import Sizes, Tokens, chatml, extractor, text_numbers, tower_numbers

PATCH, MERGE = 8, 2
CELL = PATCH * MERGE
WINDOW = 25  # half of the frames that Qwen2.5-Omni's tower hears at once; 100 in the released models


def qwen2_5_omni(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5OmniProcessor,
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
    )

    tokenizer = tokens(named=_names("<|AUDIO|>", "<|audio_{}|>", ("bos", "eos"), "<|IMAGE|>", "<|VIDEO|>"))
    wide = sizes.text["hidden_size"]
    hearing = tower_numbers(sizes) | {"output_dim": wide, "n_window": WINDOW}
    seeing = _seeing(sizes) | {
        "out_hidden_size": wide,
        "window_size": 4 * CELL,
        "fullatt_block_indexes": [sizes.layers - 1],
    }
    ids = _ids(tokenizer)
    config = Qwen2_5OmniThinkerConfig(
        audio_config=hearing,
        vision_config=seeing,
        text_config=_text(sizes, tokenizer, interleaved=False),
        audio_token_index=ids.pop("audio_token_id"),
        image_token_index=ids.pop("image_token_id"),
        video_token_index=ids.pop("video_token_id"),
        **ids,
    )
    return Qwen2_5OmniThinkerForConditionalGeneration(config), _processor(Qwen2_5OmniProcessor, sizes, tokenizer)


def qwen3_omni_moe(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    """Four experts, of which two answer for a token."""
    from transformers import (
        Qwen3OmniMoeProcessor,
        Qwen3OmniMoeThinkerConfig,
        Qwen3OmniMoeThinkerForConditionalGeneration,
    )

    tokenizer = tokens(
        named=_names("<|audio_pad|>", "<|audio_{}|>", ("start", "end"), "<|image_pad|>", "<|video_pad|>")
    )
    wide = sizes.text["hidden_size"]
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": wide}
    hearing = tower_numbers(sizes) | {"output_dim": wide, "downsample_hidden_size": 16, "n_window_infer": 200}
    seeing = _seeing(sizes) | {
        "out_hidden_size": wide,
        "num_position_embeddings": 16,  # interpolated to the grid of each picture
        "deepstack_visual_indexes": list(range(min(sizes.layers - 1, sizes.text["num_hidden_layers"]))),
    }
    config = Qwen3OmniMoeThinkerConfig(
        audio_config=hearing,
        vision_config=seeing,
        text_config=_text(sizes, tokenizer, interleaved=True) | experts,
        **_ids(tokenizer),
    )
    return Qwen3OmniMoeThinkerForConditionalGeneration(config), _processor(Qwen3OmniMoeProcessor, sizes, tokenizer)


# -------------------------------------------------------------------- numbers


def _names(audio: str, around: str, ends: tuple[str, str], image: str, video: str) -> dict[str, str]:
    """Attribute of the tokenizer -> its special token."""
    first, last = ends
    return {
        "audio_token": audio,
        "audio_bos_token": around.format(first),
        "audio_eos_token": around.format(last),
        "image_token": image,
        "video_token": video,
        "vision_bos_token": f"<|vision_{first}|>",
        "vision_eos_token": f"<|vision_{last}|>",
    }


def _ids(tokenizer: Any) -> dict[str, Any]:
    find = tokenizer.convert_tokens_to_ids
    made = {f"{kind}_token_id": find(getattr(tokenizer, f"{kind}_token")) for kind in ("audio", "image", "video")}
    for kind in ("audio", "vision"):
        for end, named in (("start", "bos"), ("end", "eos")):
            made[f"{kind}_{end}_token_id"] = find(getattr(tokenizer, f"{kind}_{named}_token"))
    return made


def _text(sizes: Sizes, tokenizer: Any, interleaved: bool) -> dict[str, Any]:
    """Frequencies of (time, height, width): 16, 24, 24 of the released models, interleaved 24, 20, 20."""
    head = sizes.text["hidden_size"] // sizes.text["num_attention_heads"]
    half = head // 2
    time = half - 2 * (half * 5 // 16) if interleaved else half // 4
    side = (half - time) // 2
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [time, side, half - time - side],
    }
    own = {"head_dim": head} if interleaved else {"tie_word_embeddings": False}
    rope |= {"mrope_interleaved": True} if interleaved else {}
    return text_numbers(sizes, tokenizer) | own | {"rope_parameters": rope}


def _seeing(sizes: Sizes) -> dict[str, Any]:
    return {
        "hidden_size": sizes.hidden,
        "intermediate_size": 2 * sizes.hidden,
        "depth": sizes.layers,
        "num_heads": sizes.heads,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "initializer_range": sizes.text["initializer_range"],
    }


def _processor(kind: Any, sizes: Sizes, tokenizer: Any) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    pixels = {"shortest_edge": 4 * CELL**2, "longest_edge": 64 * CELL**2}
    cells: dict[str, Any] = {"patch_size": PATCH, "merge_size": MERGE, "size": pixels}
    t = tokenizer
    around = {
        "sound": f"{t.audio_bos_token}{t.audio_token}{t.audio_eos_token}",
        "picture": f"{t.vision_bos_token}{t.image_token}{t.vision_eos_token}",
        "video": f"{t.vision_bos_token}{t.video_token}{t.vision_eos_token}",
    }
    return kind(
        image_processor=Qwen2VLImageProcessor(temporal_patch_size=2, **cells),
        video_processor=Qwen2VLVideoProcessor(**cells),
        feature_extractor=extractor(sizes),
        tokenizer=tokenizer,
        chat_template=chatml(**around),
    )
