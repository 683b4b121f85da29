"""Groups sampled by `mmrl serve-rollouts`, one server or several: the same sampler on other machines, over HTTP."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

import mmrl
from mmrl.engines.base import Once
from mmrl.engines.fleet import Fleet
from mmrl.engines.holding import Holder, Taken
from mmrl.engines.http_client import Lost, ServerError
from mmrl.engines.remote import TIMEOUT_S, Remote
from mmrl.engines.rollout_wire import PROTOCOL, ROUTE, RUN, Asked, Policy, pack, unpacked_samples
from mmrl.engines.rounds import Homes, Rounds
from mmrl.engines.vllm_transfer import buckets
from mmrl.engines.weight_sums import sums
from mmrl.types import Sample

URL = "http://localhost:8100"
LEASE_S, RENEW_S = 30.0, 5.0  # for how long a server is held by the run that says so, and how often it does
START = "start it with this run's config: mmrl serve-rollouts CONFIG"


@dataclass(frozen=True)
class Push:
    """What is sent at once. trained: names of weights that are, whenever. components, state: see Adapter.select and
    Adapter.state."""

    trained: Sequence[str]
    components: Sequence[str]
    state: Mapping[str, Any]


class RolloutServer(Remote):
    """One of them. knows: whether those of its weights that are not trained are the run's."""

    who: ClassVar[str] = "rollouts"
    key: ClassVar[str] = "MMRL_SERVE_TOKEN"

    def __init__(self, url: str, policy: Policy, timeout: float) -> None:
        self._policy = policy
        self._leased = False
        super().__init__(url, timeout)

    def look_again(self) -> None:
        self.knows = False
        told = self.met.get("/rollout_info")
        self._process = told.at("process")
        if told.at("protocol") != PROTOCOL:
            raise ServerError(f"rollouts: {self.url} speaks protocol {told.at('protocol')}, and this run {PROTOCOL}")
        if (version := told.maybe("version")) != mmrl.__version__:
            raise ServerError(
                f"rollouts: {self.url} is mmrl {version}, and this run {mmrl.__version__}; take one for both"
            )
        theirs, mine = told.at("shapes"), self._policy.shapes
        if wrong := sorted(name for name in {*theirs, *mine} if theirs.get(name) != mine.get(name)):
            raise ServerError(
                f"rollouts: {self.url} serves a model of another shape ({wrong[0]} and {len(wrong) - 1} more); {START}"
            )
        options = told.at("model")
        for name, own in self._policy.model.items():
            if options.get(name) != own:
                raise ServerError(
                    f"rollouts: {self.url} has model.{name}={options.get(name)!r}, and this run {own!r}; {START}"
                )

    def refuse_difference(self, other: RolloutServer) -> None:
        if other is not self and other._process == self._process:
            raise ServerError(f"rollouts: {self.url} and {other.url} are one server; name it once")

    def named(self, run: Holder) -> None:
        """Say with every request which run asks."""
        for client in self.clients:
            client.headers[RUN] = str(run)

    def claim(self, run: Holder, title: str) -> None:
        """Take its lease, or keep it. The first time one of another run is waited for: where that is renewed
        meanwhile, the run lives."""
        words = f"run {title!r} ({run.words})" if title else run.words
        body = {"run": str(run), "title": words, "seconds": LEASE_S}
        first = None
        while True:
            told = (self._quick if self._leased else self.met).post("/lease", body)
            if told.at("held"):
                self._leased = True
                return
            by, renewed, left = (told.at(key) for key in ("by", "renewed", "left"))
            if self._leased or (first is not None and first != (by, renewed)):
                raise Taken(
                    f"rollouts: {self.url} samples for another run: {by} holds its lease, and renews it. Give each run "
                    "servers of its own, or wait until that one has ended"
                )
            if first is None:
                warnings.warn(
                    f"rollouts: {self.url} is held by {by}; waiting up to {left:.0f} s for a sign of it", stacklevel=2
                )
            first = by, renewed
            time.sleep(min(1.0, max(0.05, left)))

    def release(self, run: Holder) -> None:
        with contextlib.suppress(ServerError):
            self._quick.post("/release", {"run": str(run)})

    def freeze(self, mark: str) -> None:
        if self.version() != self.holds:  # started anew
            self.look_again()
        super().freeze(mark)

    def begin(self, push: Push) -> None:
        body = {"components": list(push.components), "state": dict(push.state)}
        if self.http.post("/start_weight_update", body).at("process") != self._process:  # started anew just now
            self.look_again()

    def send(self, message: bytes) -> None:
        self.http.exchange("/update_weights", message)

    def end(self) -> None:
        self.http.post("/finish_weight_update")
        self.knows = True

    def thaw(self, mark: str, perceives: bool) -> None:
        super().thaw(mark, perceives)
        if self.version() != mark:  # what went on is another process
            raise Lost(f"rollouts: {self.url} was started anew while weights were sent")

    def lacking(self, own: Mapping[str, str]) -> list[str]:
        """Names of weights that it has otherwise. own: checksums."""
        theirs = self.checksums()
        if theirs is None:
            raise Lost(f"rollouts: {self.url} gives no checksums of its weights")
        return [name for name, checksum in own.items() if theirs.get(name) != checksum]


