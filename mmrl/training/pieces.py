"""Tensors of a checkpoint of which each process holds some rows: a file of each, and any rows of them back.

torch's own distributed checkpoints are pickled, which nothing here reads, and their safetensors kind is for models: no
names of what an optimizer remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmrl.copying import to_host
from mmrl.modalities.shards import first_row
from mmrl.reporting.disk import sync
from mmrl.training import within
from mmrl.training.tensors import CheckpointError

WHOLE = "trainer.safetensors"
# (all rows of a tensor) -> (the first that is wanted, the first behind them)
Wanted = Callable[[int], tuple[int, int]]


def rows_of(tensors: Mapping[str, Tensor], weights: Mapping[str, int]) -> dict[str, int]:
    """By name the tensors that are rows of a divided weight, or of something like it, and how many rows it has.

    weights: the same of the divided weights by their own names, each of which is a part of the tensor's name.
    """
    found = {}
    for name, tensor in tensors.items():
        rows = next((weights[part] for part in name.split("/") if part in weights), None)
        if rows is not None and tensor.ndim:
            found[name] = rows
    return found


def place(folder: Path, shard: int) -> Path:
    return folder / f"trainer_{shard:05d}.safetensors"


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each with memory of its own, which stays as it is while the training goes on."""
    return to_host(tensors)


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """As a file that is on the disk when this returns."""
    seen: set[int] = set()
    alone = {}
    for name, tensor in tensors.items():  # a file holds no memory twice, and none that is a part of more
        made = tensor.detach().cpu().contiguous()
        memory = made.untyped_storage()
        own = memory.nbytes() == made.nbytes and memory.data_ptr() not in seen
        alone[name] = made if own else made.clone()
        seen.add(alone[name].untyped_storage().data_ptr())
    save_file(alone, path)
    sync(path)


def read(
    folder: Path,
    divided: Mapping[str, Any],
    weights: Mapping[str, int],
    wanted: Wanted,
    in_policy: Mapping[str, Any] = MappingProxyType({}),
    share: tuple[int, int] = (0, 1),
) -> dict[str, Tensor]:
    """All tensors of a checkpoint; of those that are divided now (see rows_of) the wanted rows.

    divided: {"shards": how many files, "rows": {name: all rows}} of those that were divided when it was written, or {}.
    in_policy, share: see within.recorded and within.opened.
    Raises CheckpointError where a divided weight had another number of rows, or `policy/` is not what it was.
    """
    found: dict[str, Tensor] = {}
    elsewhere: Mapping[str, within.Place] = in_policy.get("tensors", {})
    with ExitStack() as stack:
        held = stack.enter_context(within.opened(folder, in_policy, share))
        whole = stack.enter_context(safe_open(folder / WHOLE, framework="pt"))
        rows_before, here = divided.get("rows", {}), set(whole.keys())
        for name in [*here, *(name for name in elsewhere if name not in here and name not in rows_before)]:
            there = whole.get_slice(name) if name in here else held.rows(elsewhere[name])
            like = torch.empty(there.get_shape(), device="meta")
            rows = rows_of({name: like}, weights).get(name)
            if rows is None:
                found[name] = whole.get_tensor(name) if name in here else held.whole(elsewhere[name])
                continue
            _refuse_other(name, len(like), rows)
            first, end = wanted(rows)
            found[name] = there[first:end]
        files = [
            stack.enter_context(safe_open(place(folder, n), framework="pt")) for n in range(divided.get("shards", 0))
        ]
        names = [set(file.keys()) for file in files]
        for name, rows in rows_before.items():
            now = next((weights[part] for part in name.split("/") if part in weights), None)
            first, end = (0, rows) if now is None else wanted(rows)
            _refuse_other(name, rows, now)
            sources = [
                file.get_slice(name) if name in held_here or name not in elsewhere else held.rows(elsewhere[name])
                for file, held_here in zip(files, names)
            ]
            own = [name in held_here for held_here in names]
            found[name] = torch.cat(list(_slices(sources, own, rows, first, end)))
    return found


def _slices(sources: list[Any], own: list[bool], rows: int, first: int, end: int) -> Iterator[Tensor]:
    """Rows from `first` to `end` of a tensor, part by part; at least one piece, which may be empty.

    own: whether a source has the rows of its part alone; else it has all rows.
    """
    starts = [first_row(rows, len(sources), n) for n in range(len(sources) + 1)]
    for number, source in enumerate(sources):
        low, high = max(first, starts[number]), min(end, starts[number + 1])
        offset = starts[number] if own[number] else 0
        if low < high:
            yield source[low - offset : high - offset]
        elif number == 0:
            yield source[:0]


def _refuse_other(name: str, rows: int, now: int | None) -> None:
    if now is not None and rows != now:
        raise CheckpointError(
            f"the checkpoint does not fit ({name}): it has {rows} rows, expected {now}. Resume with the model that the "
            "run began with"
        )
