"""A transformers model whose weights stay in its files: transformers' own loader, given names, shapes and types.

So renamed weights, those that are made of several tensors (experts), ties, types and buffers that are computed are as
`from_pretrained` has them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmrl.modalities import unread
from mmrl.modalities.files import lora_folder
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.modalities.unread import NotAsStored, Source, Stored, Unread

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
# Numbers of a tensor that are compared at a time.
COMPARED = 2**24
# What peft begins LoRA's matrices with that asks nothing of the weight beside them.
PLAIN = (True, False, "gaussian")
NOT_PLAIN = ("modules_to_save", "use_dora", "trainable_token_indices", "layer_replication")


class _Slice:
    """What transformers' loader takes for a tensor in a file: where it reads it, it gets one without numbers."""

    def __init__(self, stored: Stored) -> None:
        self.stored, self.shape, self.dtype = stored, stored.shape, stored.dtype

    def __getitem__(self, index: Any) -> _Slice:
        if index is not ...:
            raise NotAsStored(f"of {self.stored.name} a part is wanted")
        return self

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Unread:
        return Unread.of(replace(self.stored, dtype=dtype or self.dtype))


def check_adapter(config: TokenModelConfig) -> None:
    """Raise NotAsStored for LoRA in a folder that is more than matrices beside weights."""
    if config.train != "lora" or config.lora.path is None:
        return
    folder = lora_folder(config.lora.path)
    told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    more = [name for name in NOT_PLAIN if told.get(name)]
    if told.get("init_lora_weights", True) not in PLAIN:
        more.append("init_lora_weights")
    if more:
        raise NotAsStored(f"{folder} has {', '.join(more)}, which may ask for the weights beside it")


def unread_model(
    found: Any, auto: Any, numbers: Any, place: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Any, Mapping[str, Any]]:
    """(model with unread weights, what the loader tells of their names). found: its class of transformers, or None.
    auto, numbers, place, options: see loading.read.

    Raises NotAsStored where it cannot be, the same on every process that sees the same files.
    """
    if found is None:
        raise NotAsStored("it comes with code of its own")
    if getattr(numbers, "quantization_config", None):
        raise NotAsStored("its weights are quantised")
    if getattr(numbers, "transformers_weights", None) or getattr(type(numbers), "extra_files", None):
        raise NotAsStored("its config names files of its own")
    found, numbers = _chosen(found, auto, numbers)
    slices = {name: _Slice(stored) for name, stored in unread.tensors(_files(place)).items()}
    given = {"config": numbers, "state_dict": slices, "output_loading_info": True, **options}
    try:
        model, told = found.from_pretrained(None, **given)
        _tie(model)
        unread.settle(model)
        unread.check(model)
    except Exception as error:  # what is wrong with the files themselves is said where they are read
        raise error if isinstance(error, NotAsStored) else NotAsStored(_reason(error)) from error
    path = place["pretrained_model_name_or_path"]
    for module in model.modules():
        if getattr(module, "config", None) is model.config and hasattr(module, "name_or_path"):
            module.name_or_path = path
    model.config.name_or_path = path
    if model.can_generate():
        model.generation_config = _generation(place)
    return model, told


def _generation(place: Mapping[str, Any]) -> Any:
    """What is said of generation, such as the EOS, in its own file or, in older folders, in the model's config."""
    from transformers import GenerationConfig

    path, revision = place["pretrained_model_name_or_path"], place["revision"]
    try:
        return GenerationConfig.from_pretrained(path, revision=revision)
    except OSError:
        of_model: dict[str, Any] = {"config_file_name": "config.json", "_from_model_config": True}
        return GenerationConfig.from_pretrained(path, revision=revision, **of_model)


def _chosen(found: Any, auto: Any, numbers: Any) -> tuple[Any, Any]:
    """(class, numbers) as `auto` takes them: the class that a config names where there are several, and the numbers of
    a language model alone where the class is one and the config is of more."""
    several = auto._model_mapping.get(type(numbers), None) if hasattr(auto, "_model_mapping") else None
    if isinstance(several, tuple):
        named = getattr(numbers, "architectures", None) or ()
        found = next((one for one in several if one.__name__ in named), several[0])
    text = numbers.sub_configs.get("text_config")
    if text is not None and text is not type(numbers) and found.config_class == text:
        numbers = numbers.get_text_config()
    return found, numbers


def _files(place: Mapping[str, Any]) -> list[str]:
    """The files of weights, from the hub where they are there. Raises NotAsStored for other names than the usual."""
    from transformers.utils import cached_file

    def found(name: str) -> str | None:
        where = {"revision": place["revision"], "_raise_exceptions_for_missing_entries": False}
        return cached_file(place["pretrained_model_name_or_path"], name, **where)

    if found("adapter_config.json"):
        raise NotAsStored("an adapter is in its folder")
    index = found(INDEX) if found(WEIGHTS) is None else None
    names = [WEIGHTS]
    if index is not None:
        names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
    files = [(name, found(name)) for name in names]
    if missing := [name for name, path in files if path is None]:
        raise NotAsStored(f"it has no file {missing[0]}")
    return [path for _, path in files if path is not None]


def _tie(model: Any) -> None:
    """Tie what transformers ties by itself where it sees numbers: weights that are stored twice, if they are equal."""
    for target, source in list(model.all_tied_weights_keys.items()):
        one, other = (model.get_parameter(name) for name in (target, source))
        if one is other:
            continue
        if not (isinstance(one, Unread) and isinstance(other, Unread) and _equal(one.source, other.source)):
            raise NotAsStored(f"{target} is tied to {source}, and stored besides as something else")
        path, _, name = target.rpartition(".")
        setattr(model.get_submodule(path), name, other)


def _equal(one: Source | None, other: Source | None) -> bool:
    return (
        one is not None
        and other is not None
        and one.shape == other.shape
        and all(torch.equal(a, b) for a, b in zip(_pieces(one), _pieces(other)))
    )


def _pieces(source: Source) -> Iterator[torch.Tensor]:
    rows, width = source.shape[0], max(1, source.shape[1:].numel())
    step = max(1, COMPARED // width)
    for first in range(0, rows, step):
        yield source.rows(first, min(first + step, rows))


def _reason(error: Exception) -> str:
    return f"transformers' loader says {type(error).__name__}: {' '.join(str(error).split())[:200]}"
