"""Answers that were given before, by what was asked."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from weakref import WeakValueDictionary

_MOST = 100_000  # answers that are kept in memory


def known(path: str | Path | None) -> Known:
    """The answers kept in the file: one object for all that use it in this process, so that what one of them was told
    the others know at once. None: kept in memory, for the caller alone."""
    if path is None:
        return Known(None)
    where = Path(path).expanduser().resolve()
    with _opening:
        found = _open.get(where)
        if found is None:
            _open[where] = found = Known(where)
        return found


class Known:
    """Answers by the hash of their request, in memory and, with a path, in a file of one JSON object a line.

    May be used from several threads.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock, self._path = threading.Lock(), path
        self._answers: dict[str, str] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._keep(str(entry["key"]), str(entry["answer"]))
            except (ValueError, LookupError, TypeError):
                continue  # a line that a killed run left half written
        if text and not text.endswith("\n"):
            self._write("\n")

    def get(self, key: str) -> str | None:
        return self._answers.get(key)

    def put(self, key: str, answer: str) -> None:
        with self._lock:
            self._keep(key, answer)
            if self._path is not None:
                self._write(json.dumps({"key": key, "answer": answer}) + "\n")

    def _keep(self, key: str, answer: str) -> None:
        self._answers[key] = answer
        if len(self._answers) > _MOST:
            del self._answers[next(iter(self._answers))]

    def _write(self, text: str) -> None:
        assert self._path is not None
        with self._path.open("a", encoding="utf-8") as file:  # one write per line: several processes may share the file
            file.write(text)


_open: WeakValueDictionary[Path, Known] = WeakValueDictionary()
_opening = threading.Lock()
