"""One place that starts sandboxes: rewards of a run that want the same one have it together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from .limits import Limits
from .sandbox import Sandbox

_known: dict[tuple[Any, ...], Sandbox] = {}
_lock = threading.Lock()


def shared(
    runner: str,
    limits: Limits,
    *,
    workers: int = 1,
    python: str | None = None,
    path: Sequence[str] = (),
    reads: Sequence[str] = (),
    strict: bool = True,
) -> Sandbox:
    """The sandbox of this process with these settings, made if there is none; the largest `workers` asked for counts.

    It ends with the process. The arguments are those of Sandbox.
    """
    key = (runner, limits, python, tuple(path), tuple(reads), strict)
    with _lock:
        if key not in _known:
            _known[key] = Sandbox(runner, limits, workers=workers, python=python, path=path, reads=reads, strict=strict)
        found = _known[key]
        found.workers = max(found.workers, workers)
        return found
