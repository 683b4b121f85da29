"""What the vLLM engine must know of a model before it holds it: its head, and its shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
# Classes of vLLM that have no head at all, and refuse one: their logits come from the embeddings.
WITHOUT_HEAD = frozenset({"gemma2", "gemma3n", "gemma3n_text"})
# Keys of a config that decide how many weights of which shapes there are, or what a head does.
SHAPE = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "moe_intermediate_size",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "vocab_size",
    "tie_word_embeddings",
    "final_logit_softcapping",
    "depth",
    "patch_size",
    "d_model",
    "encoder_layers",
    "num_mel_bins",
)
PARTS = ("text_config", "vision_config", "audio_config")


@dataclass(frozen=True)
class Model:
    """tied: the output head is the embeddings. has_head: vLLM keeps one of its own. perceives: it reads pictures or
    sounds. shape: the keys of SHAPE that its config has, those of its parts behind the part's name."""

    tied: bool
    has_head: bool
    perceives: bool
    shape: Mapping[str, Any]

    @classmethod
    def of(cls, path: str | Path, only_here: bool = False) -> Model:
        """The model in a folder, or of a hub name; only_here: nothing is fetched. Raises OSError without a config."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(path, local_files_only=only_here)
        text = config.get_text_config()
        tied = bool(getattr(text, "tie_word_embeddings", False))
        has_head = not {config.model_type, text.model_type} & WITHOUT_HEAD
        perceives = any(hasattr(config, part) for part in PARTS[1:])
        return cls(tied, has_head, perceives, shape_of(config.to_dict()))

    def sent(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Weights as they come, with the output head by name where vLLM has one: it keeps a second copy, that a tied
        checkpoint (embeddings alone) would leave as it was."""
        embedding = head = None
        for name, weight in weights:
            if name.startswith("base_model.") or ".lora_" in name or ".base_layer." in name:
                raise ValueError(f"vllm: sync got {name!r}; merge the adapter into the weights, or run with lora=True")
            if name.endswith(EMBEDDING):
                embedding = weight.detach()
            if name == HEAD:
                head = weight
                if not self.has_head:
                    continue
            yield name, weight.detach()
        if self.tied and self.has_head and head is None:
            if embedding is None:
                raise ValueError(f"vllm: the output head is tied, and sync got neither {HEAD} nor ...{EMBEDDING}")
            yield HEAD, embedding


def shape_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of SHAPE in a config as a mapping, and in its parts."""
    found = {key: config[key] for key in SHAPE if config.get(key) is not None}
    for part in PARTS:
        if isinstance(config.get(part), Mapping):
            found |= {f"{part}.{key}": value for key, value in shape_of(config[part]).items()}
    return found


def differences(policy: Mapping[str, Any], server: Mapping[str, Any]) -> list[str]:
    """Where both say something, and not the same."""
    return [
        f"{key} {server[key]} there, {value} here"
        for key, value in policy.items()
        if key in server and server[key] != value
    ]
