"""Units of rows wait for the model here: a bounded line, from which batches are cut."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from mmrl.rewarding.threads import Threads
from mmrl.rewarding.values import one_line
from mmrl.serving.model import Served, Unit
from mmrl.serving.rows import Outcome
from mmrl.serving.wire import Refused

_LONGEST_WAIT = 60  # seconds that a client is asked to wait at most


@dataclass
class _Waiting:
    unit: Unit
    answer: asyncio.Future[list[Outcome]]
    since: float = field(default_factory=time.monotonic)


class Line:
    """Rates units in batches, in threads, in the order in which they came.

    max_batch: rows of a batch; a unit that is larger is a batch by itself. max_wait: seconds that a row waits for
    others while the model is free. limit: rows that may wait or run. seconds: that a batch may take; Python cannot stop
    a thread, so one that takes longer is answered (504), and keeps its place until it ends. While every place is kept
    so, all that waits, and all that comes, is told why (503). A unit whose future was cancelled is left out.
    """

    def __init__(self, served: Served, max_batch: int, max_wait: float, limit: int, seconds: float = 600.0) -> None:
        self.served, self.max_batch, self.max_wait, self.limit = served, max_batch, max_wait, limit
        self.seconds, self.hung = seconds, 0  # batches that run longer
        self.rows = 0  # that wait or run
        self.batches = 0
        self.rated = 0
        self._line: OrderedDict[int, _Waiting] = OrderedDict()  # by id: one that is given up leaves at once
        self._come = asyncio.Event()
        self._free = asyncio.Semaphore(served.at_once)
        self._threads = Threads(served.at_once, "serving")
        self._running: set[asyncio.Task[None]] = set()
        self._pace = 0.0  # seconds a row, a moving mean

    def put(self, units: Sequence[Unit]) -> list[asyncio.Future[list[Outcome]]]:
        """A future for each unit: all of them, or Refused (413: more than ever fit; 429: more than fit now; 503: the
        model hangs)."""
        count = sum(map(len, units))
        if self.stuck:
            raise Refused(503, self.stuck, {"Retry-After": str(_LONGEST_WAIT)})
        if count > self.limit:
            raise Refused(413, f"{count} rows are over the {self.limit} that may wait; send fewer at once")
        if self.rows + count > self.limit:
            words = f"{self.rows} rows wait, and no more than {self.limit} may; try again"
            raise Refused(429, words, {"Retry-After": str(self._wait())})
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(unit, loop.create_future()) for unit in units]
        for one in waiting:
            self.rows += len(one.unit)
            one.answer.add_done_callback(partial(self._leave, one))
            self._line[id(one)] = one
        self._come.set()
        return [one.answer for one in waiting]

    async def work(self) -> None:
        """Cut batches and rate them, for ever."""
        while True:
            while not self._line:
                self._come.clear()
                await self._come.wait()
            await self._free.acquire()
            while self._line and self._waiting_rows() < self.max_batch:
                rest = self._first().since + self.max_wait - time.monotonic()
                if rest <= 0:
                    break
                self._come.clear()
                try:
                    async with asyncio.timeout(rest):
                        await self._come.wait()
                except TimeoutError:
                    break
            batch = self._cut()
            if not batch:
                self._free.release()
                continue
            task = asyncio.create_task(self._rate(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    @property
    def stuck(self) -> str:
        """Why nothing is rated now; "" where something may be."""
        if self.hung < self.served.at_once:
            return ""
        return f"{self.served.name} is stuck: a call has run for over {self.seconds:g} s and has to end before the next"

    def close(self) -> None:
        """Leave the model to itself: what has not started is not rated."""
        self._threads.close()

    def _first(self) -> _Waiting:
        return next(iter(self._line.values()))

    def _waiting_rows(self) -> int:
        return sum(len(one.unit) for one in self._line.values())

    def _cut(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = 0
        while self._line and (not batch or rows + len(self._first().unit) <= self.max_batch):
            _, one = self._line.popitem(last=False)
            if not one.answer.done():
                batch.append(one)
                rows += len(one.unit)
        return batch

    async def _rate(self, batch: list[_Waiting]) -> None:
        start = time.monotonic()
        try:
            rating = asyncio.wrap_future(self._threads.submit(_rated, self.served, [o.unit for o in batch]))
        except RuntimeError as error:  # the threads were closed
            self._free.release()
            _settle(batch, Outcome(reason=str(error)))
            return
        await asyncio.wait({rating}, timeout=self.seconds)
        if not rating.done():
            self._hangs(batch, rating)
            return
        self._free.release()
        outcomes = rating.result()
        rows = sum(len(one.unit) for one in batch)
        pace = (time.monotonic() - start) / rows / self.served.at_once
        self._pace = pace if not self.batches else 0.8 * self._pace + 0.2 * pace
        self.batches += 1
        self.rated += rows
        for one, of in zip(batch, outcomes, strict=True):
            if not one.answer.done():
                one.answer.set_result(of)

    def _hangs(self, batch: list[_Waiting], rating: asyncio.Future[list[list[Outcome]]]) -> None:
        """Answer a batch that takes too long, and, where no other can run, all that wait."""
        self.hung += 1
        rating.add_done_callback(self._ended)
        reason = f"{self.served.name} gave nothing in {self.seconds:g} s, and its call still runs"
        _settle(batch, Outcome(reason=reason, status=504))
        if self.stuck:
            _settle(list(self._line.values()), Outcome(reason=self.stuck, status=503))

    def _ended(self, rating: asyncio.Future[list[list[Outcome]]]) -> None:
        """A batch that hung is done: its place is free."""
        self.hung -= 1
        self._free.release()
        if not rating.cancelled():
            rating.exception()  # looked at

    def _leave(self, one: _Waiting, _: object) -> None:
        """Called with the object, not with its id: while the call waits its turn another one could get that id."""
        self.rows -= len(one.unit)
        self._line.pop(id(one), None)  # where it was given up

    def _wait(self) -> int:
        """Seconds until there may be room again."""
        return max(1, min(_LONGEST_WAIT, math.ceil(self.rows * self._pace)))


def _settle(batch: Sequence[_Waiting], outcome: Outcome) -> None:
    """The same outcome for all rows."""
    for one in batch:
        if not one.answer.done():
            one.answer.set_result([outcome] * len(one.unit))


def _rated(served: Served, units: Sequence[Unit]) -> list[list[Outcome]]:
    """Outcomes of all units. Where the model raises, or answers amiss, its units are rated alone: one that it cannot
    take fails by itself."""
    try:
        outcomes = served.rate(units)
        if [len(of) for of in outcomes] != [len(unit) for unit in units]:
            raise ValueError(f"gave {[len(of) for of in outcomes]} outcomes for {[len(unit) for unit in units]} rows")
        return outcomes
    except BaseException as error:  # in a thread of its own, where it can only be the model's
        if len(units) > 1:
            return [of for unit in units for of in _rated(served, [unit])]
        return [[Outcome(reason=one_line(f"{type(error).__name__}: {error}"))] * len(units[0])]
