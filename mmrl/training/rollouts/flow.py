"""Groups on their way through the background: sampled in threads, then scored in one, while the policy is trained."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from mmrl.rewarding.load import LoadedReward
from mmrl.rewarding.run import Abandoned, score_groups, turn
from mmrl.rewarding.threads import Threads
from mmrl.types import Group

THREADS = 256  # groups that are sampled at a time, at most


@dataclass(eq=False)  # two are never the same, and tensors do not compare
class Ticket:
    """A group that is asked for. step: that it is for. group: without samples. made: with them, scored; None where its
    prompt turned out broken. ended: whether that is so. asked: whether it is on its way. error: what stopped it."""

    step: int
    group: Group
    made: Group | None = None
    ended: bool = False
    asked: bool = False
    error: BaseException | None = None


class Flow:
    """roll: from a ticket to its whole group, called in many threads. rewards: () scores nothing."""

    def __init__(self, roll: Callable[[Ticket], Group | None], rewards: Sequence[LoadedReward], most: int) -> None:
        self._roll, self._rewards = roll, list(rewards)
        self._changed = threading.Condition()
        self._left = threading.Event()
        self._sampled: SimpleQueue[Ticket | None] = SimpleQueue()
        self._threads = Threads(min(most, THREADS), "rollout")
        self._scorer = Threads(1, "scorer of rollouts")
        self._scorer.submit(self._score)

    def ask(self, ticket: Ticket) -> None:
        """Start on a group, from the beginning."""
        ticket.made, ticket.ended, ticket.error = None, False, None
        self._threads.submit(self._sample, ticket)

    def wait(self, tickets: Iterable[Ticket], seconds: float) -> bool:
        """Whether all have ended, so many seconds later at most. Raises what stopped one of them."""
        tickets = list(tickets)
        with self._changed:
            self._changed.wait_for(lambda: all(t.ended or t.error for t in tickets), seconds)
        for ticket in tickets:
            if ticket.error is not None:
                raise ticket.error
        return all(ticket.ended for ticket in tickets)

    def close(self) -> None:
        """Nothing is waited for; what runs is left to itself."""
        self._left.set()
        self._threads.close()
        self._sampled.put(None)

    def _sample(self, ticket: Ticket) -> None:
        if self._left.is_set():
            return
        try:
            ticket.made = self._roll(ticket)
        except BaseException as error:
            self._end([ticket], error)
            return
        if ticket.made is None or not self._rewards:
            self._end([ticket])
        else:
            self._sampled.put(ticket)

    def _score(self) -> None:
        """All that wait are scored together: a reward that takes several groups at once gets several."""
        while (first := self._sampled.get()) is not None:
            tickets = [first]
            try:
                while (more := self._sampled.get_nowait()) is not None:
                    tickets.append(more)
            except Empty:
                more = first
            try:
                with turn(self._left.is_set):
                    score_groups([t.made for t in tickets if t.made], self._rewards, self._left.is_set)
            except Abandoned:
                return
            except BaseException as error:
                self._end(tickets, error)
            else:
                for sample in (s for t in tickets if t.made for s in t.made.samples):
                    sample.latents = {}  # nobody looks at them any more
                self._end(tickets)
            if more is None:
                return

    def _end(self, tickets: Sequence[Ticket], error: BaseException | None = None) -> None:
        with self._changed:
            for ticket in tickets:
                ticket.error, ticket.ended = error, error is None
            self._changed.notify_all()
