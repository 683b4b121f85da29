"""A transformers model from its files: with its weights, or, for `mmrl plan`, without them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrl.modalities import hollow
from mmrl.modalities.files import cached, is_local
from mmrl.modalities.tokens.config import TokenModelConfig


def located(place: Mapping[str, Any], config: TokenModelConfig) -> dict[str, Any]:
    """`place` (of loading.source) with the folder of the hub's cache in it where no weights are wanted.

    Raises NotDownloaded as `files.cached`.
    """
    if not is_local(config.path) and hollow.is_wanted():
        folder = cached(config.path, config.revision, "config.json")
        return {**place, "pretrained_model_name_or_path": str(folder), "revision": None}
    return dict(place)


def skeleton(auto: Any, numbers: Any, place: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The model of these numbers without its weights. auto: see loading.read. place, options: arguments of
    `from_pretrained`."""
    kept = {key: value for key, value in options.items() if key != "use_safetensors"}
    with hollow.skeleton():
        if hasattr(auto, "from_config"):
            model = auto.from_config(numbers, trust_remote_code=place["trust_remote_code"], **kept)
        else:
            model = auto._from_config(numbers, **kept)
    _give_generation(model, Path(place["pretrained_model_name_or_path"]))
    return model


def _give_generation(model: Any, folder: Path) -> None:
    """What the folder says of generation, such as its EOS, as `from_pretrained` would read it."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
