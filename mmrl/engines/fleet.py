"""Which of a run's servers answer, whose weights they hold, and how all of them get new ones."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from mmrl.engines.holding import Holder
from mmrl.engines.http_client import Lost, ServerError
from mmrl.engines.remote import ALONE, Remote, StaleWeights

PAUSE_S = 0.5  # between two looks at servers that are lost

S = TypeVar("S", bound=Remote)


class Fleet(Generic[S]):
    """servers: alike, see Remote.refuse_difference. patience: seconds that one which is back is waited for, where
    weights flow. flows: whether weights may change while requests are under way. compared: whether their weights must
    be the same at the start, too.

    run, title: that sends weights, and what it is called; the same on all its processes once they are `named`.
    A server that fails is lost, with a warning, until it has got weights again. changed: guards who is lost, and tells.
    """

    def __init__(self, servers: Sequence[S], patience: float, compared: bool) -> None:
        self.servers, self.patience = list(servers), patience
        self.flows = False
        self.changed = threading.Condition()
        for other in self.servers[1:]:
            self.servers[0].refuse_difference(other)
        self.run, self.title = Holder.own(), ""
        self.knows_run = self._claims = False  # of processes that never send: which run does; whether this one has
        self._mark = self.servers[0].holds
        self._watched: dict[S, bool] = {}  # lost servers, and whether they answer again
        self._refused: set[S] = set()  # of those, those that answer, and could not be used
        self._ended = threading.Event()
        if compared:
            self._compare(self.servers)
        self._compared = compared

    def named(self, run: Holder, title: str) -> None:
        """Every process of a run calls, with the same."""
        self.run, self.title, self.knows_run = run, title, True

    def claim(self) -> None:
        """Before anything is sent, by the process that will. Raises Taken where another run sends to a server."""
        for server in self.servers:
            self._claim(server)

    def _claim(self, server: S) -> None:
        self._claims = self.knows_run = True
        server.claim(self.run, self.title)

    @property
    def ready(self) -> list[S]:
        """Those that get prompts."""
        return [server for server in self.servers if server.lost is None]

    @property
    def why(self) -> str:
        """Why the others are lost, in one line."""
        return "; ".join(server.lost for server in self.servers if server.lost is not None)

    def returned(self) -> bool:
        """Whether a server that was lost answers again, and is to get weights. Known without asking it now: threads
        ask, however long it takes to answer."""
        with self.changed:
            return any(self._watched.get(server, False) for server in self.servers if server.lost is not None)

    def lose(self, server: S, error: Exception, refused: bool = False) -> None:
        """It gets no prompts until it has got weights. refused: it answers, and could not be used: it does not count as
        returned, but is looked at again whenever weights are sent."""
        with self.changed:
            if server.lost is None:
                warnings.warn(f"a server is lost, its prompts go to others: {error}", stacklevel=2)
            server.lost = str(error)
            watched = server in self._watched
            self._watched[server] = False
            if refused:
                self._refused.add(server)
        if not watched:
            threading.Thread(target=self._watch, args=(server,), daemon=True, name="watch of a lost server").start()

    def versions(self, server: S, told: Sequence[tuple[str, int]]) -> list[int] | None:
        """Of what a server sampled, action by action, the numbers of the syncs whose weights did; None where weights do
        not flow and they are the last ones. told: (mark of the weights, how many actions), in order. Raises
        StaleWeights where they are not this run's, or not the last ones."""
        marks = {mark for mark, _ in told}
        if self.flows:
            run, numbers = self._mark.rpartition(" ")[0], [mark.rpartition(" ") for mark, _ in told]
            if told and all(own == run and number.isdigit() for own, _, number in numbers):
                return [int(number) for (_, count), (_, _, number) in zip(told, numbers) for _ in range(count)]
        elif marks == {server.holds}:
            return None
        other = ", ".join(sorted(marks - {server.holds})) or "of no version"
        raise self._not_last(server, "sampled with", other, server.holds)

    def _not_last(self, server: S, has: str, other: str, last: str) -> StaleWeights:
        holder = Holder.of(other)
        who = "another run" if holder is None or str(holder) == str(self.run) else f"another run, {holder.words},"
        return StaleWeights(
            f"{server.who}: {server.url} {has} weights {other!r} where this run's last sync is {last!r}: it was "
            f"started anew (then they are 'default'), or {who} sends to it. {ALONE}"
        )

    def close(self) -> None:
        """Nothing is asked of the servers any more; what is under way fails at once."""
        self._ended.set()
        for server in self.servers:
            if self._claims:
                server.release(self.run)
            server.close()

    # ---------------------------------------------------------------- weights

    def each(self, servers: Sequence[S], act: Callable[[S], object]) -> list[S]:
        """Those for which it was done; others are lost. Raises where it is none."""
        done: list[S] = []
        failed: Exception = Lost(f"{self.servers[0].who}: no server answers")
        for server in servers:
            try:
                act(server)
                done.append(server)
            except (Lost, StaleWeights) as error:  # the second: it was started anew in the middle
                failed = error
                if len(self.servers) > 1:
                    self.lose(server, error)
                    server.go_on()
        if not done:
            raise failed
        return done

    def patiently(self, act: Callable[[], None]) -> None:
        """Where weights flow, servers that are all lost may be back in a while."""
        until = time.monotonic() + self.patience
        while True:
            try:
                return act()
            except (Lost, StaleWeights):
                if not self.flows or time.monotonic() > until:
                    raise
                time.sleep(PAUSE_S)

    def update(self, version: int, perceives: bool, send: Callable[[list[S]], list[S]]) -> None:
        """Exchange the weights of all that answer, those that were lost among them. send: as `each`.

        The mark is another one as soon as the weights may be: what others sample meanwhile is seen as not theirs.
        Where it fails, no server is left standing still.
        """
        mark = self.run.mark(version)
        back = [server for server in self.servers if server.lost is not None and self._is_back(server)]
        asked = self.each([*self.ready, *back], self._claim)
        try:
            frozen = self.each(asked, lambda s: s.freeze(mark))
            done = self.each(send(frozen), lambda s: s.thaw(mark, perceives))
        except BaseException:
            for server in asked:
                server.go_on()
            raise
        if back or not self._compared:
            self._compare(done)
            self._compared = True
        with self.changed:
            self._mark = mark
            for server in done:
                self._found(server)
            self.changed.notify_all()

    def settle(self, version: int) -> None:
        """Remember which weights the servers hold; every process calls it when one of them has sent. Raises
        StaleWeights where a single server holds others."""
        several = len(self.servers) > 1
        for server in self.servers:
            if server.lost is not None and not server.answers():
                continue
            try:
                holds = server.version()
            except Lost as error:
                if not several:
                    raise
                self.lose(server, error)
                continue
            current = holds == self.run.mark(version) if self.knows_run else holds.rpartition(" ")[2] == str(version)
            if not (current or several):
                raise self._not_last(server, "holds", holds, self.run.mark(version))
            if not current and server.lost is None:
                self.lose(server, Lost(f"{server.who}: {server.url} holds {holds!r}"))
            with self.changed:
                server.holds = holds
                if current:
                    self._found(server)
                    self._mark = holds
                self.changed.notify_all()

    def _found(self, server: S) -> None:
        """It gets prompts again."""
        server.lost = None
        self._watched.pop(server, None)
        self._refused.discard(server)

    def _is_back(self, server: S) -> bool:
        """Whether a lost server answers, and is still one that this run can use."""
        first = next((s for s in self.servers if s is not server), server)
        try:
            if not (self._watched.get(server, False) or server.answers()):
                return False
            server.look_again()
            first.refuse_difference(server)
        except ServerError as error:
            self.lose(server, error, refused=not isinstance(error, Lost))
            return False
        return True

    def _watch(self, server: S) -> None:
        """Ask a lost server until it answers; where it is lost again meanwhile, from the beginning."""
        while not self._ended.is_set():
            there = server.answers(patiently=True)
            with self.changed:
                if server not in self._watched:
                    return
                if not there:
                    self._refused.discard(server)
                self._watched[server] = there and server not in self._refused
                self.changed.notify_all()
            self._ended.wait(PAUSE_S)

    def _compare(self, servers: Sequence[S]) -> None:
        """Raises ServerError where their weights differ; nothing where there is one, or one computes no checksums."""
        if len(servers) < 2:
            return
        first, *others = [(server.url, server.checksums()) for server in servers]
        for url, found in others:
            if first[1] is not None and found is not None and found != first[1]:
                wrong = sorted(name for name in {*found, *first[1]} if found.get(name) != first[1].get(name))
                raise ServerError(
                    f"{servers[0].who}: {first[0]} and {url} hold different weights after the same were sent "
                    f"({wrong[0]} and {len(wrong) - 1} more); start both with this run's model.path"
                )
