"""Prompts go round the servers of a run, and what one of them loses another one is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from mmrl.engines.fleet import PAUSE_S, Fleet
from mmrl.engines.http_client import Lost, ServerError, Slow
from mmrl.engines.remote import Remote, StaleWeights

ATTEMPTS = 3  # at one request for each server: what fails on all of them, again and again, is the request's fault

S = TypeVar("S", bound=Remote)
R = TypeVar("R")


class Homes(Generic[S]):
    """Of the prompts of one rollout: which server each is asked of."""

    def __init__(self) -> None:
        self.of: dict[Hashable, S] = {}


class Rounds(Generic[S]):
    """timeout: seconds that a prompt waits for a server where all are lost and weights flow. asked_again: how often
    something was asked of another server, or another time."""

    def __init__(self, fleet: Fleet[S], timeout: float) -> None:
        self.fleet, self._timeout = fleet, timeout
        self._turn = 0
        self._closed = False
        self.asked_again = 0

    def ask(self, homes: Homes[S], prompt: Hashable, request: Callable[[S], R]) -> R:
        """What the prompt's server answers; where it is lost, another one, or it when it is back.

        Raises ServerError."""
        for attempts in range(ATTEMPTS * len(self.fleet.servers), -1, -1):
            server = self._home(homes, prompt)
            try:
                return request(server)
            except (Lost, StaleWeights) as error:
                if self._closed or not attempts or not self._may_go_on(homes, prompt, server, error):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def leave(self, homes: Homes[S]) -> None:
        """The rollout is over."""
        with self.fleet.changed:
            for server in homes.of.values():
                server.prompts -= 1
            homes.of.clear()

    def counts(self) -> dict[str, float]:
        """rollout/servers: those that get prompts now; rollout/asked_again: requests so far that were asked again."""
        return {"rollout/servers": len(self.fleet.ready), "rollout/asked_again": self.asked_again}

    def close(self) -> None:
        """What waits for a server waits no longer, and what a server is at is given up."""
        with self.fleet.changed:
            self._closed = True
            self.fleet.changed.notify_all()
        if self.fleet.flows:
            for server in self.fleet.ready:
                server.abort()
        self.fleet.close()

    def _home(self, homes: Homes[S], prompt: Hashable) -> S:
        """The server of a prompt: the one that has the fewest, in turns. Waits for one where all are lost."""
        until = time.monotonic() + self._timeout
        with self.fleet.changed:
            home: Any = homes.of.get(prompt)
            if home is not None and home.lost is None:
                return home
            while not (ready := self.fleet.ready):
                if not self.fleet.flows or self._closed or time.monotonic() > until:
                    raise Lost(f"{self.fleet.servers[0].who}: no server is left: {self.fleet.why}")
                self.fleet.changed.wait(PAUSE_S)
            if home is not None:
                home.prompts -= 1
            self._turn += 1
            turns = ready[self._turn % len(ready) :] + ready[: self._turn % len(ready)]
            found = homes.of[prompt] = min(turns, key=lambda server: server.prompts)
            found.prompts += 1
            return found

    def _may_go_on(self, homes: Homes[S], prompt: Hashable, server: S, error: ServerError) -> bool:
        """Whether what failed may be asked elsewhere, or later. The server is lost, unless it only is slow."""
        if len(self.fleet.servers) == 1 and not self.fleet.flows:
            return False
        slow = isinstance(error, Slow) and server.answers()
        if not slow:
            self.fleet.lose(server, error)
        with self.fleet.changed:
            self.asked_again += 1
            if slow and homes.of.get(prompt) is server and len(self.fleet.ready) > 1:
                self._move(homes, prompt, server)
        return True

    def _move(self, homes: Homes[S], prompt: Hashable, server: S) -> None:
        others = [other for other in self.fleet.ready if other is not server]
        found = homes.of[prompt] = min(others, key=lambda other: other.prompts)
        server.prompts -= 1
        found.prompts += 1
