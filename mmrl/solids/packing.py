"""Messages of numbers and files: JSON, and raw bytes behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_MAGIC = b"SOL1"


def packed(head: Mapping[str, Any], *parts: bytes) -> bytes:
    """A head (strict JSON) and parts, as one."""
    told = json.dumps({"head": head, "sizes": [len(part) for part in parts]}, allow_nan=False).encode()
    return b"".join([_MAGIC, len(told).to_bytes(4, "big"), told, *parts])


def unpacked(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The inverse. Raises ValueError for anything else."""
    if data[:4] != _MAGIC or len(data) < 8:
        raise ValueError(f"no message: it begins with {bytes(data[:8])!r}")
    end = 8 + int.from_bytes(data[4:8], "big")
    try:
        told = json.loads(data[8:end])
        head, sizes = told["head"], told["sizes"]
        whole = isinstance(head, dict) and all(isinstance(size, int) and size >= 0 for size in sizes)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"no message: {type(error).__name__}") from None
    if not whole or end + sum(sizes) != len(data):
        raise ValueError("no message: its parts are not as long as it says")
    parts = []
    for size in sizes:
        parts.append(data[end : end + size])
        end += size
    return head, parts
