"""What was computed and may be needed again: kept while it fits, the longest unused thrown away first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor


class Sized(Protocol):
    @property
    def bytes(self) -> int: ...


class Tensors(dict[str, "Tensor"]):
    """Tensors by name."""

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        return sum(t.numel() * t.element_size() for t in self.values())


T = TypeVar("T", bound=Sized)


class Kept(Generic[T]):
    """Values by key, of at most `limit` bytes together; the one that was put last stays in any case."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> T | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: Hashable, value: T) -> None:
        """Keep a value under a key that has none."""
        self._values[key] = value
        self.bytes += value.bytes
        while self.bytes > self.limit and len(self._values) > 1:
            self.bytes -= self._values.popitem(last=False)[1].bytes

    def clear(self) -> None:
        self._values.clear()
        self.bytes = 0
