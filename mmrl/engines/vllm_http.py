"""HTTP to a `vllm serve`: JSON there and back, and what went wrong in one line."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from functools import cached_property
from typing import Any


class ServerError(RuntimeError):
    """The server refused, failed, is not vLLM or could not be reached; the message holds its own words."""


class Lost(ServerError):
    """The server is not there, broke off, or failed within (5xx): another one may do what it was asked."""


class Client:
    """url: where the server listens. timeout: seconds for one request. Requests are not repeated: a server that came
    back after a crash holds other weights. A key in the environment variable VLLM_API_KEY is sent along."""

    def __init__(self, url: str, timeout: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"vllm: url is {url!r}; write http://host:port")
        self.url, self._timeout = url.rstrip("/"), timeout

    def get(self, path: str) -> Answer:
        return Answer(self.url + path, self._call(urllib.request.Request(self.url + path)))

    def post(self, path: str, body: dict[str, Any] | None = None) -> Answer:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body or {}).encode(), headers)
        return Answer(self.url + path, self._call(request))

    def _call(self, request: urllib.request.Request) -> str:
        if key := os.environ.get("VLLM_API_KEY"):
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                return str(answer.read().decode(errors="replace"))
        except urllib.error.HTTPError as error:
            words = " ".join(error.read().decode(errors="replace").split())[:1000]
            kind = Lost if error.code >= 500 else ServerError
            raise kind(f"vllm: {request.full_url} answered {error.code}: {words}") from error
        except OSError as error:
            raise Lost(f"vllm: {request.full_url} cannot be reached: {error}") from error
        except http.client.HTTPException as error:
            raise Lost(f"vllm: {request.full_url} does not answer in HTTP: {error!r}; look at the url") from error


class Answer:
    """What came back; not JSON from every endpoint."""

    def __init__(self, url: str, text: str) -> None:
        self._url, self._text = url, text

    def at(self, *path: str | int) -> Any:
        """The value at a path of keys and places. Raises ServerError where the answer has none: it is not vLLM's."""
        try:
            found = self._value
            for key in path:
                found = found[key]
        except (ValueError, KeyError, IndexError, TypeError):
            said = " ".join(self._text.split())[:80]
            raise ServerError(
                f"vllm: {self._url} answered {said!r}, which is not what vLLM 0.32 or 0.33 says there; look at the "
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
