"""Drawing the pictures of a benchmark with a config's model, so that a stopped drawing goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mmrl.bench.items import Gallery, Item
from mmrl.config import Config, ConfigError
from mmrl.content import mark_of
from mmrl.near import short
from mmrl.reporting.disk import writing
from mmrl.reporting.progress import counted
from mmrl.share import resolve
from mmrl.training.assemble import load_adapter, set_threads, with_checkpoint
from mmrl.types import Prompt

TOGETHER = (
    4  # prompts that are drawn together; drawn anew together too, so that a resumed picture is the same to the bit
)


def model_of(config: Config, run: str | Path | None, seed: int) -> dict[str, Any]:
    """What the pictures of a config's model, or of the last checkpoint of `run`, depend on, as JSON."""
    model = with_checkpoint(config, run).model_dump(mode="json")["model"]
    weights = {name: mark_of(folder) for name, folder in _folders(model)}
    return {"modality": config.modality, "model": model, "weights": weights, "made_by": config.seed, "seed": seed}


def _folders(section: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, Path]]:
    """The folders that a model is read from, its adapter's too, by the key that names each."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _folders(value, f"{head}{key}.")
        elif key == "path" and isinstance(value, str) and (folder := resolve(value)).is_dir():
            yield f"{head}{key}", folder


def draw(
    config: Config,
    run: str | Path | None,
    gallery: Gallery,
    items: Sequence[Item],
    seed: int,
    written: Callable[[Item], None] = lambda item: None,
    quiet: bool = True,
) -> None:
    """Have all pictures of the gallery there, each in its first name; those that are there are left alone.

    A picture depends on the model, its prompt, its number and the seed. written: called for each prompt whose pictures
    were written. Raises ConfigError for a prompt that the model cannot draw, before any is drawn.
    """
    parts = [items[start : start + TOGETHER] for start in range(0, len(items), TOGETHER)]
    left = [part for part in parts if any(not path.is_file() for _, _, path in gallery.places(part))]
    if not left:
        return
    made = with_checkpoint(config, run)
    set_threads(made)
    adapter = load_adapter(made)
    try:
        for item in items:
            if why := adapter.usable(_prompt(item)):
                raise ConfigError(f"prompt {item.id}: {why}")
        for part in left if quiet else counted(left, f"drawing {len(left) * TOGETHER * gallery.count} pictures"):
            groups = adapter.evaluate([_prompt(item) for item in part], gallery.count, seed)
            for item, group in zip(part, groups):
                for k, sample in enumerate(group.samples):
                    _save(sample.artifact, gallery.path(item, k))
                written(item)
    finally:
        adapter.close()


def _prompt(item: Item) -> Prompt:
    return Prompt(item.id, item.text, {"prompt": item.text})


def _save(picture: Any, path: Path) -> None:
    """Write a PNG that is there whole or not at all; one that is there stays."""
    if not isinstance(picture, Image.Image):
        raise ConfigError(f"the model makes {type(picture).__name__}, not pictures: {short(picture)}")
    if path.is_file():
        return
    hidden = path.with_name(f".{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(hidden, format="PNG")
        os.replace(hidden, path)
