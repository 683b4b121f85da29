"""Asking a language model for verdicts: an OpenAI-compatible endpoint, tried again, from threads, answers kept.

A verdict that does not come (the server is down or slow, or its answer cannot be read) is a Failure with a reason,
never a number. Requests and answers are JSON; keys come from the environment only.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mmrl.rewarding.breaker import Breaker
from mmrl.rewarding.known import known
from mmrl.rewarding.patience import Patience
from mmrl.rewarding.post import AWAY, PASSING, Poster, PostError, seconds_of
from mmrl.rewarding.threads import Threads

_REST = 30.0  # seconds in which a monitor's server that is down is left alone first
V = TypeVar("V")
_LONGEST_PAUSE = 10.0  # seconds between two tries
_LONG = 1024  # characters of a text that a request is told by as its digest
# {"role", "content"} each; content is a text, or a list of parts (mmrl.rewarding.parts)
Messages = Sequence[Mapping[str, Any]]


class ChatError(RuntimeError):
    """A try failed. lasting: another one would fail in the same way. wait: seconds that the server asks for. down: the
    server could not be asked, or did not serve; elsewhere it answered something that is of no use. away: no server was
    met, or one that says that it is not there yet: it may be worth waiting for."""

    def __init__(
        self, reason: str, lasting: bool = False, wait: float = 0.0, down: bool = False, away: bool = False
    ) -> None:
        super().__init__(reason)
        self.lasting, self.wait, self.down, self.away = lasting, wait, down, away


@dataclass(frozen=True)
class Failure:
    """Why there is no verdict. down: see ChatError."""

    reason: str
    down: bool = False


class Chat(Protocol):
    """A language model that can be asked. `identity`: what its answers depend on, besides the request."""

    identity: str

    def complete(self, messages: Messages, temperature: float, seed: int) -> str:
        """The answer. Raises ChatError."""


class Endpoint:
    """A model behind POST {url}/chat/completions, as OpenAI, vLLM, SGLang, llama.cpp and Ollama serve it.

    url: up to and with /v1, http or https. key_env: the environment variable that holds the key, sent as a bearer
    token where it is set. timeout: seconds for one answer, all in all. options: more fields of the request.
    May be called from several threads. Raises ValueError for another kind of URL, and a key that no header can hold.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_env: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        max_tokens: int = 1024,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not timeout > 0 or max_tokens < 1:
            raise ValueError(f"timeout={timeout}, max_tokens={max_tokens}: both must be above 0")
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise ValueError("url holds a user name or a password; put the key into the environment, see key_env")
        self.url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.timeout = timeout
        self.fields = {"model": model, "max_tokens": max_tokens, **(options or {})}
        self.identity = json.dumps([self.url, self.fields], sort_keys=True)
        self._key = os.environ.get(key_env, "").strip()
        if not (self._key.isascii() and all(map(str.isprintable, self._key))):
            raise ValueError(f"the environment variable {key_env} is no key: it holds what no header can")
        self._poster = Poster(self.url, {"Authorization": f"Bearer {self._key}"} if self._key else {}, timeout)

    def complete(self, messages: Messages, temperature: float, seed: int) -> str:
        request = {**self.fields, "messages": list(messages), "temperature": temperature, "seed": seed}
        try:
            status, headers, body = self._poster.post(json.dumps(request).encode())
        except PostError as error:
            raise ChatError(str(error), down=True, away=True) from None
        if status != 200:
            told = self._words(body.decode("utf-8", "replace"))
            wait = min(seconds_of(headers.get("retry-after", "")), self.timeout)
            passing = status in PASSING
            reason = f"{self.url} answered {status}: {told}"
            raise ChatError(reason, not passing, wait, down=passing, away=status in AWAY)
        return self._content(body, headers.get("content-type", "application/json"))

    def _content(self, body: bytes, kind: str) -> str:
        content = self._found(body, kind, lambda choice: choice["message"]["content"])
        if not isinstance(content, str) or not content.strip():
            raise ChatError(f"{self.url} gave an empty answer")
        return content

    def _found(self, body: bytes, kind: str, find: Callable[[Any], Any]) -> Any:
        """What `find` takes out of the answer's first choice."""
        try:
            answer = json.loads(body)
            if isinstance(answer, dict) and answer.get("error"):  # some proxies send their errors as 200
                error = answer["error"]
                told = error.get("message", error) if isinstance(error, dict) else error
                raise ChatError(f"{self.url} answered an error: {self._words(str(told))}")
            return find(answer["choices"][0])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            of = "" if "json" in kind else f", of the type {self._words(kind)}"
            words = self._words(f"{type(error).__name__}: {error}")
            raise ChatError(f"{self.url} answered no chat completion ({words}){of}") from None

    def _words(self, told: str) -> str:
        """What the server told, on one line, cut short, without the key that it may have repeated."""
        told = told.replace(self._key, "(the key)") if self._key else told
        return " ".join(told.split())[:200]


