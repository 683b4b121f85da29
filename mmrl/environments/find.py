"""Finding a class or a function: a name from a table, or `path/file.py:name`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from mmrl.importing import import_file
from mmrl.near import near
from mmrl.share import resolve


def find(name: str, known: Mapping[str, str], kind: str) -> Any:
    """What `name` names: `known` gives "module:attribute" by name, anything else is `path/file.py:attribute`.

    kind: what is looked for, in a word for the message. Raises ValueError, saying what is near, without one.
    """
    file, colon, attribute = known.get(name, name).rpartition(":")
    if not colon or (name not in known and not file.endswith(".py")):
        raise ValueError(f"{kind} {name[:60]!r}: {near(name[:60], known)}; your own is given as path/file.py:name")
    try:
        module = importlib.import_module(file) if name in known else import_file(resolve(file))
    except ValueError as error:
        raise ValueError(f"{kind} {name[:60]!r}: {error}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise ValueError(f"{kind} {name!r}: {file} has no {attribute!r}; {near(attribute, public)}")
    return found
