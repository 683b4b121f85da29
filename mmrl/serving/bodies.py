"""Reading a request's body: no more bytes, and no longer, than is allowed, and no more bodies at once than fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request
from starlette.requests import ClientDisconnect

from mmrl.serving.wire import Refused

_SIZES = {b",": 100, b"[": 100, b"{": 300}  # of a value, a list, a dict, and of what else is made of them
_LINGER = 0.5  # seconds in which the rest of a refused body is thrown away, so that its sender reads the answer


@dataclass
class Bodies:
    """most: bytes of one body. together: bytes of all bodies that are in memory, from their first byte to their answer,
    and of what they become when they are read. seconds: that a body may take."""

    most: int
    together: int
    seconds: float
    held: int = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body, which counts until the block ends. Raises Refused: 408, 413, 415, 429."""
        self._check_head(request)
        body = bytearray()
        taken = 0
        try:
            try:
                async with asyncio.timeout(self.seconds):
                    async for part in request.stream():
                        self.held += len(part)
                        taken += len(part)
                        if taken > self.most:
                            raise Refused(413, f"the body is over {self.most} bytes")
                        if self.held > self.together:
                            raise Refused(429, "too many bodies at once; try again", {"Retry-After": "1"})
                        body += part
            except ClientDisconnect:
                raise Refused(499, "the sender went away") from None
            except TimeoutError:
                raise Refused(408, f"the body took over {self.seconds:g} s") from None
            request.state.read = True
            whole = [bytes(body)]
            body.clear()
            values = _unpacked(whole[0])
            if taken + values > self.together:
                raise Refused(413, f"the body takes up to {taken + values} bytes in memory, as JSON; send fewer rows")
            self.held += values
            taken += values
            if self.held > self.together:
                raise Refused(429, "too many bodies at once; try again", {"Retry-After": "1"})
            yield whole.pop()  # which the caller may let go before the block ends
        finally:
            self.held -= taken

    def _check_head(self, request: Request) -> None:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, "the body has to be of the type application/json")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "the body has to be sent without a content encoding")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.most:
            raise Refused(413, f"the body is over {self.most} bytes")


def _unpacked(body: bytes) -> int:
    """Bytes that the values of a body of JSON take beside their own, at most: some are thirty times what is written."""
    return sum(size * body.count(mark) for mark, size in _SIZES.items())


async def linger(request: Request) -> None:
    """Throw away what is still sent of a body that was refused, for a moment: else the connection breaks before its
    sender has read why."""
    try:
        async with asyncio.timeout(_LINGER):
            while True:
                message = await request.receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return