class RolloutPool:
    """policy: the run's. url: where servers listen, one or several. concurrency: groups asked of each at a time.
    timeout: seconds that a group may take.

    Each group goes whole to one server, in turns; a server that fails is lost: what it had is asked of the others,
    and it gets weights again, before groups, with the first push that it answers. See Fleet.
    """

    def __init__(
        self, policy: Policy, *, url: str | Sequence[str] = URL, concurrency: int = 16, timeout: float = TIMEOUT_S
    ) -> None:
        urls = [each.rstrip("/") for each in ([url] if isinstance(url, str) else url)]
        twice = sorted({each for each in urls if urls.count(each) > 1})
        if not urls or twice:
            raise ValueError(f"rollouts: url names {', '.join(twice) + ' twice' if twice else 'no server'}")
        self.policy = policy
        self.ended = threading.Event()
        self._keeper: threading.Thread | None = None
        self.fleet = Fleet([RolloutServer(each, policy, timeout) for each in urls], timeout, compared=False)
        self._rounds = Rounds(self.fleet, timeout)
        self._threads = ThreadPoolExecutor(concurrency * len(urls), thread_name_prefix="rollouts")
        self.version = 0

    def meet(self, run: Holder, title: str, claims: bool) -> None:
        """Before anything is sampled, on every process; claims: on the one that sends. See Fleet."""
        self.fleet.named(run, title)
        for server in self.fleet.servers:
            server.named(run)
        if claims:
            self.fleet.claim()
            self._keep()

    def keep_leases(self) -> None:
        """Renew those of all servers that get groups; one that is held by another run now says so at the next push."""
        for server in self.fleet.ready:
            with contextlib.suppress(ServerError):
                server.claim(self.fleet.run, self.fleet.title)

    def _keep(self) -> None:
        if self._keeper is None:
            told = weakref.ref(self), self.ended
            self._keeper = threading.Thread(target=_keep, args=told, daemon=True, name="leases of servers")
            self._keeper.start()

    def push(self, push: Push, once: Once) -> None:
        """Give all servers that answer the weights as they are. Every process calls; one of them sends."""
        self.version += 1
        version = self.version

        def send() -> None:
            if not self.fleet.knows_run:
                self.meet(self.fleet.run, "", claims=True)
            self.fleet.patiently(lambda: self.fleet.update(version, False, partial(self._send, push)))

        once(send)
        self.fleet.settle(version)

    def renew(self) -> None:
        """Weights that are not trained may be other ones than at the last push."""
        for server in self.fleet.servers:
            server.knows = False

    def sample(self, groups: Sequence[Asked]) -> list[tuple[list[Sample], int]]:
        """Of each group its samples, and the number of the push whose weights drew them."""
        homes: Homes[RolloutServer] = Homes()

        def one(numbered: tuple[int, Asked]) -> tuple[list[Sample], int]:
            number, asked = numbered
            message = asked.packed()

            def of(server: RolloutServer) -> tuple[list[Sample], int]:
                mark, samples = unpacked_samples(server.http.exchange(ROUTE, message), asked.group.prompt)
                versions = self.fleet.versions(server, [(mark, 1)])
                return samples, self.version if versions is None else versions[0]

            return self._rounds.ask(homes, number, of)

        try:
            return list(self._threads.map(one, enumerate(groups)))
        finally:
            self._rounds.leave(homes)

    def counts(self) -> dict[str, float]:
        """See Rounds.counts."""
        return self._rounds.counts()

    def close(self) -> None:
        """Nobody waits for what is under way."""
        self.ended.set()
        self._rounds.close()
        self._threads.shutdown(cancel_futures=True)

    @torch.no_grad()
    def _send(self, push: Push, them: list[RolloutServer]) -> list[RolloutServer]:
        each, weights = self.fleet.each, self.policy.weights()
        them = each(them, lambda server: server.begin(push))
        rest: dict[str, str] = {}

        def bring(server: RolloutServer) -> None:
            """What is not trained, and it has otherwise: a stage before this one may have trained it."""
            if server.knows:
                return
            if not rest:
                rest.update(sums({name: weight for name, weight in weights.items() if name not in set(push.trained)}))
            if names := server.lacking(rest):
                warnings.warn(
                    f"rollouts: {server.url} held other values of {len(names)} weights that are not trained, such as "
                    f"{names[0]}; the run's were sent",
                    stacklevel=2,
                )
            for part in buckets((name, weights[name]) for name in names):
                server.send(pack({}, dict(part)))

        them = each(them, bring)
        for part in buckets((name, weights[name]) for name in push.trained):
            them = each(them, partial(_send, pack({}, dict(part))))
        return each(them, lambda server: server.end())


def _send(message: bytes, server: RolloutServer) -> None:
    server.send(message)


def _keep(pool: weakref.ref[RolloutPool], ended: threading.Event) -> None:
    """Renew leases for as long as anybody has the pool."""
    while not ended.wait(RENEW_S):
        alive = pool()
        if alive is None:
            return
        alive.keep_leases()
        del alive
