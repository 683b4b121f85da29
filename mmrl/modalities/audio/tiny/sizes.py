"""What the arguments of `build` come to, and what families share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Tokens = Callable[..., Any]  # build_tokenizer that has its corpus and wants the special tokens
FRAMES = 100  # of a second


@dataclass(frozen=True)
class Sizes:
    """text: of the decoder's config, but for what the tokenizer decides. The others: see `build`."""

    text: dict[str, Any]
    hidden: int
    layers: int
    heads: int
    mels: int
    seconds: int


def extractor(sizes: Sizes) -> Any:
    """Whisper's, of fewer bands and a shorter window."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=sizes.mels, chunk_length=sizes.seconds, return_attention_mask=True)


def text_numbers(sizes: Sizes, tokenizer: Any) -> dict[str, Any]:
    """Of a decoder's config."""
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return sizes.text | ids | {"vocab_size": len(tokenizer)}


def tower_numbers(sizes: Sizes, inner: int = 2) -> dict[str, Any]:
    """Of the config of a tower that hears; its inner layers are `inner` times as wide."""
    return {
        "d_model": sizes.hidden,
        "encoder_layers": sizes.layers,
        "encoder_attention_heads": sizes.heads,
        "encoder_ffn_dim": inner * sizes.hidden,
        "num_mel_bins": sizes.mels,
        "max_source_positions": sizes.seconds * FRAMES // 2,
        "initializer_range": sizes.text["initializer_range"],
    }


def chatml(sound: str, picture: str = "", video: str = "") -> str:
    """ChatML with what stands for a sound, a picture and a video."""
    marks = {"audio": sound, "image": picture, "video": video}
    cases = "".join(f"{{% if part['type'] == '{k}' %}}{{{{ '{mark}' }}}}{{% endif %}}" for k, mark in marks.items())
    return (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
        f"{cases}{{% if part['type'] == 'text' %}}{{{{ part['text'] }}}}{{% endif %}}"
        "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
