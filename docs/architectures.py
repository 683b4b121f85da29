"""Tiny models of every architecture in docs/models.md, made from its own configuration class, without any file.

Windows and chunks are of 12 tokens, so that prompts are longer than these. Weights are large, so that what a model does
wrong shows in its log-probabilities: as transformers draws them, every token of a tiny model is about as likely.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmrl.modalities.tokens.tokenizer import build_tokenizer

WINDOW = 12
COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA = {  # gated delta rule
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
SSM = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8, "mamba_n_groups": 1}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 4.0, 8.0, 16.0],
    "original_max_position_embeddings": 96,
}
WINDOWED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}

# The name in the table -> model_type of transformers, and what differs from COMMON.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 2": ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "Llama 3": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            "tie_word_embeddings": True,
        },
    ),
    "Llama 4 (text)": (
        "llama4_text",
        {**EXPERTS, "intermediate_size_mlp": 48, "attention_chunk_size": WINDOW, "interleave_moe_layer_step": 2}
        | {"num_hidden_layers": 4, "floor_scale": 16},
    ),
    "Qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "Qwen3-MoE": ("qwen3_moe", {**EXPERTS, "norm_topk_prob": True}),
    "Qwen3-Next": ("qwen3_next", {**EXPERTS, **DELTA, "shared_expert_intermediate_size": 24}),
    "Qwen3.5 (text)": ("qwen3_5_text", DELTA),
    "Mistral": ("mistral", {"sliding_window": WINDOW}),
    "Mixtral": ("mixtral", EXPERTS),
    "Gemma 1": ("gemma", {"num_key_value_heads": 1}),
    "Gemma 2": ("gemma2", {**WINDOWED, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    "Gemma 3": ("gemma3_text", WINDOWED),
    "Phi-3": ("phi3", {"num_key_value_heads": 2}),
    "Phi-3 (longrope)": (
        "phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": LONGROPE["original_max_position_embeddings"]},
    ),
    "GPT-2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "GPT-NeoX": ("gpt_neox", {}),
    "Granite": (
        "granite",
        {"logits_scaling": 2.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3},
    ),
    "OLMo 2": ("olmo2", {}),
    "OLMo 3": ("olmo3", WINDOWED),
    "Cohere 1": ("cohere", {"logit_scale": 0.5}),
    "Cohere 2": ("cohere2", {**WINDOWED, "logit_scale": 0.5}),
    "SmolLM3": ("smollm3", {"no_rope_layer_interval": 2}),
    "GLM-4": ("glm4", {}),
    "DeepSeek-V3": (
        "deepseek_v3",
        {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 24}
        | {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 16, "qk_rope_head_dim": 4, "v_head_dim": 8}
        | {"qk_nope_head_dim": 8, "first_k_dense_replace": 1, "head_dim": 4, "num_mtp_layers": 0},
    ),
    "gpt-oss": ("gpt_oss", {**EXPERTS, **WINDOWED}),
    "OPT": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "Bloom": ("bloom", {"n_layer": 2, "n_head": 4}),
    "Falcon-H1": ("falcon_h1", {**SSM, "mamba_d_ssm": 64, "lm_head_multiplier": 0.5, "key_multiplier": 0.7}),
    "LFM2": ("lfm2", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    "Bamba": ("bamba", {**SSM, "attn_layer_indices": [1]}),
    "Jamba": (
        "jamba",
        {"num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1}
        | {"mamba_d_state": 8, "expert_layer_period": 2, "expert_layer_offset": 1},
    ),
    "Nemotron-H": (
        "nemotron_h",
        {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"], "num_hidden_layers": 4}
        | {"ssm_state_size": 8, "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "chunk_size": 8}
        | {"n_routed_experts": 4, "moe_intermediate_size": 24, "moe_shared_expert_intermediate_size": 24},
    ),
    "RecurrentGemma": (
        "recurrent_gemma",
        {"attention_window_size": WINDOW, "num_hidden_layers": 3, "logits_soft_cap": 5.0},
    ),
    "Mamba": ("mamba", {"state_size": 8}),
    "Mamba 2": ("mamba2", {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 8}),
}


def build(name: str) -> Any:
    """The model of an architecture, the same each time."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, numbers = ARCHITECTURES[name]
    tokenizer = build_tokenizer()
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    known = AutoConfig.for_model(kind)
    common = {key: value for key, value in COMMON.items() if hasattr(known, key) and key not in numbers}
    config = AutoConfig.for_model(kind, **common | ids | {"pad_token_id": tokenizer.pad_token_id} | numbers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def write(name: str, folder: Path) -> Path:
    """The model and a tokenizer in a folder, as a checkpoint."""
    build(name).save_pretrained(folder)
    build_tokenizer(chat=False).save_pretrained(folder)
    return folder
