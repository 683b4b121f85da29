"""Tensors of a checkpoint that its `policy/` holds already, bit for bit: they are written there alone, and read back.

Which of them are, is found by what files hold and not by names: a pipeline has other names than its parameters, tied
weights have one for two, and what is averaged or rounded is not the same as what is trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmrl.training.tensors import CheckpointError

FOLDER = "policy"
# [a file below `policy/`, the name of a tensor in it]
Place = list[str]


class Held:
    """The tensors of a checkpoint's `policy/`, opened."""

    def __init__(self, checkpoint: Path) -> None:
        self.folder, self._files = checkpoint / FOLDER, ExitStack()
        self._opened: dict[str, Any] = {}

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: Any) -> None:
        self._files.close()

    def places(self) -> Iterator[Place]:
        """Of all tensors, in a fixed order. A file that is no safetensors file, whatever its name, has none."""
        for path in sorted(self.folder.rglob("*.safetensors")):
            file = path.relative_to(self.folder).as_posix()
            try:
                names = sorted(self._open(file).keys())
            except SafetensorError:
                continue
            for name in names:
                yield [file, name]

    def rows(self, place: Place) -> Any:
        """Of a tensor with dimensions: rows of it, by `[first:end]`, and its whole shape, by `get_shape()`."""
        return self._open(place[0]).get_slice(place[1])

    def whole(self, place: Place) -> Tensor:
        tensor: Tensor = self._open(place[0]).get_tensor(place[1])
        return tensor

    def mark(self, place: Place) -> str:
        """What tells this tensor from any other one."""
        tensor = self.whole(place)
        return hashlib.sha256(_bits(tensor).numpy().data).hexdigest()

    def _open(self, file: str) -> Any:
        if file not in self._opened:
            self._opened[file] = self._files.enter_context(safe_open(self.folder / file, framework="pt"))
        return self._opened[file]


def likely(checkpoint: Path, tensors: Mapping[str, Tensor], rows: Mapping[str, int]) -> dict[str, Place]:
    """By name where in `policy/` a tensor may be found: one of its type and shape, that begins as it does.

    rows: of tensors that are the first rows of divided ones, how many these have in all.
    """
    with Held(checkpoint) as held:
        known: dict[tuple[torch.dtype, tuple[int, ...]], list[Place]] = {}
        for place in held.places():
            there = held.rows(place)
            shape = tuple(there.get_shape())
            if shape:
                known.setdefault((there[:0].dtype, shape), []).append(place)
        found = {}
        for name, tensor in tensors.items():
            if not tensor.ndim:
                continue
            alike = known.get((tensor.dtype, (rows.get(name, len(tensor)), *tensor.shape[1:])), [])
            first = tensor[:1].detach().cpu()
            by_name = sorted(alike, key=lambda place, name=name: -_common_end(name, place[1]))  # type: ignore[misc]
            begins = (place for place in by_name if _same(held.rows(place)[:1], first))
            if likeliest := next(begins, None):
                found[name] = likeliest
        return found


def without(
    checkpoint: Path,
    tensors: Mapping[str, Tensor],
    places: Mapping[str, Place],
    first: Callable[[str], int] = lambda name: 0,
) -> dict[str, Tensor]:
    """Those tensors that are not where `places` says, bit for bit. first: which row a tensor begins with there."""
    with Held(checkpoint) as held:
        return {
            name: tensor
            for name, tensor in tensors.items()
            if name not in places
            or not _same(held.rows(places[name])[first(name) : first(name) + len(tensor)], tensor.detach().cpu())
        }


def recorded(checkpoint: Path, places: Mapping[str, Place]) -> dict[str, Any]:
    """What state.json says of tensors that are in `policy/`: where each is, and the mark of what is there."""
    with Held(checkpoint) as held:
        there = sorted({tuple(place) for place in places.values()})
        return {"tensors": dict(places), "marks": [[*place, held.mark(list(place))] for place in there]}


@contextmanager
def opened(checkpoint: Path, told: Mapping[str, Any], share: tuple[int, int] = (0, 1)) -> Iterator[Held]:
    """The `policy/` of a checkpoint, for what `recorded` told.

    share: (n, m): this process compares every m-th mark from the n-th; others do the rest. Raises CheckpointError where
    a tensor is not what was written.
    """
    with Held(checkpoint) as held:
        for file, name, mark in told.get("marks", [])[share[0] :: share[1]]:
            try:
                wrong = "is not what was written" if held.mark([file, name]) != mark else None
            except (OSError, SafetensorError) as error:
                wrong = f"cannot be read ({error})"
            if wrong:
                raise CheckpointError(
                    f"checkpoint {checkpoint}: {name} in {FOLDER}/{file} {wrong}. The run would go on from the weights "
                    f"that were saved there: put {FOLDER}/ back as it was, or point checkpoints/latest at an older one"
                )
        yield held


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(_bits(one), _bits(other))


def _bits(tensor: Tensor) -> Tensor:
    """[bytes] uint8: what a tensor is made of, so that a NaN is itself and -0 is not 0."""
    return tensor.contiguous().flatten().view(torch.uint8)


def _common_end(one: str, other: str) -> int:
    """How many characters two names share at their ends."""
    pairs = zip(reversed(one), reversed(other))
    return next((count for count, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))
