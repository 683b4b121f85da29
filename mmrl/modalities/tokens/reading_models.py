"""A transformers model from its files: with its weights, or, for `mmrl plan`, without them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrl.modalities import hollow
from mmrl.modalities.files import cached, check_weights, is_local
from mmrl.modalities.tokens.config import TokenModelConfig


def located(place: Mapping[str, Any], config: TokenModelConfig) -> dict[str, Any]:
    """`place` (of loading.source) with the folder of the hub's cache in it where no weights are wanted.

    Raises FileNotFoundError for a folder whose weights are not whole, NotDownloaded as `files.cached`.
    """
    if is_local(config.path):
        check_weights(Path(place["pretrained_model_name_or_path"]))
    elif hollow.is_wanted():
        folder = cached(config.path, config.revision, "config.json")
        return {**place, "pretrained_model_name_or_path": str(folder), "revision": None}
    return dict(place)


def read(auto: Any, place: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The model of an auto class of transformers. place, options: arguments of its `from_pretrained`.

    Raises ValueError, before any weights are read, for a model of another class.
    """
    from transformers import AutoConfig

    about = AutoConfig.from_pretrained(**place)
    name = place["pretrained_model_name_or_path"]
    if type(about) not in auto._model_mapping and not place["trust_remote_code"]:
        raise ValueError(
            f"{name} is a {type(about).__name__} ({about.model_type}), which {auto.__name__} does not load; take the "
            "modality that the model is of, or another model"
        )
    if not hollow.is_wanted():
        return auto.from_pretrained(**place, **options)
    kept = {key: value for key, value in options.items() if key != "use_safetensors"}
    with hollow.skeleton():
        model = auto.from_config(about, trust_remote_code=place["trust_remote_code"], **kept)
    _give_generation(model, Path(name))
    return model


def _give_generation(model: Any, folder: Path) -> None:
    """What the folder says of generation, such as its EOS, as `from_pretrained` would read it."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