class Judge:
    """Verdicts of a chat model. One request is asked once, however often it occurs; what was read stays known.

    attempts: tries per request; behind k answers that could not be read the temperature is higher by rise * k, so that
    the same nonsense does not come again; seeds follow from the request. temperature: of the first try. threads:
    requests at a time. pause: seconds before the second try, doubled for each later one, up to ten. patience: seconds
    from the first failure after the last answer, of whatever request, during which a server that is away is tried again
    without using up attempts. cache: a .jsonl file that keeps the answers between runs.
    May be called from several threads. After `as_monitor` a server that is down is left alone for a while.
    """

    def __init__(
        self,
        chat: Chat,
        attempts: int = 3,
        threads: int = 16,
        rise: float = 0.2,
        pause: float = 0.5,
        cache: str | Path | None = None,
        patience: float = 0.0,
        temperature: float = 0.0,
    ) -> None:
        if attempts < 1 or threads < 1 or min(rise, pause, temperature) < 0:
            raise ValueError(
                f"attempts={attempts}, threads={threads} need 1 or more, rise={rise}, pause={pause}, "
                f"temperature={temperature} 0"
            )
        self.temperature = temperature
        self.identity = f"{chat.identity} at {temperature}" if temperature else chat.identity
        self.chat, self.attempts, self.rise, self.pause = chat, attempts, rise, pause
        self.patience = Patience(patience)
        self.threads = min(threads, getattr(chat, "threads", threads))
        self._known = known(cache or None)
        self._pool = Threads(self.threads, "judge")
        self._breaker: Breaker | None = None

    def as_monitor(self) -> None:
        """After a request that had all its attempts at a server that is down no other is sent for 30 seconds (longer
        each time), and then one with a single attempt. Told once in each such time."""
        self._breaker, self.patience = Breaker(_REST), Patience(0.0)

    def verdicts(
        self, requests: Sequence[Messages], read: Callable[[str], V | None], draws: Sequence[int] | None = None
    ) -> list[V | Failure]:
        """What `read` makes of each answer, in order; an answer that it makes None of is asked for again.

        draws: a number for each request; equal requests of different numbers are asked each, by other seeds. None: 0.
        """
        numbers = [0] * len(requests) if draws is None else draws
        keys = [_key(self.identity, messages, draw) for messages, draw in zip(requests, numbers, strict=True)]
        first = dict(zip(keys, requests))
        found = dict(zip(first, self._pool.map(lambda key: self._verdict(key, first[key], read), first)))
        return [found[key] for key in keys]

    def _verdict(self, key: str, messages: Messages, read: Callable[[str], V | None]) -> V | Failure:
        told = self._known.get(key)
        if told is not None and (verdict := read(told)) is not None:
            return verdict
        if self._breaker is None:
            return self._asked(key, messages, read, self.attempts)
        if why := self._breaker.why():
            return Failure(why)
        before = self._breaker.trying
        try:
            found = self._asked(key, messages, read, 1 if before else self.attempts)
        except BaseException as error:
            self._breaker.failed(type(error).__name__)
            raise
        if isinstance(found, Failure) and found.down:
            self._breaker.tell(found.reason, before)
        else:
            self._breaker.answered()
        return found

    def _asked(self, key: str, messages: Messages, read: Callable[[str], V | None], attempts: int) -> V | Failure:
        tries = unread = errors = 0
        while True:
            try:
                heat = round(self.temperature + self.rise * unread, 6)
                answer = self.chat.complete(messages, heat, int(key[:7], 16) + unread)
            except ChatError as error:
                if error.lasting:
                    return Failure(str(error))
                reason, wait, down = str(error), self._wait(error, errors), error.down
                waited_for = error.away and self._is_waited_for(reason)
                errors += 1
            else:
                self.patience.answered()
                if (verdict := read(answer)) is not None:
                    self._known.put(key, answer)
                    return verdict
                reason, wait, down = f"no verdict in the answer {answer.strip()[-200:]!r}", 0.0, False
                waited_for = False
                unread += 1
            tries += not waited_for
            if tries >= attempts:
                return Failure(f"{reason} ({tries} attempts)", down)
            time.sleep(wait)

    def _is_waited_for(self, reason: str) -> bool:
        """Whether a server that was not met is to be tried again beyond the attempts."""
        self.patience.failed(reason)
        return self.patience.lasts

    def _wait(self, error: ChatError, before: int) -> float:
        """Seconds behind an error; before: those of this request before it."""
        # Up to twice as long, so that threads which failed together do not come back together.
        return max(error.wait, min(_LONGEST_PAUSE, self.pause * 2 ** min(before, 10)) * random.uniform(1, 2))


def _key(identity: str, messages: Messages, draw: int) -> str:
    asked = [identity, _short(list(messages)), *([draw] if draw else [])]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _short(value: Any) -> Any:
    """The same with long strings as their digests: a group's pairs show each of its pictures many times."""
    if isinstance(value, Mapping):
        return {key: _short(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_short(held) for held in value]
    return {"sha256": _digest(value)} if isinstance(value, str) and len(value) > _LONG else value


@lru_cache(maxsize=64)  # Python keeps the hash of a string, so that one that was seen is not read again
def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
