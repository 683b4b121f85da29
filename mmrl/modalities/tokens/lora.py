"""Which layers of a model LoRA may adapt."""

from __future__ import annotations

import inspect
import re
from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any, cast

from torch import nn


def adaptable(model: nn.Module) -> list[str]:
    """Names of the linear layers below a module that an adapter has an effect on, and may have one on.

    Left out: the head, routers and gates of a mixture of experts (which expert a token goes to is decided by near
    ties, and a moved router changes the function in jumps), and layers whose weight their parent reads itself, as the
    kernels of state-space models do: an adapter on these would be passed by. Experts that are one tensor for all are no
    linear layers, and a layer beside them that peft takes by its name for one of theirs is left out with them.
    """
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    modules = dict(model.named_modules())
    found = []
    for name, module in modules.items():
        plain = getattr(module, "base_layer", module)  # adapted already
        if type(plain) not in (nn.Linear, Conv1D) or module is head or ".base_layer" in name or "lora_" in name:
            continue
        path, _, last = name.rpartition(".")
        parent = modules[path]
        if not _routes(path.split("."), last, parent) and last not in _read_directly(cast(Hashable, type(parent))):
            found.append(name)
    return _known_to_peft(model, found)


def targets_of(model: nn.Module, targets: Sequence[str] | None) -> list[str]:
    """Names of the layers that `targets` (names, or their ends) mean, or of all that can be adapted for None.

    Raises ValueError for a target that none of them is.
    """
    found = adaptable(model)
    ends = sorted({name.rpartition(".")[2] for name in found})
    chosen: dict[str, None] = {}
    for target in [""] if targets is None else targets:
        own = [name for name in found if not target or name == target or name.endswith(f".{target}")]
        if not own:
            wrong = f"lora.targets {target!r}: no such layer" if target else "LoRA has no layer to adapt"
            raise ValueError(f"{wrong} in {type(model).__name__}; there are {', '.join(ends) or 'none: train full'}")
        chosen |= dict.fromkeys(own)
    return list(chosen)


def _routes(path: list[str], last: str, parent: nn.Module) -> bool:
    if any("router" in part for part in (*path, last)):
        return True
    return hasattr(parent, "experts") and "gate" in last and last not in ("gate_proj", "gate_up_proj")


def _known_to_peft(model: Any, names: list[str]) -> list[str]:
    """Those that peft adapts where they are. For a mixture of experts it reads names of older checkpoints: `gate_proj`
    of a shared expert, or of a dense layer, would become an adapter on all experts, and none on the layer."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    read = LoraConfig(target_modules=list(names))
    convert_peft_config_for_transformers(read, model=model, conversions=None)
    kept = set(read.target_modules or ())
    return [name for name in names if name in kept]


@cache
def _read_directly(kind: Hashable) -> frozenset[str]:
    """Children whose `weight` the class reads instead of calling them."""
    try:
        source = inspect.getsource(cast(type, kind))
    except (OSError, TypeError):
        return frozenset()
    return frozenset(re.findall(r"self\.(\w+)\.weight\b(?!\.dtype|\.device|\.shape|\[)", source))
