"""HTTP to a server that samples: JSON or bytes there and back, and what went wrong in one line."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import socket
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
import weakref
from functools import cached_property
from typing import Any


class ServerError(RuntimeError):
    """The server refused, failed, is another one or could not be reached; the message holds its own words.

    status: of its answer; None: there was none, or it was not what was expected."""

    status: int | None = None


class Lost(ServerError):
    """The server is not there, broke off, failed within (5xx), or is not as it was left (409), as one that was started
    anew: another one may do what it was asked."""


class Slow(Lost):
    """The server took the request, and did not answer in time: it may be at work."""


class Client:
    """url: where the server listens. timeout: seconds for one request. who: what speaks in errors. key: the variable of
    the environment whose value is sent along as a bearer token, where it has one. Proxies of the environment are
    passed by where the url is this machine's own. late: said behind what was not answered in time. headers: sent along.

    Requests are not repeated: a server that came back after a crash holds other weights.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        who: str = "vllm",
        key: str = "VLLM_API_KEY",
        late: str = "raise timeout where it needs longer",
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{who}: url is {url!r}; write http://host:port")
        self.url, self._timeout, self._who, self._key = url.rstrip("/"), timeout, who, key
        self._late = late
        self.headers: dict[str, str] = {}
        self._sockets = _Sockets()
        direct = [urllib.request.ProxyHandler({})] if _is_here(url) else []
        self._opener = urllib.request.build_opener(_Http(self._sockets), _Https(self._sockets), *direct)

    def get(self, path: str) -> Answer:
        return self._answer(urllib.request.Request(self.url + path))

    def post(self, path: str, body: dict[str, Any] | None = None) -> Answer:
        headers = {"Content-Type": "application/json"}
        return self._answer(urllib.request.Request(self.url + path, json.dumps(body or {}).encode(), headers))

    def exchange(self, path: str, data: bytes) -> bytes:
        """Bytes for bytes."""
        headers = {"Content-Type": "application/octet-stream"}
        return self._call(urllib.request.Request(self.url + path, data, headers))

    def close(self) -> None:
        """What is under way fails at once, in whatever thread it is, and so does what is asked after this."""
        self._sockets.close()

    def _answer(self, request: urllib.request.Request) -> Answer:
        return Answer(request.full_url, self._call(request).decode(errors="replace"), self._who)

    def _call(self, request: urllib.request.Request) -> bytes:
        who, where = self._who, request.full_url
        if key := os.environ.get(self._key, "").strip():
            request.add_header("Authorization", f"Bearer {key}")
        for name, value in self.headers.items():
            request.add_header(name, value)
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            words = " ".join(error.read().decode(errors="replace").split())[:1000]
            kind = Lost if error.code >= 500 or error.code == 409 else ServerError
            hint = f"; set {self._key} to its token" if error.code == 401 else ""
            failed = kind(f"{who}: {where} answered {error.code}: {words}{hint}")
            failed.status = error.code
            raise failed from error
        except TimeoutError as error:  # of the answer; while connecting it comes as an URLError
            raise Slow(f"{who}: {where} did not answer within {self._timeout:g} s; {self._late}") from error
        except OSError as error:
            raise Lost(f"{who}: {where} cannot be reached: {error}") from error
        except http.client.HTTPException as error:
            raise Lost(f"{who}: {where} does not answer in HTTP: {error!r}; look at the url") from error


def _is_here(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Answer:
    """What came back; not JSON from every endpoint."""

    def __init__(self, url: str, text: str, who: str = "vllm") -> None:
        self._url, self._text, self._who = url, text, who

    def at(self, *path: str | int) -> Any:
        """The value at a path of keys and places. Raises ServerError where the answer has none: it is another
        server's."""
        try:
            found = self._value
            for key in path:
                found = found[key]
        except (ValueError, KeyError, IndexError, TypeError):
            said = " ".join(self._text.split())[:80]
            expected = "vLLM 0.32 or 0.33" if self._who == "vllm" else "`mmrl serve-rollouts`"
            raise ServerError(
                f"{self._who}: {self._url} answered {said!r}, which is not what {expected} says there; look at the "
                "url: does another server listen there?"
            ) from None
        return found

    def maybe(self, *path: str | int) -> Any:
        """As `at`; None where the answer has nothing there."""
        try:
            return self.at(*path)
        except ServerError:
            return None

    @cached_property
    def _value(self) -> Any:
        return json.loads(self._text)


class _Sockets:
    """Those of requests under way."""

    def __init__(self) -> None:
        self._lock, self._closed = threading.Lock(), False
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def add(self, made: socket.socket) -> None:
        with self._lock:
            if self._closed:
                made.close()
                raise ConnectionAbortedError("the client was closed")
            self._open.add(made)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for each in list(self._open):
                with contextlib.suppress(OSError):  # it has ended by itself
                    each.shutdown(socket.SHUT_RDWR)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, sockets: _Sockets) -> None:
        super().__init__()
        self._sockets = sockets

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_noting(http.client.HTTPConnection, self._sockets), request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, sockets: _Sockets) -> None:
        super().__init__()
        self._sockets, self._trusting = sockets, ssl.create_default_context()

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_noting(http.client.HTTPSConnection, self._sockets), request, context=self._trusting)


def _noting(kind: Any, sockets: _Sockets) -> Any:
    """The class of a connection whose socket is noted as soon as it is there."""

    class Noting(kind):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    return Noting
