"""A server that answers JSON as a test wants it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Scripted:
    """answer(route, request) -> a value (200), or (status, value, *headers). requests: (route, request) in order."""

    def __init__(self, answer: Callable[[str, Any], Any], port: int = 0) -> None:
        self.answer, self.requests, self.keys = answer, [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def do_GET(self) -> None:
                self._reply(None)

            def _reply(self, request: Any) -> None:
                outer.requests.append((self.path, request))
                outer.keys.append(self.headers["Authorization"])
                said = outer.answer(self.path, request)
                status, value, *headers = said if isinstance(said, tuple) else (200, said)
                body = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                for name, words in headers:
                    self.send_header(name, words)
                self.send_header("Content-Length", str(len(body)))
                with contextlib.suppress(ConnectionError):  # a client that waits no longer
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
