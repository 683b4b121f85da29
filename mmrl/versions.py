"""What an installation is made of, for `mmrl env` and for a bug report: the machine, and every package that counts."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import re
from collections.abc import Iterator

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_EXTRA = re.compile(r"extra == ['\"]([^'\"]+)['\"]")


def described() -> Iterator[str]:
    """Lines: mmrl and Python, the machine, its accelerators, then packages by the extra that wants them."""
    yield f"mmrl {metadata.version('mmrl')}, Python {platform.python_version()}, {platform.platform()}"
    yield from _machine()
    for extra, names in sorted(_packages().items()):
        if extra != "dev":
            yield f"{extra or 'always'}: {', '.join(_versioned(name) for name in names)}"


def _machine() -> Iterator[str]:
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 2**30
    yield f"{len(os.sched_getaffinity(0))} CPUs, {memory:.0f} GiB; torch takes {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        yield "no CUDA device" + ("" if torch.version.cuda else "; this torch is a CPU build")
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}: {device.name}, {device.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


def _packages() -> dict[str, list[str]]:
    """Names of the packages that mmrl may use, by extra; "" for those that it always needs."""
    found: dict[str, list[str]] = {}
    for line in metadata.requires("mmrl") or ():
        name, extra = _NAME.match(line), _EXTRA.search(line)
        if name and name[0] != "mmrl":
            found.setdefault(extra[1] if extra else "", []).append(name[0])
    return found


def _versioned(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"{name} (not installed)"
