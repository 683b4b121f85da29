"""LoRA (peft) on the denoiser of a family: put on or read, told from the weights beneath, written."""

from __future__ import annotations

from pathlib import Path

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
        family.pipeline.load_lora_weights(source, adapter_name=NAME, use_safetensors=True)
        beside = [name for name, encoder in family.text_encoders.items() if getattr(encoder, "peft_config", None)]
        if beside or not getattr(family.denoiser, "peft_config", None):
            found = f"LoRA of {', '.join(beside)}" if beside else "no LoRA of the denoiser"
            raise ValueError(f"model.lora.path {config.path!r} holds {found}; only LoRA of the denoiser is trained")
        return
    import peft

    targets = list(config.targets or family.lora_targets)
    matrices = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, init_lora_weights="gaussian", target_modules=targets
    )
    family.denoiser.add_adapter(matrices, adapter_name=NAME)


def is_lora(parameter: str) -> bool:
    """Whether a parameter of this name is one of the matrices."""
    return "lora_" in parameter


def save(family: Family, folder: Path) -> None:
    """Write the matrices so that the pipeline's own `load_lora_weights(folder)` takes them."""
    from peft import get_peft_model_state_dict

    # Without the metadata a reader takes alpha = rank, and with it another scale. Sets have no order of their own.
    about = family.denoiser.peft_config[NAME].to_dict()
    written = {
        f"{family.part}_lora_layers": get_peft_model_state_dict(family.denoiser, adapter_name=NAME),
        f"{family.part}_lora_adapter_metadata": {k: sorted(v) if isinstance(v, set) else v for k, v in about.items()},
    }
    family.pipeline.save_lora_weights(folder, safe_serialization=True, **written)
