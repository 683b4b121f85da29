"""Asking one of several servers of the same thing: in turn, again where it may help, and as long as it is worth it."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.rewarding.breaker import Breaker
from mmrl.rewarding.patience import Patience
from mmrl.rewarding.post import PASSING, Poster, PostError, seconds_of

_LONGEST_PAUSE = 10.0  # seconds between two tries


class Unanswered(RuntimeError):
    """No server gave an answer. lasting: another try would fail in the same way."""

    def __init__(self, reason: str, lasting: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting


class Servers:
    """Servers that answer JSON with JSON. May be called from several threads.

    urls: without the route; each is asked in turn. key_env: the variable with the bearer token, where it is set.
    timeout: seconds of one try, all in all. attempts: tries of a request, at least. patience: seconds from the first
    failure after the last answer, of whatever request, during which it is tried again; after them a request has its
    `attempts` tries and no more. rest: seconds in which a server that failed is left alone where others are there.
    pause: seconds before the second try, doubled for each later one. After `as_monitor` nothing is waited for, and what
    failed is left alone.
    Raises ValueError for a URL or a key that cannot be used.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        key_env: str,
        timeout: float = 180.0,
        attempts: int = 3,
        patience: float = 600.0,
        rest: float = 30.0,
        pause: float = 0.5,
    ) -> None:
        self.urls = [url.rstrip("/") for url in ([urls] if isinstance(urls, str) else urls)]
        if not self.urls or attempts < 1 or not timeout > 0 or not min(patience, rest, pause) >= 0:
            raise ValueError("url: one or more; attempts: 1 or more; timeout: above 0; patience and rest: 0 or more")
        if any("@" in url.partition("://")[2].partition("/")[0] for url in self.urls):
            raise ValueError("url holds a user name or a password; put the key into the environment, see key_env")
        self._key = os.environ.get(key_env, "").strip()
        if not (self._key.isascii() and all(map(str.isprintable, self._key))):
            raise ValueError(f"the environment variable {key_env} is no key: it holds what no header can")
        self._headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self.timeout, self.attempts, self.rest, self.pause = timeout, attempts, rest, pause
        self.patience = Patience(patience)
        self._posters: dict[str, Poster] = {url: Poster(url, self._headers, timeout) for url in self.urls}
        self._lock = threading.Lock()
        self._turn = 0
        self._resting: dict[str, float] = {}  # url -> until when
        self._breaker: Breaker | None = None

    def as_monitor(self) -> None:
        """Nobody waits: a request has its tries at once, and after one that had them all in vain no other is sent for
        `rest` seconds (longer each time), and then one with a single try. Told once in each such time."""
        self.patience, self._breaker = Patience(0.0), Breaker(self.rest)

    def ask(self, route: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that a server answers; body: None asks by GET. Raises Unanswered."""
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        if self._breaker is None:
            return self._asked(route, content, self.attempts)
        if why := self._breaker.why():
            raise Unanswered(why)
        known = self._breaker.trying
        try:
            answer = self._asked(route, content, 1 if known else self.attempts)
        except Unanswered as error:
            if error.lasting:  # an answer, of a server that is there
                self._breaker.answered()
            else:
                self._breaker.tell(str(error), known)
            raise
        except BaseException as error:
            self._breaker.failed(type(error).__name__)
            raise
        self._breaker.answered()
        return answer

    def _asked(self, route: str, content: bytes | None, attempts: int) -> Any:
        """The answer after at least so many attempts."""
        tries = 0
        while True:
            url = self._next()
            try:
                answer = self._try(url + route, content)
            except Unanswered as error:
                if error.lasting:
                    raise
                tries += 1
                self._failed(url, rests=not isinstance(error, _Busy), reason=str(error))
                if tries >= attempts and not self.patience.lasts:
                    raise Unanswered(f"{error} ({tries} attempts)") from None
                self._pause(tries, error.wait if isinstance(error, _Busy) else 0.0)
                continue
            self.patience.answered()
            with self._lock:
                self._resting.pop(url, None)
            return answer

    def _try(self, address: str, content: bytes | None) -> Any:
        with self._lock:
            poster = self._posters.get(address) or Poster(address, self._headers, self.timeout)
            self._posters[address] = poster
        try:
            status, headers, said = poster.get() if content is None else poster.post(content)
        except PostError as error:
            raise Unanswered(str(error)) from None
        if status == 429:
            raise _Busy(f"{address} answered 429: {self._words(said)}", seconds_of(headers.get("retry-after", "")))
        if status != 200:
            raise Unanswered(f"{address} answered {status}: {self._words(said)}", status not in PASSING)
        try:
            return json.loads(said)
        except (ValueError, RecursionError) as error:
            raise Unanswered(f"{address} answered no JSON ({type(error).__name__})") from None

    def _next(self) -> str:
        """The server whose turn it is: of those that do not rest; or the one that rests shortest."""
        with self._lock:
            self._turn += 1
            order = [self.urls[(self._turn + i) % len(self.urls)] for i in range(len(self.urls))]
            now = time.monotonic()
            awake = [url for url in order if self._resting.get(url, 0.0) <= now]
            return awake[0] if awake else min(order, key=lambda url: self._resting[url])

    def _failed(self, url: str, rests: bool, reason: str) -> None:
        if rests:
            with self._lock:
                self._resting[url] = time.monotonic() + self.rest
        self.patience.failed(reason, tell=rests)

    def _pause(self, tries: int, wanted: float) -> None:
        with self._lock:
            others = any(self._resting.get(url, 0.0) <= time.monotonic() for url in self.urls)
        if others and not wanted and len(self.urls) > 1:
            return  # to a server that has not failed, at once
        # Up to twice as long, so that threads which failed together do not come back together.
        own = min(_LONGEST_PAUSE, self.pause * 2 ** min(tries - 1, 10) * random.uniform(1, 2))
        time.sleep(max(own, min(wanted, self.timeout)))

    def _words(self, said: bytes) -> str:
        """What the server told, on one line, cut short, without the key that it may have repeated."""
        told = said.decode("utf-8", "replace")
        told = told.replace(self._key, "(the key)") if self._key else told
        return " ".join(told.split())[:200]


class _Busy(Unanswered):
    """The server is well, and asks to wait some seconds."""

    def __init__(self, reason: str, wait: float) -> None:
        super().__init__(reason)
        self.wait = wait
