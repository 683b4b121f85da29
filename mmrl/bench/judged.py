"""From pictures to verdicts: each picture once, whatever stopped in between."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from mmrl.bench.items import Gallery, Item, P
from mmrl.bench.ledger import Ledger
from mmrl.config import ConfigError
from mmrl.reporting.progress import counted
from mmrl.rewarding.threads import Threads

Line = dict[str, Any]
REASON = "reason"  # of a line: why there is no verdict
ANSWERED = (
    "answered"  # of a line without one: whether there was an answer, which said nothing; otherwise there was none
)
_PATIENCE = 8  # requests in a row without an answer, at least, after which nobody is asked any more


class Unanswered(RuntimeError):
    """Nobody answers; what was judged until then is kept."""


def judged(
    items: Sequence[P],
    gallery: Gallery,
    ledger: Ledger,
    ask: Callable[[P, Path], Line],
    *,
    threads: int = 1,
    again: bool = False,
    quiet: bool = True,
    told: str = "asking",
) -> list[Line]:
    """A line for each picture, in order: those of the ledger, and what `ask` says of the others, kept as it comes.

    A request without an answer is no verdict and not kept: it is made again when the evaluation goes on. Many of them
    in a row raise Unanswered. again: pictures whose answer said nothing are asked about once more, too.
    Raises ConfigError where a picture, or what is asked about it, is another one than the one that was judged.
    """
    wanted = list(gallery.places(items))
    marks = {path: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for _, _, path in wanted}
    left = []
    for item, k, path in wanted:
        line = ledger.get(item.id, k)
        if line is not None and line["mark"] != marks[path]:
            raise ConfigError(f"{path} is not the picture that was judged in {ledger.path}; take another --out")
        if line is not None and line["asked"] != _digest(item):
            raise ConfigError(
                f"prompt {item.id}, or what is asked about it, is not what was judged in {ledger.path}; take another "
                "--out"
            )
        if line is None or (again and REASON in line):
            left.append((item, k, path))

    def put(place: tuple[P, int, Path]) -> Line:
        item, k, path = place
        return {
            "id": item.id,
            "picture": k,
            "file": path.name,
            "mark": marks[path],
            "asked": _digest(item),
            **ask(item, path),
        }

    found = map(put, left) if threads == 1 else _as_they_come(put, left, threads)
    lost: dict[tuple[str, int], Line] = {}
    in_a_row = 0
    for _ in range(len(left)) if quiet else counted(range(len(left)), told):
        line = next(found)
        if line.get(ANSWERED, True):
            ledger.add(line)
            in_a_row = 0
            continue
        lost[line["id"], line["picture"]] = line
        in_a_row += 1
        if in_a_row >= max(_PATIENCE, 2 * threads):
            why = f"{in_a_row} requests in a row were not answered, the last: {line[REASON]}"
            raise Unanswered(f"{why}; what was judged is in {ledger.path}, and the same command goes on")
    return [ledger.get(item.id, k) or lost[item.id, k] for item, k, _ in wanted]


def _digest(item: Item) -> str:
    return hashlib.sha256(repr(item).encode()).hexdigest()[:16]


def _as_they_come(put: Callable[[Any], Line], left: Sequence[Any], threads: int) -> Iterator[Line]:
    pool = Threads(threads, "bench")
    try:
        yield from (future.result() for future in as_completed([pool.submit(put, place) for place in left]))
    finally:
        pool.close()
