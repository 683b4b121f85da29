"""Tiny Qwen2-Audio, Audio Flamingo 3 and Voxtral: Whisper's encoder before a language model."""

from __future__ import annotations

import math
from typing import Any

import torch

from mmrl.modalities.audio.tiny.sizes import Sizes, Tokens, chatml, extractor, text_numbers, tower_numbers

VOXTRAL_AUDIO = 24  # the id that its processor takes for granted
VOXTRAL_MARKS = ("<s>", "</s>", "[INST]", "[/INST]", "[BEGIN_AUDIO]")
# Sounds stand where they are said; an answer follows at once, and ends with </s>.
INSTRUCT = (
    "{{ '<s>' }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set before, behind = '[SYSTEM_PROMPT]', '[/SYSTEM_PROMPT]' %}"
    "{% elif m['role'] == 'user' %}{% set before, behind = '[INST]', '[/INST]' %}"
    "{% else %}{% set before, behind = '', '</s>' %}{% endif %}"
    "{{ before }}{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'audio' %}{{ '[BEGIN_AUDIO][AUDIO]' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ behind }}{% endfor %}"
)


def qwen2_audio(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    tokenizer = tokens(special=["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"])
    config = Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", **tower_numbers(sizes)},
        text_config={"model_type": "qwen2", "tie_word_embeddings": False, **text_numbers(sizes, tokenizer)},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        tie_word_embeddings=False,
    )
    model = _with_sinusoids(Qwen2AudioForConditionalGeneration(config))
    return model, Qwen2AudioProcessor(feature_extractor=extractor(sizes), tokenizer=tokenizer)


def audioflamingo3(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration, AudioFlamingo3Processor

    tokenizer = tokens(special=["<sound>"])
    config = AudioFlamingo3Config(
        audio_config={"model_type": "audioflamingo3_encoder", **tower_numbers(sizes)},
        text_config={"model_type": "qwen2", "tie_word_embeddings": False, **text_numbers(sizes, tokenizer)},
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
        tie_word_embeddings=False,
    )
    model = _with_sinusoids(AudioFlamingo3ForConditionalGeneration(config))
    processor = AudioFlamingo3Processor(extractor(sizes), tokenizer, chat_template=chatml("<sound>"))
    return model, processor


def voxtral(sizes: Sizes, tokens: Tokens) -> tuple[Any, Any]:
    from transformers import VoxtralConfig, VoxtralForConditionalGeneration, VoxtralProcessor

    others = ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    filled = [*VOXTRAL_MARKS, *others]
    filled += [f"<SPECIAL_{n}>" for n in range(3 + len(filled), VOXTRAL_AUDIO)]  # behind the tokenizer's own three
    tokenizer = tokens(special=[*filled, "[AUDIO]"])
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = "<s>", "</s>", INSTRUCT
    head = sizes.text["hidden_size"] // sizes.text["num_attention_heads"]
    config = VoxtralConfig(
        audio_config={"model_type": "voxtral_encoder", **tower_numbers(sizes, inner=4)},
        text_config={
            "model_type": "llama",
            "head_dim": head,
            "tie_word_embeddings": False,
            **text_numbers(sizes, tokenizer),
        },
        audio_token_id=VOXTRAL_AUDIO,
        tie_word_embeddings=False,
    )
    model = _with_sinusoids(VoxtralForConditionalGeneration(config))
    return model, VoxtralProcessor(extractor(sizes), tokenizer)


@torch.no_grad()
def _with_sinusoids(model: Any) -> Any:
    """Whisper's table of positions, which is never trained: sines, then cosines, of wave lengths up to 10,000."""
    table = model.model.audio_tower.embed_positions.weight
    count, width = table.shape
    rates = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2, device=table.device))
    angles = torch.arange(count, device=table.device)[:, None] * rates[None]
    table.copy_(torch.cat([angles.sin(), angles.cos()], 1))
    return model
