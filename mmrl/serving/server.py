"""Running the service: its socket, its signals, and connections that say nothing."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import warnings
from collections.abc import Callable
from dataclasses import replace

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmrl.serving.app import make_app
from mmrl.serving.limits import Limits
from mmrl.serving.model import Served

_HEAD_SECONDS = 10.0  # that the head of a request may take
_MOST_CONNECTIONS = 1000
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_GRACE = 30  # seconds in which requests under way are finished after a SIGTERM


class ServeError(ValueError):
    """The service cannot start; the message says why."""


class Patient(H11Protocol):
    """HTTP, with a limit on how long a connection may be without a whole head of a request; uvicorn has one only for a
    connection that sends nothing at all after an answer."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._head is None:
            self._head = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _give_up(self) -> None:
        self._head = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def serve(
    served: Served, limits: Limits, host: str = "127.0.0.1", port: int = 5000, say: Callable[[str], None] = print
) -> None:
    """Serve a reward until SIGTERM or Ctrl-C. See `listen`."""
    if limits.bodies < limits.body:
        raise ServeError(f"all bodies may have {limits.bodies} bytes, and one {limits.body}: no such one would fit")
    limits = replace(limits, hosts=hosts_of(host, limits.token))
    told = f"{served.name} ({served.kind}, version {served.version})"
    listen(make_app(served, limits), told, host, port, limits.token, say)


def hosts_of(host: str, token: str) -> tuple[str, ...]:
    """Names by which a request may call a server that listens there; () for any."""
    return tuple(dict.fromkeys((host, *_LOOPBACK))) if _is_loopback(host) and not token else ()


def listen(app: FastAPI, told: str, host: str, port: int, token: str, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C: requests under way are finished, new ones refused. port: 0 takes a free one.

    told: what is served. say: gets the line that tells where, once requests are taken. Raises ServeError where the
    place is taken.
    """
    if not (token or _is_loopback(host)):
        warnings.warn(
            f"{host} can be reached by others, and there is no token: whoever can reach it can use it; set a token, "
            "or serve on 127.0.0.1",
            stacklevel=2,
        )
    try:
        at = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)
    except (OSError, OverflowError) as error:
        raise ServeError(f"cannot listen at {host}:{port}: {error}") from None
    shown = f"[{host}]" if ":" in host else host
    say(f"serving {told} at http://{shown}:{at.getsockname()[1]}")
    config = uvicorn.Config(
        app,
        http=Patient,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE,
    )
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:  # uvicorn raises the signal again when it has ended: for those above, which make it an ordinary end
        uvicorn.Server(config).run(sockets=[at])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        at.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
