"""Asking a language model for verdicts: an OpenAI-compatible endpoint, tried again, from threads, answers kept.

A verdict that does not come (the server is down or slow, or its answer cannot be read) is a Failure with a reason,
never a number. Requests and answers are JSON; keys come from the environment only.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mmrl.rewarding.threads import Threads

V = TypeVar("V")
Messages = Sequence[Mapping[str, str]]  # {"role", "content"} each

_MOST_BYTES = 4 << 20
_MOST_KNOWN = 100_000  # answers that are kept in memory
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504}  # statuses that another try may not meet


class ChatError(RuntimeError):
    """A try failed. lasting: another one would fail in the same way. wait: seconds that the server asks for."""

    def __init__(self, reason: str, lasting: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.lasting, self.wait = lasting, wait


@dataclass(frozen=True)
class Failure:
    """Why there is no verdict."""

    reason: str


class Chat(Protocol):
    """A language model that can be asked. `identity`: what its answers depend on, besides the request."""

    identity: str

    def complete(self, messages: Messages, temperature: float, seed: int) -> str:
        """The answer. Raises ChatError."""


class Endpoint:
    """A model behind POST {url}/chat/completions, as OpenAI, vLLM, SGLang, llama.cpp and Ollama serve it.

    url: up to and with /v1, http or https. key_env: the environment variable that holds the key, sent as a bearer
    token where it is set. timeout: seconds for one answer, all in all. options: more fields of the request.
    May be called from several threads. Raises ValueError for another kind of URL.
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
        import httpx2

        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url={url!r}: expected http://... or https://...")
        if timeout <= 0 or max_tokens < 1:
            raise ValueError(f"timeout={timeout}, max_tokens={max_tokens}: both must be above 0")
        self.url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.timeout, self._http = timeout, httpx2
        self.fields = {"model": model, "max_tokens": max_tokens, **(options or {})}
        self.identity = json.dumps([self.url, self.fields], sort_keys=True)
        key = os.environ.get(key_env)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        self._client = httpx2.Client(headers=headers, timeout=timeout, limits=limits)

    def complete(self, messages: Messages, temperature: float, seed: int) -> str:
        request = {**self.fields, "messages": list(messages), "temperature": temperature, "seed": seed}
        status, headers, body = self._post(request)
        if status != 200:
            words = body[:200].decode("utf-8", "replace")
            wait = float(headers.get("retry-after", "0")) if headers.get("retry-after", "0").isdigit() else 0.0
            raise ChatError(f"{self.url} answered {status}: {words}", status not in _PASSING, min(wait, self.timeout))
        try:
            content = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ChatError(f"{self.url} answered no chat completion ({type(error).__name__}: {error})") from None
        if not isinstance(content, str) or not content.strip():
            raise ChatError(f"{self.url} gave an empty answer")
        return content

    def _post(self, request: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        until, body = time.monotonic() + self.timeout, bytearray()
        try:
            with self._client.stream("POST", self.url, json=request) as response:
                for part in response.iter_bytes():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise ChatError(f"{self.url} answered over {_MOST_BYTES >> 20} MiB")
                    if time.monotonic() > until:  # the client's own limit is on the time between two parts
                        raise ChatError(f"{self.url} took over {self.timeout:g} s")
                return response.status_code, response.headers, bytes(body)
        except self._http.TimeoutException:
            raise ChatError(f"{self.url} took over {self.timeout:g} s") from None
        except (self._http.HTTPError, self._http.StreamError) as error:
            raise ChatError(f"{self.url} cannot be asked ({type(error).__name__}: {error})") from None


class Judge:
    """Verdicts of a chat model. One request is asked once, however often it occurs; what was read stays known.

    attempts: tries per request, the k-th (from 0) at a temperature of rise * k, so that the same nonsense does not come
    again; seeds follow from the request. threads: requests at a time. pause: seconds before the second try, doubled
    for each later one. cache: a .jsonl file that keeps the answers between runs.
    May be called from several threads.
    """

    def __init__(
        self,
        chat: Chat,
        attempts: int = 3,
        threads: int = 16,
        rise: float = 0.2,
        pause: float = 0.5,
        cache: str | Path | None = None,
    ) -> None:
        if attempts < 1 or threads < 1 or rise < 0 or pause < 0:
            raise ValueError(f"attempts={attempts}, threads={threads} need 1 or more, rise={rise}, pause={pause} 0")
        self.chat, self.attempts, self.rise, self.pause = chat, attempts, rise, pause
        self.threads = min(threads, getattr(chat, "threads", threads))
        self._known = _Answers(Path(cache).expanduser() if cache else None)
        self._pool = Threads(self.threads, "judge")

    def verdicts(self, requests: Sequence[Messages], read: Callable[[str], V | None]) -> list[V | Failure]:
        """What `read` makes of each answer, in order; an answer that it makes None of is asked for again."""
        keys = [_key(self.chat.identity, messages) for messages in requests]
        first = dict(zip(keys, requests))
        found = dict(zip(first, self._pool.map(lambda key: self._verdict(key, first[key], read), first)))
        return [found[key] for key in keys]

    def _verdict(self, key: str, messages: Messages, read: Callable[[str], V | None]) -> V | Failure:
        known = self._known.get(key)
        if known is not None and (verdict := read(known)) is not None:
            return verdict
        reason = ""
        for attempt in range(self.attempts):
            try:
                answer = self.chat.complete(messages, round(self.rise * attempt, 6), int(key[:7], 16) + attempt)
            except ChatError as error:
                reason = str(error)
                if error.lasting:
                    return Failure(reason)
                if attempt + 1 < self.attempts:
                    # Up to twice as long, so that threads which failed together do not come back together.
                    time.sleep(max(error.wait, self.pause * 2**attempt * random.uniform(1, 2)))
                continue
            if (verdict := read(answer)) is not None:
                self._known.put(key, answer)
                return verdict
            reason = f"no verdict in the answer {answer.strip()[-200:]!r}"
        return Failure(f"{reason} ({self.attempts} attempts)")


class _Answers:
    """Answers by the hash of their request, in memory and, with a path, in a file of one JSON object a line."""

    def __init__(self, path: Path | None) -> None:
        self._lock, self._path = threading.Lock(), path
        self._answers: dict[str, str] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._keep(str(entry["key"]), str(entry["answer"]))
            except (ValueError, LookupError, TypeError):
                continue  # a line that a killed run left half written
        if text and not text.endswith("\n"):
            self._write("\n")

    def get(self, key: str) -> str | None:
        return self._answers.get(key)

    def put(self, key: str, answer: str) -> None:
        with self._lock:
            self._keep(key, answer)
            if self._path is not None:
                self._write(json.dumps({"key": key, "answer": answer}) + "\n")

    def _keep(self, key: str, answer: str) -> None:
        self._answers[key] = answer
        if len(self._answers) > _MOST_KNOWN:
            del self._answers[next(iter(self._answers))]

    def _write(self, text: str) -> None:
        assert self._path is not None
        with self._path.open("a", encoding="utf-8") as file:  # one write per line: several processes may share the file
            file.write(text)


def _key(identity: str, messages: Messages) -> str:
    return hashlib.sha256(json.dumps([identity, list(messages)], sort_keys=True).encode()).hexdigest()
