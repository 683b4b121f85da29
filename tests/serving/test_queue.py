"""The line of rows before the model loses none of them, whatever comes while answers are given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mmrl.serving.queue import Line
from mmrl.serving.rows import Outcome, Row
from mmrl.types import Candidate, Prompt


class Lengths:
    """Rates a row by the length of its answer."""

    name, kind, version, whole, at_once = "lengths", "scorer", "1", False, 1

    def units(self, rows: Sequence[Row]) -> list[list[int]]:
        return [[place] for place in range(len(rows))]

    def rate(self, units: Sequence[Sequence[Row]]) -> list[list[Outcome]]:
        return [[Outcome({"score": float(len(row.candidates[0].answer))}) for row in unit] for unit in units]


def test_a_row_that_comes_between_an_answer_and_its_leaving_stays_in_line():
    """Callbacks of a batch's answers run one behind the other. A client of the first puts its next row before the
    second has left the line: the object of the second is gone by then, and the next row may stand at its address."""
    found: list[float] = []

    async def client(line: Line, number: int) -> None:
        for turn in range(20):
            [answer] = line.put([[Row(Prompt("p", ""), (Candidate("a" * (number + turn)),))]])
            [outcome] = await answer
            found.append(outcome.values["score"] - number - turn)

    async def work() -> int:
        line = Line(Lengths(), 4, 0.0, 100)
        working = asyncio.create_task(line.work())
        clients = [asyncio.create_task(client(line, number)) for number in range(8)]
        # Nothing waits for a clock: a line that is empty while a client still waits has lost its row.
        _, waiting = await asyncio.wait(clients, timeout=20)
        for one in (*waiting, working):
            one.cancel()
        line.close()
        return len(waiting)

    assert asyncio.run(work()) == 0
    assert found == [0.0] * 160
