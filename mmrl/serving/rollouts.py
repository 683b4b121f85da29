"""A policy that samples for a training elsewhere: what waits is sampled together, and weights change in between."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import torch

import mmrl
from mmrl.engines.rollout_wire import PROTOCOL, Asked, packed_samples, unpack
from mmrl.engines.weight_sums import sums
from mmrl.modalities.adapter import Adapter
from mmrl.serving.wire import Refused

FIRST = "default"  # the mark of the weights before any were sent


class RolloutService:
    """adapter: samples, in a thread of its own. together: samples that it draws at a time.

    Weights are exchanged while it is paused, and it pauses between two drawings: every sample is of one mark.
    """

    def __init__(self, adapter: Adapter, together: int) -> None:
        self._adapter, self._together = adapter, together
        self.policy = adapter.served()
        self.mark = FIRST
        self.process = uuid.uuid4().hex  # tells it from one that is started anew at the same place
        self._changed = threading.Condition()
        self._waiting: list[tuple[Asked, Future[bytes]]] = []
        self._paused = self._busy = False
        self._state: Mapping[str, Any] = adapter.state()
        self._components: tuple[str, ...] | None = None
        self._others_came = False
        threading.Thread(target=self._work, daemon=True, name="rollouts").start()

    def info(self) -> dict[str, Any]:
        told = {"protocol": PROTOCOL, "version": mmrl.__version__, "process": self.process}
        return {**told, "shapes": self.policy.shapes, "model": dict(self.policy.model)}

    # ---------------------------------------------------------------- groups

    def ask(self, asked: Asked) -> Future[bytes]:
        """The samples of a group, packed."""
        future: Future[bytes] = Future()
        with self._changed:
            self._waiting.append((asked, future))
            self._changed.notify_all()
        return future

    def abort(self) -> None:
        """Give up what waits; what is being drawn is finished."""
        with self._changed:
            waiting, self._waiting = self._waiting, []
        for future in (each for _, each in waiting if each.set_running_or_notify_cancel()):
            future.set_exception(Refused(503, "given up: the server was told to abort its requests"))

    def pause(self) -> None:
        """Draw nothing any more; returns when what is being drawn is done."""
        with self._changed:
            self._paused = True
            self._changed.wait_for(lambda: not self._busy)

    def resume(self) -> None:
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) and not self._paused)
                some, mark = self._take(), self.mark
                self._busy = True
            try:
                self._draw(some, mark)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _take(self) -> list[tuple[Asked, Future[bytes]]]:
        """The first that waits, and what is drawn in the same way."""
        alike = self._waiting[0][0].alike
        most = max(1, self._together // max(1, self._waiting[0][0].n))
        some = [one for one in self._waiting if one[0].alike == alike][:most]
        self._waiting = [one for one in self._waiting if not any(one is taken for taken in some)]
        return [one for one in some if one[1].set_running_or_notify_cancel()]

    def _draw(self, some: list[tuple[Asked, Future[bytes]]], mark: str) -> None:
        if not some:
            return
        asked, adapter = some[0][0], self._adapter
        try:
            adapter.sample_as(adapter.config.model_copy(update={"sampling": _section(adapter, asked.sampling)}))
            adapter.wanted = asked.wanted
            groups = adapter.rollout([one.group for one, _ in some], asked.n, asked.step, asked.seed)
            made = [packed_samples(group.samples, mark) for group in groups]
        except BaseException as error:  # every request must have its answer
            for _, future in some:
                future.set_exception(error)
            return
        for (_, future), message in zip(some, made, strict=True):
            future.set_result(message)

    # ---------------------------------------------------------------- weights

    def call(self, mark: str) -> None:
        """The weights are these from now on. Raises Refused unless it is paused: one that was started anew while
        weights were sent must not pass for one that has them."""
        self._expect_pause()
        self.mark = mark

    def begin(self, components: list[str], state: Mapping[str, Any]) -> dict[str, Any]:
        """New weights come, of a policy that trains these parts; says who it is. Raises Refused unless it is paused,
        ValueError for parts that it cannot train."""
        self._expect_pause()
        if self._components != tuple(components):
            self._adapter.select(components)
            self._components = tuple(components)
        self._others_came = dict(state) != dict(self._state)
        self._state = state
        return {"process": self.process}

    @torch.no_grad()
    def receive(self, message: bytes) -> None:
        """Some weights. Raises ValueError where one does not fit, before any is taken."""
        self._expect_pause()
        _, tensors = unpack(message)
        own = self.policy.weights()
        for name, tensor in tensors.items():
            if name not in own or (own[name].shape, own[name].dtype) != (tensor.shape, tensor.dtype):
                here = f"{own[name].dtype} {list(own[name].shape)}" if name in own else "nothing"
                raise ValueError(f"{name} came as {tensor.dtype} {list(tensor.shape)}, and here it is {here}")
        trained = self._adapter.trainable_parameters()
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
        self._others_came = self._others_came or any(name not in trained for name in tensors)

    def end(self) -> None:
        """All have come."""
        self._expect_pause()
        if self._others_came:  # what was kept of frozen parts is no longer theirs
            self._adapter.load_state(dict(self._state))
            self._others_came = False

    def checksums(self) -> dict[str, str]:
        return sums(self.policy.weights())

    def _expect_pause(self) -> None:
        if not self._paused:
            raise Refused(409, "weights change under a pause only: POST /pause first")


def _section(adapter: Adapter, sampling: Mapping[str, Any]) -> Any:
    return type(adapter.config.sampling)(**sampling)
