"""Where the files of a model are: a folder, what ships, or the hub's cache on this machine; and whether all are there.

No model library is imported here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mmrl.near import short
from mmrl.share import resolve

INDEX = ".safetensors.index.json"


class NotDownloaded(LookupError):
    """A model of the hub that is not on this machine; loading it would download it."""


def is_local(path: str) -> bool:
    """Whether `path` names a folder, and not a model of the hub."""
    return path.startswith(("share://", ".", "/", "~")) or resolve(path).exists()


def cached(path: str, revision: str | None, marker: str) -> Path:
    """The folder in the hub's cache that holds the model `path`. Raises NotDownloaded where there is none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(path, marker, revision=revision or "main")
    except HFValidationError:
        raise FileNotFoundError(
            f"model.path {short(path)}: neither a folder nor the id of a model on the hub, owner/name"
        ) from None
    if not isinstance(found, str):
        raise NotDownloaded(path)
    return Path(found).parent


def told(path: str, revision: str | None, marker: str) -> str:
    """Where a model's files are, in a line for `mmrl plan`."""
    if is_local(path):
        return f"model files: {resolve(path)}, {_size(resolve(path))}"
    try:
        folder = cached(path, revision, marker)
    except NotDownloaded:
        return f"model files: {path} will be downloaded from the hub"
    weights = _size(folder)
    return f"model files: {path}, in the hub's cache" + (f", {weights}" if weights else "; weights will be downloaded")


def check_weights(folder: Path) -> None:
    """Raise FileNotFoundError where a folder lacks weights, or a file of them is missing or cut short.

    Weights are safetensors files, one or those that an index names: nothing else is read.
    """
    indexes = sorted(folder.glob(f"*{INDEX}"))
    names = {folder / name for index in indexes for name in _indexed(index)} or set(folder.glob("*.safetensors"))
    if not names:
        other = [p.name for p in sorted(folder.glob("*.bin"))]
        hint = f"; {other[0]} is a pickle, which is not read: save it with safe_serialization=True" if other else ""
        raise FileNotFoundError(f"no weights in {folder}: expected a .safetensors file{hint}")
    for path in sorted(names):
        if not path.is_file():
            raise FileNotFoundError(f"weights are missing: {path}, which the index beside it names; copy it there")
        whole = _whole(path)
        if path.stat().st_size != whole:
            raise FileNotFoundError(
                f"{path} has {path.stat().st_size} bytes, its header speaks of {whole}: it is cut short or another "
                "kind of file; copy or download it again"
            )


def lora_folder(path: str) -> Path:
    """The folder of LoRA weights that peft wrote. Raises FileNotFoundError where it is not whole."""
    folder = resolve(path)
    if not (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"model.lora.path {short(path)}: no adapter_config.json in {folder}; give a folder of peft"
        )
    check_weights(folder)
    return folder


def _indexed(index: Path) -> Iterator[str]:
    try:
        yield from set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        raise FileNotFoundError(f"{index} is no index of weights; copy or download it again") from None


def _whole(path: Path) -> int:
    """Bytes that a safetensors file has by its own header; -1 for what has no such header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(path.stat().st_size, 100_000_000):
            return -1
        try:
            header = json.loads(file.read(length))
            return 8 + length + max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return -1


def _size(folder: Path) -> str:
    """How much weights there are, in words; "" for none."""
    sizes = [p.stat().st_size for p in folder.rglob("*.safetensors") if p.is_file()]
    return f"{sum(sizes) / 1e6:,.1f} MB of weights in {len(sizes)} file(s)" if sizes else ""
