"""A run's folder as the report reads it: what can be used of it, and what cannot, in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmrl.reporting.ending import NAME as ENDING
from mmrl.reporting.folder import RunFolder, Unreadable
from mmrl.reporting.records import readable_ending, readable_index, readable_rows, readable_summary
from mmrl.reporting.sample_index import index_names, join_parts, list_tags

MOST_TEXT_BYTES = 2_000_000
Readable = Callable[[Any, str, list[str]], dict[str, Any] | None]
NOTHING: dict[str, Any] = {"groups": [], "extra": {}, "missing": []}


class RunReader:
    """Reads every file once. Nothing raises; `problems` says what is broken, missing or not followed."""

    def __init__(self, run_dir: Path) -> None:
        self.folder = RunFolder(run_dir)
        self.problems: list[str] = []
        self._indices: dict[str, dict[str, Any]] = {}

    def rows(self) -> list[dict[str, Any]]:
        """See readable_rows; [] without metrics.jsonl."""
        try:
            data = self.folder.bytes("metrics.jsonl") if self.folder.has("metrics.jsonl") else b""
        except Unreadable as error:
            self.problems.append(str(error))
            return []
        return readable_rows(data, "metrics.jsonl", self.problems)

    def summary(self) -> dict[str, Any] | None:
        """See readable_summary; None while the run has not finished."""
        return self._object("summary.json", readable_summary)

    def ending(self) -> dict[str, Any] | None:
        """See readable_ending; None while the run goes on, or where it came to its last step."""
        return self._object(ENDING, readable_ending)

    def _object(self, name: str, readable: Readable) -> dict[str, Any] | None:
        if not self.folder.has(name):
            return None
        try:
            raw = self.folder.json(name)
        except Unreadable as error:
            self.problems.append(str(error))
            return None
        return readable(raw, name, self.problems)

    def text(self, name: str) -> str:
        """A text file; "" without it."""
        try:
            return self.folder.text(name, MOST_TEXT_BYTES) if self.folder.has(name) else ""
        except Unreadable as error:
            self.problems.append(str(error))
            return ""

    def tags(self, prefix: str) -> list[str]:
        return list_tags(self.folder.root, prefix)

    def index(self, tag: str) -> dict[str, Any]:
        """The records of a tag, all parts joined, as readable_index leaves them; no groups where none can be read."""
        if tag not in self._indices:
            self._indices[tag] = self._index(tag)
        return self._indices[tag]

    def _index(self, tag: str) -> dict[str, Any]:
        parts = {}
        for name in index_names(self.folder.root, tag):
            try:
                raw = self.folder.json(name)
            except Unreadable as error:
                self.problems.append(str(error))
                continue
            parts[name] = readable_index(raw, name, self.problems)
        joined = join_parts(parts) if parts else NOTHING
        if joined["missing"]:
            self.problems.append(f"samples/{tag}: {', '.join(joined['missing'][:8])} of another process is missing")
        return joined
