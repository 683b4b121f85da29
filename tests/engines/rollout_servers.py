"""Rollout servers in threads of this process, which can be killed as a process can."""

from __future__ import annotations

import copy
import socket
import threading
import warnings

import uvicorn

from mmrl.serving.rollouts import RolloutService
from mmrl.serving.rollouts_app import make_rollouts_app


class Served:
    """adapter: a copy of it samples. port: 0 takes a free one."""

    def __init__(self, adapter, port: int = 0, together: int = 64) -> None:
        self.adapter = copy.deepcopy(adapter) if adapter is not None else None
        self.service = RolloutService(self.adapter, together)
        self._socket = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(make_rollouts_app(self.service), log_level="critical", ws="none")
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.dead = False

    def _run(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._server.run(sockets=[self._socket])

    def kill(self) -> None:
        """As SIGKILL would: nobody gets an answer any more, what is connected breaks off."""
        self.dead = True
        self.service.abort()
        self._server.force_exit = self._server.should_exit = True
        for connection in list(self._server.server_state.connections):
            connection.loop.call_soon_threadsafe(connection.transport.abort)
        self._thread.join(10)
        self._socket.close()
