"""Weights that stay in their files until each process knows which rows of them are its own (mmrl.modalities.shards).

A parameter that was not read is one without memory (torch's device "meta") that remembers what it is read of. Adapters
prepare a model of such parameters as they would any other, it is divided, and then each process reads its own rows.
What is not divided is read whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

_WANTED: ContextVar[bool] = ContextVar("mmrl_unread", default=False)
# By the names that headers of safetensors have for them.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}


class NotAsStored(Exception):
    """A model's weights cannot be left in its files; says why. It is read whole."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file. dtype: the type in which it is read, whatever it is stored in."""

    path: str
    name: str
    shape: torch.Size
    dtype: torch.dtype

    def rows(self, first: int | None = None, end: int | None = None) -> Tensor:
        """Its rows from `first` to `end`, or all of it, with memory of their own."""
        if first is not None and first == end:
            return torch.empty(0, *self.shape[1:], dtype=self.dtype)
        # Opened for each: what a mapping has shown is a process's memory for as long as the mapping is there.
        with safe_open(self.path, framework="pt") as file:
            found = file.get_tensor(self.name) if first is None else file.get_slice(self.name)[first:end]
            return found.to(self.dtype, copy=True)


@dataclass(frozen=True)
class Made:
    """A tensor that a model makes of others: the `item` of what `function` gives, None for all of it."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    item: int | None
    shape: torch.Size
    dtype: torch.dtype

    def rows(self, first: int | None = None, end: int | None = None) -> Tensor:
        """See Stored.rows; all of it is made."""
        arguments, options = _read_inside(self.arguments), _read_inside(dict(self.options))
        found = self.function(*arguments, **options)
        found = found if self.item is None else found[self.item]
        return found if first is None else found[first:end].clone()


Source = Stored | Made


class Unread(Tensor):
    """A tensor without numbers that knows its source, also where torch's functions make another of it; None for one
    that was changed in its place, and for what is made of such."""

    source: Source | None

    @staticmethod
    def of(source: Source, known: bool = True) -> Unread:
        made = torch.empty(source.shape, dtype=source.dtype, device="meta").as_subclass(Unread)
        made.source = source if known else None
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            before = [(one, one._version) for one in _unread_inside((args, options))]
            found = func(*args, **options)
            changed = [one for one, version in before if one._version != version]
        for one in [args[0]] if func == cast(Any, Tensor.data).__set__ else changed:
            one.source = None
        known = all(one.source is not None for one, _ in before)
        if func is Tensor.detach and known:
            return cls.of(args[0].source)
        if isinstance(found, Tensor) and not any(found is one for one, _ in before):
            return cls.of(Made(func, args, options, None, found.shape, found.dtype), known)
        if isinstance(found, tuple | list) and found and all(isinstance(one, Tensor) for one in found):
            return [cls.of(Made(func, args, options, i, one.shape, one.dtype), known) for i, one in enumerate(found)]
        return found


def _unread_inside(value: Any) -> Iterator[Unread]:
    """What is unread in lists, tuples and dicts."""
    if isinstance(value, Unread):
        yield value
    elif type(value) in (tuple, list, dict):
        for one in value.values() if type(value) is dict else value:
            yield from _unread_inside(one)


def _read_inside(value: Any) -> Any:
    """What is nested in lists, tuples and dicts, all that is unread in it read."""
    if isinstance(value, Unread):
        return cast(Source, value.source).rows()
    if type(value) in (tuple, list):
        return type(value)(_read_inside(one) for one in value)
    return {key: _read_inside(one) for key, one in value.items()} if type(value) is dict else value


# -------------------------------------------------------------------- what makes models


@contextmanager
def wanted() -> Iterator[None]:
    """Inside, adapters are made of unread weights where they can; one that does not know of it reads them."""
    token = _WANTED.set(True)
    try:
        yield
    finally:
        _WANTED.reset(token)


def is_wanted() -> bool:
    """Whether an adapter that is made now may leave its weights unread."""
    return _WANTED.get()


def tell(what: str, why: NotAsStored) -> None:
    """Warn, in one line, that every process reads all of a model. what: which, for people."""
    warnings.warn(f"sharding: every process reads all weights of {what} before they are divided: {why}", stacklevel=3)


def tensors(paths: Sequence[str | Path]) -> dict[str, Stored]:
    """What safetensors files hold, by name. Raises NotAsStored for types of quantised numbers."""
    found = {}
    for path in map(str, paths):
        with safe_open(path, framework="pt") as file:
            for name in list(file.keys()):
                part = file.get_slice(name)
                if part.get_dtype() not in DTYPES:
                    raise NotAsStored(f"{name} is stored as {part.get_dtype()}")
                found[name] = Stored(path, name, torch.Size(part.get_shape()), DTYPES[part.get_dtype()])
    return found


def parameter(source: Source) -> nn.Parameter:
    """A parameter that is not read."""
    made = nn.Parameter(torch.empty(source.shape, dtype=source.dtype, device="meta"), requires_grad=False)
    made.source = source  # type: ignore[attr-defined]
    return made


def settle(module: nn.Module) -> None:
    """In a module, plain parameters that are not read for those of class Unread, ties kept; its buffers are read.

    Raises NotAsStored for one that was changed in its place.
    """
    made: dict[int, tuple[Unread, Tensor]] = {}
    for one in module.modules():
        for held, new in ((one._parameters, parameter), (one._buffers, lambda source: source.rows())):
            table = cast(dict[str, Any], held)
            for name, tensor in table.items():
                if isinstance(tensor, Unread):
                    if tensor.source is None:
                        raise NotAsStored(f"{name} is changed in its place while it is read")
                    if id(tensor) not in made:
                        made[id(tensor)] = tensor, new(tensor.source)
                    table[name] = made[id(tensor)][1]


def check(module: nn.Module) -> None:
    """Raise NotAsStored where a tensor of a module neither is there nor can be read."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta and source_of(tensor) is None:
            raise NotAsStored(f"{name} is not in its files")


