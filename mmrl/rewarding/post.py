"""A request over HTTP that is held to its time-out as a whole, however slowly a server takes and gives."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

_MOST_BYTES = 4 << 20
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # statuses that another try may not meet
AWAY = frozenset({502, 503, 504})  # those of a server that is down or starting, said by what stands before it


class PostError(RuntimeError):
    """There is no answer; the message says why."""


class Poster:
    """POST of JSON to one URL, or GET of it, with connections that stay open. May be called from several threads.

    timeout: seconds from the look-up of the host to the last byte of the answer. A client's own limits are on the time
    between two reads, which a server that sends a byte now and then never reaches; so the request is a task of an event
    loop, in a thread of its own, and cancelled as a whole. Raises ValueError for a URL that is none of http or https.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        import httpx2

        try:
            parts = httpx2.URL(url)
        except httpx2.InvalidURL:
            parts = None
        if (
            parts is None
            or parts.scheme not in ("http", "https")
            or not parts.host
            or not 0 < (parts.port or 80) < 65536
        ):
            raise ValueError(f"url={url!r}: expected http://... or https://..., and a port that there is")
        self.url, self.timeout, self._http = url, timeout, httpx2
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        # Reading the certificates takes a third of a second, and http has no use for them.
        secure = parts.scheme == "https"
        self._client = httpx2.AsyncClient(headers=headers, timeout=None, limits=limits, verify=secure)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def post(self, content: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers, body); a redirect is not followed. Raises PostError."""
        return asyncio.run_coroutine_threadsafe(self._in_time("POST", content), self._running()).result()

    def get(self) -> tuple[int, Mapping[str, str], bytes]:
        """As `post`, without a body. Raises PostError."""
        return asyncio.run_coroutine_threadsafe(self._in_time("GET", None), self._running()).result()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # A daemon that knows nothing of self: it ends with self, and keeps no process.
                threading.Thread(target=_run, args=(self._loop, self._client), daemon=True, name="post").start()
                weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop).atexit = False
            return self._loop

    async def _in_time(self, method: str, content: bytes | None) -> tuple[int, Mapping[str, str], bytes]:
        try:
            async with asyncio.timeout(self.timeout):
                return await self._exchange(method, content)
        except TimeoutError:
            raise PostError(f"{self.url} took over {self.timeout:g} s") from None
        except (self._http.HTTPError, self._http.StreamError, OSError, ValueError) as error:
            raise PostError(f"{self.url} cannot be asked ({type(error).__name__}: {_first(error)})") from None

    async def _exchange(self, method: str, content: bytes | None) -> tuple[int, Mapping[str, str], bytes]:
        body = bytearray()
        async with self._client.stream(method, self.url, content=content) as response:
            # What is small when packed may be of any size unpacked.
            if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
                raise PostError(f"{self.url} answered in the encoding {encoding[:40]!r}, which was not asked for")
            async for part in response.aiter_raw():
                body += part
                if len(body) > _MOST_BYTES:
                    raise PostError(f"{self.url} answered over {_MOST_BYTES >> 20} MiB")
            return response.status_code, response.headers, bytes(body)


def _first(error: BaseException) -> BaseException:
    """What an error began with: the connection was refused, the host is not known."""
    while (before := error.__cause__ or error.__context__) is not None and str(before):
        error = before
    return error


def _run(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.run_until_complete(client.aclose())
    loop.close()


def seconds_of(retry_after: str) -> float:
    """A Retry-After header's seconds from now, 0 or more: a number of them, or a date."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError):
            return 0.0
    return seconds if seconds > 0 else 0.0
