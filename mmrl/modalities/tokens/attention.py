"""Which implementation of attention a model may have: what the class offers, and what leaves no part of it out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from mmrl.modalities.tokens.config import TokenModelConfig

FLAGS = {"sdpa": "_supports_sdpa", "flash_attention_2": "_supports_flash_attn"}


def options(config: TokenModelConfig) -> dict[str, Any]:
    """The argument of `from_pretrained`; without it transformers takes sdpa where the class has it, otherwise eager."""
    return {} if config.attention == "auto" else {"attn_implementation": config.attention}


def check_class(model_class: Any, config: TokenModelConfig) -> None:
    """Raises ValueError for a choice that the class does not offer, before its weights are read."""
    flag = FLAGS.get(config.attention)
    if flag is not None and not getattr(model_class, flag, True):
        raise ValueError(_refusal(model_class, config, f"transformers has it not for {model_class.__name__}"))


@contextlib.contextmanager
def explained(model_class: Any, config: TokenModelConfig) -> Iterator[None]:
    """What transformers says of a choice that cannot work here (a package, a device), in one line."""
    try:
        yield
    except (ImportError, ValueError) as error:
        if config.attention == "auto" or "attention" not in str(error).lower():
            raise
        raise ValueError(_refusal(model_class, config, str(error).split(". ")[0])) from error


def settle(model: Any, config: TokenModelConfig) -> None:
    """The wanted attention for a model that is there. sdpa knows neither soft caps nor sinks, and some versions of it
    drop them without a word: with auto such a model computes eagerly. Raises ValueError where sdpa is the choice."""
    check_class(type(model), config)
    if config.attention != "auto":
        with explained(type(model), config):
            model.set_attn_implementation(config.attention)
    numbers = model.config.get_text_config()
    part = "a soft cap" if getattr(numbers, "attn_logit_softcapping", None) else None
    if any(name.rpartition(".")[2] == "sinks" for name, _ in model.named_parameters()):
        part = "attention sinks"
    if part is None or numbers._attn_implementation != "sdpa":
        return
    if config.attention == "sdpa":
        raise ValueError(_refusal(type(model), config, f"it would leave {part} out"))
    model.set_attn_implementation("eager")


def _refusal(model_class: Any, config: TokenModelConfig, why: str) -> str:
    name = model_class.__name__
    return f"attention={config.attention} cannot be had for {name}: {why}; leave it at auto, or set eager"