# -------------------------------------------------------------------- what has unread parameters


def source_of(weight: Tensor) -> Source | None:
    """Of what an unread parameter is read; None for another."""
    return getattr(weight, "source", None) if weight.is_meta else None


def is_unread(module: nn.Module) -> bool:
    """Whether a module has unread parameters."""
    return any(p.is_meta for p in module.parameters())


def move(module: nn.Module, device: torch.device) -> None:
    """`module.to(device)` for what has been read."""
    module._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))


@contextmanager
def standing_in(module: nn.Module) -> Iterator[None]:
    """Inside, unread parameters are on the CPU, without memory and numbers of their own: libraries that put something
    beside a weight, such as LoRA's matrices, put it where the weight is."""
    instead: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    found = _places(module, lambda weight: weight.is_meta)
    for held, name in found:
        weight = held[name]
        if id(weight) not in instead:
            empty = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
            instead[id(weight)] = weight, nn.Parameter(empty, weight.requires_grad)
        held[name] = instead[id(weight)][1]
    back = {id(other): weight for weight, other in instead.values()}
    try:
        yield
    finally:
        for held, name in found:
            held[name] = back[id(held[name])].requires_grad_(held[name].requires_grad)


# Where a parameter is held, by a module under a name, and of what it is read.
Place = tuple[dict[str, Any], str, Source]


def places(module: nn.Module) -> list[Place]:
    """The unread parameters of a module, for `read`, which knows them again once they are divided."""
    found = _places(module, lambda weight: source_of(weight) is not None)
    return [(held, name, held[name].source) for held, name in found]


@torch.no_grad()
def read(found: Sequence[Place], device: torch.device, own: Callable[[int], tuple[int, int]]) -> None:
    """Read parameters: of a divided weight (DTensor) the rows that are this process's, else all.

    own: (rows of a weight) -> (this process's first, first behind its last). Besides what is kept it takes memory for
    one weight, where that is made of others for these as well, and none on the device.
    """
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for held, name, source in found:
        weight = held[name]
        if id(weight) not in made:
            made[id(weight)] = weight, _read(weight, source, device, own)
        held[name] = made[id(weight)][1]


def _read(
    weight: nn.Parameter, source: Source, device: torch.device, own: Callable[[int], tuple[int, int]]
) -> nn.Parameter:
    from torch.distributed.tensor import DTensor

    made: Any = torch.empty_like(weight, device=device)
    if isinstance(made, DTensor):
        made.to_local().copy_(source.rows(*own(len(weight))))
    else:
        made.copy_(source.rows())
    return nn.Parameter(made, weight.requires_grad)


def _places(module: nn.Module, wanted: Callable[[nn.Parameter], bool]) -> list[tuple[dict[str, Any], str]]:
    """(a module's parameters, a name) of those that are wanted."""
    return [
        (cast(dict[str, Any], one._parameters), name)
        for one in module.modules()
        for name, weight in one._parameters.items()
        if weight is not None and wanted(weight)
    ]
