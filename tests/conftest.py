"""What the tests of several folders share: a small OpenAI-compatible server with a mind of its own."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

import pytest

# Workers share two cores: each, and what it starts, computes in one thread. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test asks the hub; what names it fails at once, and not after its clients have tried again and again.
os.environ["HF_HUB_OFFLINE"] = "1"
# Hundreds of files are compiled once, and not in each worker and in every process that a test starts.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A server takes five connections at once by default. The others try again, each time after twice as long: where the
# machine is busy a test that makes dozens waits for minutes.
TCPServer.request_queue_size = 1024
# Thousands of small files are made to last milliseconds each; what a test writes need not outlive a power cut.
os.fsync = lambda descriptor: None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> object:
    """Collecting makes objects by the million that live to the end: nothing looks for garbage among them, ever."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)  # a run makes objects by the hundred thousand, too
        gc.enable()


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are bit for bit the same only with the same number of threads."""
    torch = sys.modules.get("torch")
    if torch is None:  # nothing is summed
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class ChatServer:
    """Serves POST /v1/chat/completions by `answer(request)`: words, (status, body), or a function of the handler.

    requests: what was asked, in order. keys: the Authorization headers.
    """

    def __init__(self) -> None:
        self.answer: Callable = lambda request: "Score: 1"
        self.requests: list[dict] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(request)
                outer.keys.append(self.headers["Authorization"])
                said = outer.answer(request) if self.path == "/v1/chat/completions" else (404, b"no such page")
                if callable(said):
                    return said(self)
                if isinstance(said, str):
                    said = (
                        200,
                        json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode(),
                    )
                self.send_response(said[0])
                for name, value in said[2:]:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said[1])))
                self.end_headers()
                self.wfile.write(said[1])
                return None

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def chat_server():
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture
def main(monkeypatch, capsys):
    """Call the command line in this process: (exit code, stdout, stderr)."""
    from mmrl.cli import main as run

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mmrl", *map(str, words)])
        code = 0
        try:
            run()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call
