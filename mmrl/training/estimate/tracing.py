"""Memory that computations on fake tensors would take: every storage is counted from where it is made to where it is
let go of. Room that a kernel takes for itself is not seen."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}


class Tracer(TorchDispatchMode):
    """now, peak: bytes of the fake storages that were made inside. A fake number that Python asks for is 1.

    counted: the tensors whose storages count.
    """

    counted: type[Tensor] = FakeTensor

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].dtype.is_floating_point else 1)
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if func in _INDEXING:
            args = (args[0], _places(args[1]), *args[2:])
        made = func(*args, **(kwargs or {}))
        old = {t.untyped_storage()._cdata for t in given}  # of views, and of what is changed in its place
        for tensor in tree_leaves(made):
            if isinstance(tensor, self.counted) and tensor.untyped_storage()._cdata not in old:
                self._count(tensor)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = weakref.ref(storage, partial(self._forget, key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int, size: int, _: Any) -> None:
        self._known.pop(key, None)
        self.now -= size


def _places(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The indices with masks that are there as the places where they are true: fake tensors do not look into them."""
    found: list[Tensor | None] = []
    for index in indices:
        mask = index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor)
        found += index.nonzero(as_tuple=True) if mask and index is not None else [index]
    return found


def peak_of(compute: Callable[[], Any]) -> int:
    """Bytes that `compute` holds at most at one time besides what was there before."""
    with Tracer() as tracer:
        compute()
    return tracer.peak
