"""Finding a class or a function: a name from a table, or `path/file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from mmrl.near import near
from mmrl.share import resolve


def find(name: str, known: Mapping[str, str], kind: str) -> Any:
    """What `name` names: `known` gives "module:attribute" by name, anything else is `path/file.py:attribute`.

    kind: what is looked for, in a word for the message. Raises ValueError, saying what is near, without one.
    """
    file, colon, attribute = known.get(name, name).rpartition(":")
    if not colon or (name not in known and not file.endswith(".py")):
        raise ValueError(f"{kind} {name!r}: {near(name, known)}; your own is given as path/file.py:name")
    module = importlib.import_module(file) if name in known else _import(file, kind)
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise ValueError(f"{kind} {name!r}: {file} has no {attribute!r}; {near(attribute, public)}")
    return found


def _import(file: str, kind: str) -> ModuleType:
    """A Python file, imported once by its path."""
    path = resolve(file).resolve()
    if not path.is_file():
        raise ValueError(f"{kind} {file!r}: there is no file {path}")
    name = f"_mmrl_environment_{path.stem}_{abs(hash(str(path)))}"
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
