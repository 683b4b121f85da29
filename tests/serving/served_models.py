"""Models of a line, served: what the tests of the service and of its clients ask."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence

import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from mmrl.judging.base import Showing, Verdict
from mmrl.rewarding.load import load_reward
from mmrl.serving.app import make_app
from mmrl.serving.limits import Limits
from mmrl.serving.model import Served, ServedComparer, ServedReward, ServedScorer
from mmrl.serving.server import Patient
from mmrl.types import Score


class Lengths:
    """Scores a text by its length, a picture by its width; "bad" raises. calls: items of each call.

    gate: what a call waits for.
    """

    identity = "lengths 1"

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate, self.calls = gate, []

    def scores(self, items) -> list[Score]:
        self.calls.append([candidate.answer for _, candidate in items])
        if self.gate is not None:
            assert self.gate.wait(20)
        if any(candidate.answer == "bad" for _, candidate in items):
            raise RuntimeError("no such\nthing")
        made = []
        for _, candidate in items:
            if candidate.images:
                made.append(Score.of(Image.open(io.BytesIO(candidate.images[0]["bytes"])).width))
            else:
                values = {"nan": float("nan"), "inf": float("inf"), "none": None}
                made.append(Score.of(values.get(candidate.answer, len(candidate.answer))))
        return made


class Longer:
    """Prefers the longer answer, and likes the first place: 0.8 for the longer one, 0.1 on top in the first place.

    "mute" gets no verdict.
    """

    identity = "longer 1"

    def __init__(self) -> None:
        self.showings: list[Showing] = []

    def compare(self, showings: Sequence[Showing]) -> list[Verdict]:
        self.showings += showings
        return [self._verdict(showing) for showing in showings]

    def _verdict(self, showing: Showing) -> Verdict:
        a, b = (candidate.answer for candidate in showing.pair.candidates)
        if "mute" in (a, b):
            return Verdict(None, "says nothing")
        share = (0.8 if len(a) > len(b) else 0.2) + (0.1 if showing.order[0] == 0 else -0.1)
        return Verdict((share, 1 - share), said=f"{a} or {b}")


def scorer(**options) -> ServedScorer:
    return ServedScorer(Lengths(**options), "lengths")


def comparer() -> ServedComparer:
    return ServedComparer(Longer(), "longer")


def reward(name: str, **options) -> ServedReward:
    return ServedReward(load_reward(name, options), options, 10_000)


def png(width: int = 4, height: int = 4, form: str = "PNG") -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, form)
    return base64.b64encode(file.getvalue()).decode()


@contextlib.contextmanager
def client_of(served: Served, **limits):
    with TestClient(make_app(served, Limits(**{"max_wait": 0.0, "max_pixels": 10_000, **limits}))) as client:
        yield client


class Loopback:
    """A service on a port of its own."""

    def __init__(self, served: Served, **limits) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = self.socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        app = make_app(served, Limits(**{"max_wait": 0.0, **limits}))
        self.line, self.bodies = app.state.service.line, app.state.service.bodies
        config = uvicorn.Config(app, http=Patient, ws="none", log_level="error", timeout_graceful_shutdown=5)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    def health(self) -> dict:
        with urllib.request.urlopen(f"{self.url}/health", timeout=10) as reply:
            return json.load(reply)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


def posted_head(body: bytes, route: str = "/score") -> bytes:
    lines = [f"POST {route} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never was"
        time.sleep(0.005)
