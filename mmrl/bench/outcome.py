"""What an evaluation found: a table, what its reader has to be told, and a JSON of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmrl.bench import shares
from mmrl.bench.shares import Row
from mmrl.reporting.files import dumps, write_atomic

RESULTS = "results.json"


@dataclass(frozen=True)
class Outcome:
    """rows: the scores. notices: what they do not say. lines: a verdict for each picture, or an answer, as in
    verdicts.jsonl."""

    benchmark: str
    rows: Sequence[Row]
    notices: Sequence[str]
    lines: Sequence[Mapping[str, Any]] = field(repr=False, default=())
    more: Mapping[str, Any] = field(default_factory=dict)
    counted: str = "pictures"  # what there is a line of

    def score(self, name: str) -> float | None:
        """Of the row with that name. Raises KeyError."""
        return {row.name.strip(): row.score for row in self.rows}[name]

    def printed(self) -> Iterator[str]:
        yield from shares.printed(self.rows)
        yield from self.notices

    def write(self, folder: Path) -> None:
        """results.json. Raises WriteError."""
        told = {"benchmark": self.benchmark, self.counted: len(self.lines), "scores": shares.as_json(self.rows)}
        write_atomic(folder / RESULTS, dumps({**told, **self.more, "notices": list(self.notices)}, indent=1) + "\n")
