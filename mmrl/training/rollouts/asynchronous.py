"""Rollouts that servers sample in the background: asked for ahead of their step, used in the order of their steps."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmrl.config import AsynchronousConfig, SampledStage
from mmrl.data.choices import shuffled
from mmrl.data.held import ById
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.rollouts.broken import without_broken
from mmrl.training.rollouts.collecting import Collector
from mmrl.training.rollouts.curriculum import AllRetired
from mmrl.training.rollouts.flow import Flow, Ticket
from mmrl.training.rollouts.queue import ASKED, Rollouts
from mmrl.training.rollouts.sampling import score_new
from mmrl.training.rollouts.stored import load_queue, save_queue
from mmrl.training.run import Run
from mmrl.training.stopping import StopHere
from mmrl.training.wanted import wanted
from mmrl.types import Group

POLL_S = 0.1  # between two looks at whether to stop
BACK_S = 2.0  # from one sending of weights to a lost server that is back to the next


class AsynchronousRollouts(Rollouts):
    """Rollouts of a stage with `asynchronous`.

    A step's groups are asked for as soon as the weights that the servers hold may still sample for it (`staleness`),
    all at once, and used whole and in the order of the steps: a long answer is waited for, never passed over. A group
    of which a part was sampled by older weights than that is dropped, counted, and sampled again.

    A checkpoint holds the groups that are there, and what else was asked for, which a resume asks for again.
    """

    def __init__(
        self, run: Run, options: SampledStage, flowing: AsynchronousConfig, cursor: Cursor, collector: Collector
    ) -> None:
        super().__init__(run, options, cursor, collector)
        self.flowing = flowing
        self.apart = run.adapter.apart()
        self.steps: dict[int, list[Ticket]] = {}  # of this process, by the step that they are for
        self.prepared = False  # whether the groups of the step at hand were taken
        self.pushed: int | None = None  # the step whose weights were sent last
        self._flow: Flow | None = None

    @property
    def flow(self) -> Flow:
        """Begun where it is first used."""
        if self._flow is None:
            run, options = self.run, self.options
            rewards = run.rewards if options.rewarded else ()
            run.adapter.wanted = self.apart.wanted = wanted(rewards, shown=True)
            most = (self.flowing.staleness + 1) * options.groups
            self._flow = Flow(self._roll, rewards, most)
        return self._flow

    def next(self) -> list[Group]:
        step, sampled = self.cursor.step, not self.prepared
        if sampled:
            try:
                self._prepare(step)
            except BaseException:
                self._end_flow()
                raise
        self.cursor.phase = "update"
        if sampled:
            self.run.point("rollout")
        return self._made(step)

    def drop(self) -> None:
        del self.steps[self.cursor.step]
        self.prepared = False
        self.exhausted = not self.steps and self.collector.curriculum.exhausted

    def close(self) -> None:
        """What is under way is given up."""
        self._end_flow()
        self.apart.close()

    def _end_flow(self) -> None:
        if self._flow is not None:
            self._flow.close()
            self._flow = None

    # ---------------------------------------------------------------- a step

    def _prepare(self, step: int) -> None:
        self._push()
        self._ask_ahead()
        clock = time.monotonic()
        dropped = self._whole(step)
        self.cursor.sums.count("time/rollout", time.monotonic() - clock)
        self._take(step, dropped)
        self.prepared = True

    def _push(self) -> None:
        """Send the weights where it is time, or a server has come back. Every process calls."""
        step, processes = self.cursor.step, self.run.processes
        due = self.pushed is None or step - self.pushed >= self.flowing.push_every
        if due or processes.any(self.apart.returned()):
            clock = time.monotonic()
            with self.run.whole():
                self.apart.push(step, processes.once)
            self.pushed = step
            self.cursor.sums.count("time/sync", time.monotonic() - clock)
        for tickets in self.steps.values():  # of a checkpoint
            for ticket in tickets:
                self._ask_once(ticket)

    def _ask_ahead(self) -> None:
        """Ask for the groups of every step that the weights on the servers may sample for."""
        assert self.pushed is not None
        step, options = self.cursor.step, self.options
        last = min(self.pushed + self.flowing.staleness, options.steps - 1)
        for number in range(max([step - 1, *self.steps]) + 1, last + 1):
            try:
                groups = self.collector.asked(number)
            except AllRetired:
                if not self.steps:
                    self.exhausted = step > 0
                    raise
                return
            self.steps[number] = [Ticket(number, group) for group in groups]
            for ticket in self.steps[number]:
                self._ask_once(ticket)

    def _ask_once(self, ticket: Ticket) -> None:
        if not (ticket.ended or ticket.asked):
            ticket.asked = True
            self.flow.ask(ticket)

    def _whole(self, step: int) -> int:
        """Wait until the step's groups are there on every process, none of them too old; returns how many were here.

        Processes wait together: all go on, stop, or give a server that is back its weights, at the same time. What
        fails on one ends the others where they meet.
        """
        run, tickets, dropped, pushed = self.run, self.steps[step], 0, time.monotonic()
        while True:
            there = self.flow.wait(tickets, POLL_S)
            if there and (old := [ticket for ticket in tickets if self._too_old(ticket)]):
                there, dropped = False, dropped + len(old)
                for ticket in old:
                    self.flow.ask(ticket)
            back = time.monotonic() - pushed > BACK_S and self.apart.returned()
            waits, stops, back = run.processes.reduce(
                torch.tensor([not there, run.stops.asked_long, back], dtype=torch.uint8), "max"
            ).tolist()
            if not waits:
                return dropped
            if stops:  # what is under way is asked for again on a resume
                raise StopHere
            if back:  # nothing is trained meanwhile
                with run.whole():
                    self.apart.push(self.cursor.step, run.processes.once)
                self.pushed, pushed = self.cursor.step, time.monotonic()

    def _too_old(self, ticket: Ticket) -> bool:
        samples = ticket.made.samples if ticket.made else []
        return any(ticket.step - sample.version > self.flowing.staleness for sample in samples)

    def _take(self, step: int, dropped: int) -> None:
        groups, total = self._made(step), self.run.processes.total
        fresh = [group for group in groups if all(sample.version == step for sample in group.samples)]
        with self.run.whole():
            self.apart.own([sample for group in fresh for sample in group.samples])
        try:
            self.collector.take(groups)
        except BaseException:
            for ticket in self.steps[step]:  # sampled anew by a resume
                ticket.made, ticket.ended, ticket.asked = None, False, False
            raise
        note = self.cursor.sums.note
        oldest = max((step - sample.version for group in groups for sample in group.samples), default=0)
        note("rollout/age_max", total(oldest, "max"))
        note("rollout/dropped", total(dropped))
        for name, value in self.apart.counts().items():
            note(name, value)

    def _made(self, step: int) -> list[Group]:
        return [ticket.made for ticket in self.steps[step] if ticket.made is not None]

    def _roll(self, ticket: Ticket) -> Group | None:
        """In a thread of the flow."""

        def roll(groups: list[Group]) -> list[Group]:
            return [self.apart.rollout(g, self.options.samples, ticket.step, self.collector.seed) for g in groups]

        on_bad = self.run.config.data.on_bad_record
        _, made = without_broken(roll, [ticket.group], lambda group: group.prompt.id, on_bad)
        return made[0] if made else None

    # ---------------------------------------------------------------- a part of a checkpoint

    def load(self, state: Mapping[str, Any]) -> None:
        self.collector.curriculum.load(state["curriculum"])
        self.exhausted = False  # known when the groups are loaded

    def save(self, folder: Path) -> None:
        steps = sorted(self.steps)
        there = {step: [t for t in self.steps[step] if t.ended] for step in steps}
        save_queue(folder, self.run.processes.rank, [[t.made for t in there[s] if t.made] for s in steps])
        asked = [
            {"step": step, "index": t.group.index, "id": t.group.prompt.id, "draw": t.group.draw}
            for step in steps
            for t in self.steps[step]
            if t not in there[step]
        ]
        told = {"steps": steps, "prepared": self.prepared, "asked": asked}
        (folder / ASKED.format(self.run.processes.rank)).write_text(json.dumps(told), encoding="utf-8")

    def load_groups(self, folder: Path) -> None:
        run, processes = self.run, self.run.processes
        queue = load_queue(folder, processes.rank, processes.world, self.collector.prompts)
        told = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(ASKED.format("*")))]
        first: dict[str, Any] = told[0] if told else {"steps": [], "prepared": self.cursor.phase == "update"}
        steps = first["steps"] or range(self.cursor.step, self.cursor.step + len(queue))
        self.prepared = first["prepared"]
        for step, groups in zip(steps, queue):
            self.steps[step] = [Ticket(step, Group(g.prompt, g.index, draw=g.draw), g, True) for g in groups]
        for one in (one for some in told for one in some["asked"] if one["index"] % processes.world == processes.rank):
            self.steps.setdefault(one["step"], []).append(Ticket(one["step"], self._group_of(one)))
        for tickets in self.steps.values():
            tickets.sort(key=lambda ticket: ticket.group.index)
        groups = [group for step in self.steps for group in self._made(step)]
        if self.options.rewarded:
            score_new(run, groups)
        if self.prepared:
            self.collector.score_missing_kl(self._made(self.cursor.step))
        self.exhausted = self.cursor.step > 0 and not self.steps and self.collector.curriculum.exhausted

    def _group_of(self, asked: Mapping[str, Any]) -> Group:
        """The group that was asked for and not there; its prompt has the same order of options."""
        prompt = ById(self.collector.prompts)[asked["id"]]
        if self.run.config.data.shuffle_options:
            prompt = shuffled(prompt, seed_of(self.collector.seed, asked["step"], asked["draw"]))
        return Group(prompt, asked["index"], draw=asked["draw"])


def made_rollouts(run: Run, options: SampledStage, cursor: Cursor, collector: Collector) -> Rollouts:
    """Those of a stage, as it says."""
    if options.flowing is None:
        return Rollouts(run, options, cursor, collector)
    return AsynchronousRollouts(run, options, options.flowing, cursor, collector)
