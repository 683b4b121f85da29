"""What stands behind the routes: a request is let in, read, rated in the line, and answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import Request

from mmrl.serving.access import authorise, expect_host
from mmrl.serving.answers import Answers, Asked
from mmrl.serving.bodies import Bodies
from mmrl.serving.limits import Limits
from mmrl.serving.model import Served
from mmrl.serving.queue import Line
from mmrl.serving.rows import Outcome, Row
from mmrl.serving.score import VERSION
from mmrl.serving.wire import Refused, written

_LARGE = 1 << 20  # bytes of JSON above which one body is parsed at a time: parsed, it may take thirty times as many


class Service:
    """A model with its line, the answers it gave and the bodies in memory."""

    def __init__(self, served: Served, limits: Limits) -> None:
        self.served, self.limits = served, limits
        self.line = Line(served, limits.max_batch, limits.max_wait, limits.queue, limits.batch_seconds)
        self.answers = Answers(self.line, limits.answers)
        self.bodies = Bodies(limits.body, limits.bodies, limits.body_seconds)
        self._one_at_a_time = asyncio.Lock()
        self._started = time.monotonic()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """The line is worked off while the block runs."""
        work = asyncio.create_task(self.line.work())
        yield
        work.cancel()
        self.line.close()

    async def answer(
        self,
        request: Request,
        read_rows: Callable[[bytes], tuple[Any, list[Row]]],
        write: Callable[[Any, Sequence[Outcome]], Any],
    ) -> bytes:
        """The JSON of what `write` makes of a message and its rows' outcomes. read_rows: body -> (message, rows).

        Raises Refused for one who is not let in, a body that is not taken, a full line, and a sender that goes away.
        """
        expect_host(request, self.limits.hosts)
        authorise(request, self.limits.token)
        async with self.bodies.read(request) as body:
            async with self._one_at_a_time if len(body) > _LARGE else nullcontext():
                message, rows = await asyncio.to_thread(read_rows, body)
            del body
            return written(write(message, await _outcomes(request, self.answers.ask(rows))))

    def health(self, request: Request) -> bytes:
        """The JSON of what is served, and how long the line is. Raises Refused."""
        expect_host(request, self.limits.hosts)
        if not self.limits.open_health:
            authorise(request, self.limits.token)
        served, line = self.served, self.line
        told = {
            "status": line.stuck or "ok",
            "protocol_version": VERSION,
            "rewards": {served.name: ["score"]},
            "kind": served.kind,
            "scorer_version": served.version,
            "queue": {"rows": line.rows, "limit": line.limit, "batches": line.batches, "rated": line.rated},
            "uptime_s": round(time.monotonic() - self._started, 1),
        }
        return written(told)


async def _outcomes(request: Request, asked: Asked) -> list[Outcome]:
    """The rows' outcomes. Raises Refused: 499 where the sender does not wait for them, 503 and 504 where the
    model hangs."""
    rating = asyncio.create_task(asked.outcomes())
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({rating, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not rating.done():
            asked.give_up()
            await rating  # what waits on counts as a body in memory until then
            raise Refused(499, "the sender went away")
        outcomes = rating.result()
        if late := next((outcome for outcome in outcomes if outcome.status), None):
            raise Refused(late.status, late.reason, {"Retry-After": "60"})
        return outcomes
    finally:
        rating.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    """Ends when the sender goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
