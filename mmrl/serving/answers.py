"""Answers by idempotency key: a request that comes again gets what it was given, or what is on its way."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from mmrl.serving.queue import Line
from mmrl.serving.rows import Outcome, Row

Promise = asyncio.Future[Outcome]
_USED = Outcome(reason="this idempotency_key was used for another request")


@dataclass(frozen=True)
class Asked:
    """Rows in the line. promises: of their outcomes, in order. lone: answers that nobody else may get."""

    promises: Sequence[Promise]
    lone: Sequence[asyncio.Future[list[Outcome]]]

    async def outcomes(self) -> list[Outcome]:
        """An outcome for each row, in order."""
        return [await asyncio.shield(promise) for promise in self.promises]

    def give_up(self) -> None:
        """Take the rows without a key out of the line; those with one are rated for the next time."""
        for answer in self.lone:
            answer.cancel()


class Answers:
    """Rates rows through a line, those with a key once. most: answers that are kept; failures are not."""

    def __init__(self, line: Line, most: int) -> None:
        self.line, self.served, self.most = line, line.served, most
        self._kept: OrderedDict[str, tuple[str, Promise]] = OrderedDict()  # key -> (fingerprint of the row, answer)

    def ask(self, rows: Sequence[Row]) -> Asked:
        """Put what is not known into the line. Raises Refused where it is full; then no row is rated."""
        keys = self._keys(rows)
        found = [self._known(key, row) for key, row in zip(keys, rows)]
        new = [place for place, promise in enumerate(found) if promise is None]
        first: dict[str, int] = {}  # of those with a key that are new
        for place in new:
            if (key := keys[place]) is not None:
                first.setdefault(key, place)
        new = [place for place in new if first.get(keys[place] or "", place) == place]
        units = [[new[i] for i in unit] for unit in self.served.units([rows[place] for place in new])]
        answers = self.line.put([[rows[place] for place in unit] for unit in units])
        for unit, answer in zip(units, answers):
            for i, place in enumerate(unit):
                found[place] = self._promise(answer, i, keys[place], rows[place])
        for place, promise in enumerate(found):
            if promise is None:  # its key stands before in this request
                other = first[keys[place] or ""]
                same = rows[other].fingerprint == rows[place].fingerprint
                found[place] = found[other] if same else _settled(_USED)
        lone = [answer for unit, answer in zip(units, answers) if all(keys[place] is None for place in unit)]
        return Asked([promise for promise in found if promise is not None], lone)

    def _keys(self, rows: Sequence[Row]) -> list[str | None]:
        """What each row's answer is kept under; where rows depend on their group, they have all a key or none."""
        if not self.served.whole:
            return [row.key for row in rows]
        keys: list[str | None] = [None] * len(rows)
        sound = [place for place, row in enumerate(rows) if not row.fault]
        for unit in self.served.units([rows[place] for place in sound]):
            places = [sound[i] for i in unit]
            if any(rows[place].key is None for place in places):
                continue
            together = hashlib.sha256("".join(rows[place].fingerprint for place in places).encode()).hexdigest()
            of_unit = [f"{rows[place].key} {together} {i}" for i, place in enumerate(places)]
            if any(key not in self._kept for key in of_unit):
                for key in of_unit:
                    self._kept.pop(key, None)
            for place, key in zip(places, of_unit):
                keys[place] = key
        return keys

    def _known(self, key: str | None, row: Row) -> Promise | None:
        """The answer that a row has already, or is about to have; None where it is to be rated."""
        if row.fault:
            return _settled(Outcome(reason=row.fault))
        if key is None or key not in self._kept:
            return None
        content, promise = self._kept[key]
        if content != row.fingerprint:
            return _settled(_USED)
        self._kept.move_to_end(key)
        return promise

    def _promise(self, answer: asyncio.Future[list[Outcome]], i: int, key: str | None, row: Row) -> Promise:
        """The outcome of the i-th row of a unit; kept under its key, unless it fails."""
        promise: Promise = asyncio.get_running_loop().create_future()

        def settle(done: asyncio.Future[list[Outcome]]) -> None:
            promise.set_result(Outcome(reason="given up") if done.cancelled() else done.result()[i])
            if key is not None and promise.result().failed and self._kept.get(key, ("", None))[1] is promise:
                del self._kept[key]

        if key is not None:
            self._kept[key] = (row.fingerprint, promise)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
        answer.add_done_callback(settle)
        return promise


def _settled(outcome: Outcome) -> Promise:
    promise: Promise = asyncio.get_running_loop().create_future()
    promise.set_result(outcome)
    return promise
