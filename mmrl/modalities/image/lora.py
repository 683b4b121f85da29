"""LoRA (peft) on the denoiser of a family: put on or read, told from the weights beneath, written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mmrl.modalities import unread
from mmrl.modalities.files import is_local
from mmrl.modalities.image.config import LoraConfig
from mmrl.modalities.image.families.base import Family
from mmrl.share import resolve

NAME = "default"


def add(family: Family, config: LoraConfig) -> None:
    """Put new matrices on the denoiser, or those in the folder `config.path`, with the rank and scale they have there.

    Raises FileNotFoundError where a local folder is not there, ValueError where its LoRA is on the text encoders too,
    which would not be trained nor saved.
    """
    if config.path is not None:
        source = config.path
        if is_local(source):
            if not resolve(source).exists():
                raise FileNotFoundError(
                    f"model.lora.path {source!r}: {resolve(source)} is not there; give a folder with "
                    "pytorch_lora_weights.safetensors, or a hub id"
                )
            source = str(resolve(source))
        with _standing_in(family):
            family.load_lora(source, NAME)
        beside = [name for name, encoder in family.text_encoders.items() if getattr(encoder, "peft_config", None)]
        if beside or not all(getattr(module, "peft_config", None) for module in family.denoisers.values()):
            found = f"LoRA of {', '.join(beside)}" if beside else "no LoRA of the denoiser"
            raise ValueError(f"model.lora.path {config.path!r} holds {found}; only LoRA of the denoiser is trained")
    else:
        _put(family, config)
    from mmrl.modalities.image.folded import fold  # imports peft, which only LoRA needs

    fold(family)


def _put(family: Family, config: LoraConfig) -> None:
    import peft

    targets = list(config.targets or family.lora_targets)
    matrices = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, init_lora_weights="gaussian", target_modules=targets
    )
    with _standing_in(family):
        for module in family.denoisers.values():
            module.add_adapter(matrices, adapter_name=NAME)


@contextmanager
def _standing_in(family: Family) -> Iterator[None]:
    """See unread.standing_in, for all denoisers."""
    with ExitStack() as stack:
        for module in family.denoisers.values():
            stack.enter_context(unread.standing_in(module))
        yield


def is_lora(parameter: str) -> bool:
    """Whether a parameter of this name is one of the matrices."""
    return "lora_" in parameter


def scales(family: Family) -> dict[str, float]:
    """By what the product of each pair of matrices is scaled, by the layer's name; {} without LoRA."""
    return {
        f"{name}.{key}": float(layer.scaling[NAME])
        for name, module in family.denoisers.items()
        for key, layer in module.named_modules()
        if NAME in getattr(layer, "scaling", {})
    }


def save(family: Family, folder: Path) -> None:
    """Write the matrices so that the pipeline's own `load_lora_weights(folder)` takes them."""
    from peft import get_peft_model_state_dict

    written: dict[str, tuple[Any, dict[str, Any]]] = {}
    for name, part in family.policies.items():
        module = family.denoisers[name]
        # Without the metadata a reader takes alpha = rank, and with it another scale. Sets have no order of their own.
        about = {k: sorted(v) if isinstance(v, set) else v for k, v in module.peft_config[NAME].to_dict().items()}
        written[part] = get_peft_model_state_dict(module, adapter_name=NAME), about
    family.save_lora(folder, written)
