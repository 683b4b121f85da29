"""Strict JSON and files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrl.reporting.disk import writing


def strict(value: Any, finite: bool = True) -> Any:
    """`value` as strict JSON: NaN and infinities become null, arrays lists, unknown objects their repr.

    finite=False leaves NaN and infinities as they are, which Python's own JSON can hold.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) or not finite else None
    if isinstance(value, Mapping):
        return {str(key): strict(item, finite) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item, finite) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch, arrays and scalars
        return strict(value.tolist(), finite)
    return repr(value)


def dumps(value: Any, indent: int | None = None) -> str:
    """One strict JSON document. ASCII only, so that any string a model wrote can be stored."""
    return json.dumps(strict(value), allow_nan=False, indent=indent)


def write_atomic(path: Path, text: str) -> None:
    """Write UTF-8 under a hidden name, flush to disk, rename: a reader sees the old file or the new one.

    Raises WriteError where it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a leftover; a link that somebody planted there would be written through
        try:
            with open(temporary, "x", encoding="utf-8", newline="", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
