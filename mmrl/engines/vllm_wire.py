"""What goes to vLLM and what comes back, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmrl.engines.view import Shown

Save = Callable[[Path], object]  # writes an adapter to a folder, as `save_pretrained` of a PEFT model


@dataclass(frozen=True)
class Request:
    """One completion that is asked for.

    ids: the prompt, with one placeholder for each of `media`. read: the prompt as the policy reads it, which the engine
    must make of it.
    """

    ids: list[int]
    media: tuple[Shown, ...]
    read: list[int]
    seed: int


@dataclass(frozen=True)
class Drawn:
    """What a backend returns for one request.

    ids: the completion. logp: of each id. stopped: whether a stop id ended it. read: the ids made of the prompt.
    versions: of a server whose weights may change meanwhile, those that sampled each id; None: the last that were sent.
    """

    ids: list[int]
    logp: list[float]
    stopped: bool
    read: list[int]
    versions: list[int] | None = None


def write_lora(save: Save, folder: Path) -> str:
    """The resolved path of `folder`, an empty one, with the adapter that `save` writes."""
    save(folder)
    if not (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(f"vllm: no adapter_config.json was saved to {folder}; save as a PEFT model does")
    return str(folder.resolve())
