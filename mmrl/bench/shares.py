"""How many of how many, and tables of that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """right: of those that were judged; judged: of those that were asked about."""

    right: int = 0
    judged: int = 0
    asked: int = 0

    @property
    def score(self) -> float | None:
        """Of what was judged; None where nothing was."""
        return self.right / self.judged if self.judged else None

    @property
    def over_all(self) -> float | None:
        """Of what was asked: without a verdict is not right."""
        return self.right / self.asked if self.asked else None

    def __add__(self, other: Share) -> Share:
        return Share(self.right + other.right, self.judged + other.judged, self.asked + other.asked)


@dataclass(frozen=True)
class Row:
    """A line of a table: a share, or the means of `count` shares."""

    name: str
    score: float | None
    over_all: float | None
    share: Share | None = None
    count: int = 1

    @classmethod
    def of(cls, name: str, share: Share) -> Row:
        return cls(name, share.score, share.over_all, share)

    @classmethod
    def mean(cls, name: str, shares: Iterable[Share]) -> Row:
        """The mean of shares, each once."""
        some = list(shares)
        return cls(name, _mean([s.score for s in some]), _mean([s.over_all for s in some]), count=len(some))


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one is missing: the mean of the others would be of another benchmark."""
    whole = [value for value in values if value is not None]
    return sum(whole) / len(whole) if whole and len(whole) == len(values) else None


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        row.name.strip(): {
            "score": row.score,
            "over_all": row.over_all,
            **(asdict(row.share) if row.share else {"mean_of": row.count}),
        }
        for row in rows
    }


def printed(rows: Sequence[Row]) -> Iterator[str]:
    """The rows in columns; `over all` where it differs somewhere."""
    lost = any(row.share and row.share.judged != row.share.asked for row in rows)
    cells = [["", "score", *(["over all"] if lost else []), "right"]]
    for row in rows:
        share = row.share
        right = f"{share.right} of {share.judged}" if share else f"mean of {row.count}"
        cells.append([row.name, _number(row.score), *([_number(row.over_all)] if lost else []), right])
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    for line in cells:
        yield "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))]).rstrip()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
