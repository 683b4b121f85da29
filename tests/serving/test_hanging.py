"""A model that hangs: its request is answered, others are told why they wait in vain, and it goes on when it can."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from served_models import scorer

from mmrl.serving.queue import Line
from mmrl.serving.rows import Outcome, Row
from mmrl.serving.wire import Refused
from mmrl.types import Candidate, Prompt


class Hangs:
    """Rates a row by the length of its answer; "hang" waits for the gate."""

    name, kind, version, whole = "hangs", "scorer", "1", False

    def __init__(self, at_once: int) -> None:
        self.at_once, self.gate = at_once, threading.Event()

    def units(self, rows: Sequence[Row]) -> list[list[int]]:
        return [[place] for place in range(len(rows))]

    def rate(self, units: Sequence[Sequence[Row]]) -> list[list[Outcome]]:
        words = [row.candidates[0].answer for unit in units for row in unit]
        if "hang" in words:
            assert self.gate.wait(60)
        return [[Outcome({"score": float(len(word))})] for word in words]


def row(word: str) -> list[Row]:
    return [Row(Prompt("p", ""), (Candidate(word),))]


async def rated(line: Line, *words: str) -> list[Outcome]:
    return [(await answer)[0] for answer in line.put([row(word) for word in words])]


async def until_free(line: Line) -> None:
    while line.hung:
        await asyncio.sleep(0.01)


def test_what_hangs_and_what_waits_behind_it_is_answered_and_the_line_goes_on_when_it_ends():
    async def work() -> None:
        served = Hangs(1)
        line = Line(served, 1, 0.0, 10, seconds=0.05)
        working = asyncio.create_task(line.work())
        first, second = await rated(line, "hang", "abc")
        assert (first.status, second.status, first.values, second.values) == (504, 503, {}, {})
        assert first.reason == "hangs gave nothing in 0.05 s, and its call still runs"
        assert "hangs is stuck: a call has run for over 0.05 s" in second.reason
        with pytest.raises(Refused, match="stuck") as refused:
            line.put([row("abc")])
        assert refused.value.status == 503
        served.gate.set()
        await until_free(line)
        assert line.rows == 0
        line.seconds = 60.0
        assert [one.values for one in await rated(line, "abc", "hang")] == [{"score": 3.0}, {"score": 4.0}]
        working.cancel()

    asyncio.run(work())


def test_of_a_model_that_takes_several_batches_at_a_time_the_others_go_on():
    async def work() -> None:
        served = Hangs(2)
        line = Line(served, 1, 0.0, 10, seconds=0.05)
        working = asyncio.create_task(line.work())
        [hung] = await rated(line, "hang")
        line.seconds = 60.0
        assert hung.status == 504 and not line.stuck
        assert [one.values for one in await rated(line, "abc", "de")] == [{"score": 3.0}, {"score": 2.0}]
        served.gate.set()
        await until_free(line)
        working.cancel()

    asyncio.run(work())


@pytest.mark.parametrize("route", ["/get_reward", "/score"])
def test_the_request_gets_a_status_and_the_reason_and_never_a_number(service, route):
    gate = threading.Event()
    client = service(scorer(gate=gate), batch_seconds=0.05)
    rows = [{"history": [{"text": "a"}, {"text": "b"}], "idempotency_key": "k"}]
    body = {"query": ["ab"]} if route == "/get_reward" else {"protocol_version": "1", "requests": rows}
    first, second = (client.post(route, json=body) for _ in range(2))
    assert (first.status_code, second.status_code) == (504, 503)
    assert set(first.json()) == {"error"} and "lengths gave nothing in 0.05 s" in first.json()["error"]
    assert int(second.headers["Retry-After"]) > 0
    assert client.get("/health").json()["status"].startswith("lengths is stuck: ")
    gate.set()
    while client.get("/health").json()["status"] != "ok":
        pass
    assert client.post(route, json=body).status_code == 200
