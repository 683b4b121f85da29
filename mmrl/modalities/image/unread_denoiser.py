"""A pipeline's denoiser whose weights stay in their files: made as diffusers makes it before it reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmrl.modalities import unread
from mmrl.modalities.image.skeleton import models_of
from mmrl.modalities.unread import NotAsStored, Stored

WEIGHTS = "diffusion_pytorch_model{}.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index{}.json"


def unread_denoiser(
    folder: Path, names: Sequence[str], dtype: Mapping[str, torch.dtype], variant: str | None
) -> dict[str, Any]:
    """{its name in the pipeline: the denoiser} of the pipeline in a folder, of which its buffers alone have numbers.

    names: what denoisers are called. dtype: of each part, or "default". variant: see loading._variant.
    Raises NotAsStored where weights are not the files' tensors by name, or there are several denoisers; it leaves
    random numbers as they were.
    """
    found = {name: of for name, of in models_of(folder).items() if name in names}
    if len(found) != 1:
        raise NotAsStored(f"it has {len(found)} denoisers")
    [(name, of)] = found.items()
    before = torch.get_rng_state()
    try:
        return {name: _made(of, folder / name, dtype.get(name, dtype["default"]), variant)}
    except NotAsStored:
        torch.set_rng_state(before)
        raise


def _made(of: Any, folder: Path, dtype: torch.dtype, variant: str | None) -> nn.Module:
    from accelerate import init_empty_weights

    config = of.load_config(str(folder))
    if config.get("quantization_config"):
        raise NotAsStored("its weights are quantised")
    stored = unread.tensors(_files(folder, variant))
    with _default(dtype), init_empty_weights():
        model = of.from_config(config)
    wanted = model.state_dict(keep_vars=True)
    odd = sorted(wanted.keys() ^ stored.keys())
    if odd:
        raise NotAsStored(f"{odd[0]} is {'not in its files' if odd[0] in wanted else 'in its files for nothing'}")
    for key, weight in wanted.items():
        if weight.shape != stored[key].shape:
            raise NotAsStored(f"{key} is {list(stored[key].shape)} in its files, not {list(weight.shape)}")
    for key in wanted:
        if not stored[key].dtype.is_floating_point:
            raise NotAsStored(f"{key} is stored as {stored[key].dtype}")
        _put(model, key, replace(stored[key], dtype=_type(of, key, dtype)))
    unread.check(model)
    model.register_to_config(_name_or_path=str(folder))
    return model.eval()


def _put(model: nn.Module, key: str, stored: Stored) -> None:
    path, _, name = key.rpartition(".")
    module = model.get_submodule(path)
    if name in module._buffers:
        module._buffers[name] = stored.rows()
    else:
        module._parameters[name] = unread.parameter(stored)


def _type(of: Any, key: str, dtype: torch.dtype) -> torch.dtype:
    """The type that diffusers reads a weight in."""
    wide = of._keep_in_fp32_modules or ()
    wide = [wide] if isinstance(wide, str) else wide
    return torch.float32 if any(part in key.split(".") for part in wide) else dtype


def _files(folder: Path, variant: str | None) -> list[Path]:
    middle = f".{variant}" if variant else ""
    index = folder / INDEX.format(middle)
    if index.is_file():
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        found = [folder / name for name in sorted(set(named))]
    else:
        found = [folder / WEIGHTS.format(middle)]
    if missing := [path for path in found if not path.is_file()]:
        raise NotAsStored(f"it has no file {missing[0]}")
    return found


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Inside, tensors are of this type where none is named: diffusers computes buffers so."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
