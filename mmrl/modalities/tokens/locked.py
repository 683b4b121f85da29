"""What several threads use, one call at a time."""

from __future__ import annotations

import threading
from typing import Any


class Locked:
    """Whatever it stands for; its parts that have a tokenizer, and environments that it hands out, too.

    Tokenizers and processors keep settings of a call while they work, and fast ones refuse a second caller.
    """

    def __init__(self, inside: Any, lock: Any = None) -> None:
        own = {"_inside": inside, "_lock": lock or threading.RLock(), "_parts": {}, "_locks": {}}
        self.__dict__.update(own)  # _locks: of environments, which prompts share

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inside, name, value)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inside, name)
        if not callable(found):
            return self._part(found) if hasattr(found, "tokenizer") else found

        def call(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                made = found(*arguments, **named)
                if name != "environment_of" or made is None:
                    return made
                return Locked(made, self._locks.setdefault(id(made), threading.RLock()))

        return call

    def _part(self, found: Any) -> Locked:
        known = self._parts.get(id(found))
        if known is None or known._inside is not found:
            known = self._parts[id(found)] = Locked(found, self._lock)
        return known
