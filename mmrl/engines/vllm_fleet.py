"""Which of a run's servers answer, whose weights they hold, and how all of them get new ones."""

from __future__ import annotations

import threading
import time
import uuid
import warnings
from collections.abc import Callable, Sequence

from mmrl.engines.vllm_about import refuse_difference, refuse_differences
from mmrl.engines.vllm_ask import spans
from mmrl.engines.vllm_http import Answer, Lost, ServerError
from mmrl.engines.vllm_server import ALONE, Server, StaleWeights

PAUSE_S = 0.5  # between two looks at servers that are all lost


class Fleet:
    """servers: alike, see refuse_differences. patience: seconds that one which is back is waited for, where weights
    flow. flows: whether weights may change while requests are under way. compared: whether their weights must be the
    same at the start, too.

    A server that fails is lost, with a warning, until it has got weights again. changed: guards who is lost.
    """

    def __init__(self, servers: Sequence[Server], patience: float, compared: bool) -> None:
        self.servers, self.patience = list(servers), patience
        self.flows = False
        self.changed = threading.Condition()
        refuse_differences([s.url for s in servers], [s.about for s in servers])
        self._run = uuid.uuid4().hex[:12]
        self._mark = self.servers[0].holds
        if compared:
            self._compare(self.servers)
        self._compared = compared

    @property
    def ready(self) -> list[Server]:
        """Those that get prompts."""
        return [server for server in self.servers if server.lost is None]

    @property
    def why(self) -> str:
        """Why the others are lost, in one line."""
        return "; ".join(server.lost for server in self.servers if server.lost is not None)

    def returned(self) -> bool:
        """Whether a server that was lost answers again, and is to get weights."""
        return any(server.lost is not None and server.answers() for server in self.servers)

    def lose(self, server: Server, error: Exception) -> None:
        """It gets no prompts until it has got weights."""
        with self.changed:
            if server.lost is None:
                warnings.warn(f"a server is lost, its prompts go to others: {error}", stacklevel=2)
            server.lost = str(error)

    def versions(self, server: Server, answer: Answer) -> list[int] | None:
        """Of a completion's tokens, the numbers of the syncs whose weights sampled them; None where weights do not flow
        and they are the last ones. Raises StaleWeights where they are not this run's, or not the last ones."""
        told = spans(answer)
        marks = {mark for mark, _ in told}
        if self.flows:
            run, numbers = self._mark.rpartition(" ")[0], [mark.rpartition(" ") for mark, _ in told]
            if told and all(own == run and number.isdigit() for own, _, number in numbers):
                return [int(number) for (_, count), (_, _, number) in zip(told, numbers) for _ in range(count)]
        elif marks == {server.holds}:
            return None
        other = ", ".join(sorted(marks - {server.holds})) or "of no version"
        raise StaleWeights(
            f"vllm: {server.url} sampled with weights {other!r} where this run's last sync is "
            f"{server.holds!r}: it was started anew (then they are 'default'), or another run sends to it. {ALONE}"
        )

    # ---------------------------------------------------------------- weights

    def each(self, servers: Sequence[Server], act: Callable[[Server], object]) -> list[Server]:
        """Those for which it was done; others are lost. Raises where it is none."""
        done: list[Server] = []
        failed: Exception = Lost("vllm: no server answers")
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

    def update(self, version: int, perceives: bool, send: Callable[[list[Server]], list[Server]]) -> None:
        """Exchange the weights of all that answer, those that were lost among them. send: as `each`.

        The mark is another one as soon as the weights may be: what others sample meanwhile is seen as not theirs.
        """
        mark = f"mmrl {self._run} {version}"
        back = [server for server in self.servers if server.lost is not None and self._is_back(server)]
        frozen = self.each([*self.ready, *back], lambda s: s.freeze(mark))
        try:
            done = self.each(send(frozen), lambda s: s.thaw(mark, perceives))
        except BaseException:
            for server in frozen:
                server.go_on()
            raise
        if back or not self._compared:
            self._compare(done)
            self._compared = True
        with self.changed:
            self._mark = mark
            for server in done:
                server.lost = None
            self.changed.notify_all()

    def settle(self, version: int) -> None:
        """Remember which weights the servers hold; every process calls it when one of them has sent."""
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
            current = holds.rpartition(" ")[2] == str(version) or not several
            with self.changed:
                server.holds = holds
                server.lost = None if current else f"vllm: {server.url} holds {holds!r}"
                self._mark = holds if current else self._mark
                self.changed.notify_all()

    def _is_back(self, server: Server) -> bool:
        """Whether a lost server answers, and is still one that this run can use."""
        first = next((s for s in self.servers if s is not server), server)
        try:
            if not server.answers():
                return False
            server.look_again()
            refuse_difference(first.url, first.about, server.url, server.about)
        except ServerError as error:
            self.lose(server, error)
            return False
        return True

    def _compare(self, servers: Sequence[Server]) -> None:
        """Raises ServerError where their weights differ; nothing where there is one, or one computes no checksums."""
        if len(servers) < 2:
            return
        first, *others = [(server.url, server.checksums()) for server in servers]
        for url, found in others:
            if first[1] is not None and found is not None and found != first[1]:
                wrong = sorted(name for name in {*found, *first[1]} if found.get(name) != first[1].get(name))
                raise ServerError(
                    f"vllm: {first[0]} and {url} hold different weights after the same were sent ({wrong[0]} and "
                    f"{len(wrong) - 1} more); start both with this run's model.path"
                )
