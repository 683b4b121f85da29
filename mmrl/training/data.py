"""Prompts and supervised records, and the seeded order in which they are used."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mmrl.config import ConfigError, DataConfig
from mmrl.modalities.load import import_file
from mmrl.seeds import seed_of
from mmrl.share import resolve
from mmrl.types import Prompt


def load_prompts(source: str, where: dict[str, Any], on_bad: str, columns: Sequence[str] = ()) -> list[Prompt]:
    """Prompts of a .jsonl or .txt file, in file order.

    A .jsonl record needs `prompt`; its id is `id`, or the line number. Raises ConfigError with file and line for
    a bad record (or warns and skips it, as `on_bad` says) and for a file without prompts.
    """
    path = resolve(source)
    if not path.is_file():
        raise ConfigError(f"data: no prompt file {path}")
    prompts: list[Prompt] = []
    bad = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                record = _parse_line(raw, path.suffix, columns)
            except ValueError as error:
                message = f"{path}:{number}: {error}"
                if on_bad == "stop":
                    raise ConfigError(f"{message}; mend the line or set data.on_bad_record: skip") from None
                warnings.warn(f"{message}; skipped", stacklevel=2)
                bad += 1
                continue
            if record is not None and all(record.get(key) == value for key, value in where.items()):
                prompts.append(Prompt(str(record.get("id", number)), record["prompt"], record))
    if not prompts:
        raise ConfigError(f"data: {path} holds no prompts" + (f" with {where}" if where else "") + f" ({bad} bad)")
    ids = [p.id for p in prompts]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ConfigError(f"data: {path}: the id {twice!r} occurs more than once; ids tell prompts apart")
    return prompts


def _parse_line(raw: bytes, suffix: str, columns: Sequence[str]) -> dict[str, Any] | None:
    try:
        line = raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    if not line:
        return None
    if suffix != ".jsonl":
        return {"prompt": line}
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str) or not record["prompt"].strip():
        raise ValueError("needs a non-empty string `prompt`")
    missing = [column for column in columns if column not in record]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    return record


class Records:
    """Supervised records by index: a function's endless stream cut at `records_count`, or a .jsonl file."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        assert config.records is not None
        path, _, function = config.records.rpartition(":")
        if path.endswith(".py"):
            self.get = _function_records(resolve(path), function, config.options)
            self.count = config.records_count
        else:
            self.get, self.count = _file_records(resolve(config.records), config)

    def batch(self, step: int, size: int, seed: int) -> list[dict[str, Any]]:
        """The `step`-th batch of a seeded, endlessly reshuffled pass over the records."""
        return [self.get(i) for i in cyclic_indices(step * size, size, self.count, seed)]


def _function_records(path: Path, name: str, options: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    if not path.is_file():
        raise ConfigError(f"data.records: no file {path}")
    function = getattr(import_file(path), name, None)
    if function is None:
        raise ConfigError(f"data.records: {path} has no function {name!r}")
    unknown = set(options) - set(inspect.signature(function).parameters)
    if unknown:
        raise ConfigError(f"data.options: {name} does not take {', '.join(sorted(unknown))}")
    return lambda index: function(index, **options)


def _file_records(path: Path, config: DataConfig) -> tuple[Callable[[int], dict[str, Any]], int]:
    prompts = load_prompts(str(path), {}, config.on_bad_record, columns=("image",))
    root = path.parent.resolve()
    good = []
    for prompt in prompts:
        try:
            open_picture(root, prompt.record["image"], config.max_pixels)
        except ConfigError as error:
            if config.on_bad_record == "stop":
                raise
            warnings.warn(f"{error}; skipped", stacklevel=2)
        else:
            good.append(prompt)

    def get(index: int) -> dict[str, Any]:
        prompt = good[index]
        image = open_picture(root, prompt.record["image"], config.max_pixels)
        return {**prompt.record, "id": prompt.id, "prompt": prompt.text, "image": image}

    if not good:
        raise ConfigError(f"data.records: {path} holds no usable record")
    return get, len(good)


def open_picture(root: Path, name: str, max_pixels: int):
    """The picture `name` below `root`, decoded; ConfigError when it is outside, missing, too large or corrupt."""
    from PIL import Image, UnidentifiedImageError

    path = (root / name).resolve()
    if "://" in name or not path.is_relative_to(root):
        raise ConfigError(f"picture {name!r}: must be a file below {root}")
    try:
        with Image.open(path) as image:
            if image.width * image.height > max_pixels:
                raise ConfigError(
                    f"picture {path}: {image.width}x{image.height} is over data.max_pixels={max_pixels}; "
                    "scale it down or raise the bound"
                )
            image.load()
            return image.convert("RGB")
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"picture {path}: no such file") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ConfigError(f"picture {path}: cannot be read: {error}") from None


def cyclic_indices(start: int, count: int, size: int, seed: int) -> list[int]:
    """Entries start..start+count of an endless sequence of seeded permutations of range(size)."""
    found: list[int] = []
    while len(found) < count:
        epoch, offset = divmod(start + len(found), size)
        generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
        order = torch.randperm(size, generator=generator)
        found += order[offset : offset + count - len(found)].tolist()
    return found
