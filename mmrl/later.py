"""What is made when somebody looks: pictures and meshes of a sample that only a stored sample needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Later(Mapping[str, Any]):
    """A mapping that `make` gives at the first look, once, from whatever thread. Copies, and what is written of it, are
    plain dicts."""

    def __init__(self, make: Callable[[], Mapping[str, Any]]) -> None:
        self._make: Callable[[], Mapping[str, Any]] | None = make
        self._made: Mapping[str, Any] = {}
        self._lock = threading.Lock()

    def _look(self) -> Mapping[str, Any]:
        with self._lock:
            if self._make is not None:
                self._made, self._make = self._make(), None  # what it was made of may go
            return self._made

    def __getitem__(self, key: str) -> Any:
        return self._look()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._look())

    def __len__(self) -> int:
        return len(self._look())

    def __reduce__(self) -> tuple[type[dict], tuple[dict[str, Any]]]:
        return dict, (dict(self._look()),)
