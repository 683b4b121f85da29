"""Importing a Python file by its path: adapters, environments, data functions and dataset scripts of anyone."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType

_ONE = threading.RLock()  # no thread gets a module that another one is still running; a file may import files


def import_file(path: Path) -> ModuleType:
    """The module of a Python file, imported once per path. Raises ValueError where there is no such file."""
    path = path.resolve()
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    name = f"_mmrl_file_{path.stem}_{abs(hash(str(path)))}"
    with _ONE:
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]


def import_new(name: str) -> ModuleType:
    """The module of this name, whose file may have been written a moment ago.

    One thread at a time forgets what folders held: two that do so at once stumble over each other (KeyError).
    """
    with _ONE:
        importlib.invalidate_caches()
        return importlib.import_module(name)
