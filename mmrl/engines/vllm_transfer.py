"""Weights to a `vllm serve` over vLLM's weight-transfer protocol: the server is told over HTTP what comes, and gets it
by a broadcast in a group of its workers and this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from queue import SimpleQueue
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch
from torch import Tensor

from mmrl.engines.http_client import Answer, Client, Lost, ServerError

TRANSFERS = ("file", "nccl", "gloo")
BUCKET = 256 << 20  # bytes that are announced together
Weights = Sequence[tuple[str, Tensor]]


class Group(Protocol):
    """Trainer and workers of one server, the trainer first."""

    def broadcast(self, tensor: Tensor) -> None: ...

    def close(self) -> None: ...


class Channel:
    """One server's: a group for each, so that a server that is lost takes no other along.

    backend: "nccl" or "gloo". timeout: seconds for one step of it.
    """

    def __init__(self, http: Client, backend: str, timeout: float) -> None:
        self._http, self._backend, self._timeout = http, backend, timeout
        self._group: Group | None = None

    def open(self) -> None:
        """Join the server's workers, if that has not been done. Raises ServerError."""
        if self._group is not None:
            return
        world = int(self._http.get("/get_world_size?include_dp=true").at("world_size")) + 1
        address = _own_address(self._http.url)
        made: Gloo | Nccl = (Gloo if self._backend == "gloo" else Nccl)(address, world, self._timeout)
        info = {"master_address": address, "master_port": made.port, "rank_offset": 1, "world_size": world}
        self._both(lambda: self._http.post("/init_weight_transfer_engine", {"init_info": info}), made.join)
        self._group = made

    def begin(self) -> Answer:
        """A new set of weights begins."""
        self.open()
        return self._http.post("/start_weight_update")

    def send(self, weights: Weights) -> None:
        """Some of them."""
        group = self._group
        assert group is not None
        info = {
            "names": [name for name, _ in weights],
            "dtype_names": [str(weight.dtype).removeprefix("torch.") for _, weight in weights],
            "shapes": [list(weight.shape) for _, weight in weights],
        }

        def broadcast() -> None:
            for _, weight in weights:
                group.broadcast(weight.contiguous())

        self._both(lambda: self._http.post("/update_weights", {"update_info": info}), broadcast)

    def end(self) -> Answer:
        """All were sent."""
        return self._http.post("/finish_weight_update")

    def close(self) -> None:
        """Leave the group; the next `open` joins anew."""
        group, self._group = self._group, None
        if group is not None:
            group.close()

    def _both(self, there: Callable[[], object], here: Callable[[], object]) -> None:
        """Two halves that wait for each other, each in a thread: the first that fails speaks, and the other is left
        behind, as NCCL cannot be interrupted."""
        ended: SimpleQueue[BaseException | None] = SimpleQueue()
        for half in (there, here):
            threading.Thread(target=_run, args=(half, ended), daemon=True, name="weight transfer").start()
        for _ in range(2):
            error = ended.get()
            if error is not None:
                self._group = None
                if isinstance(error, ServerError):
                    raise error
                raise Lost(f"vllm: weights did not reach {self._http.url}: {_first_line(error)}") from error


class Gloo:
    """Torch's own, on CPUs; the server's side is `mmrl.engines.vllm_gloo`, a plug-in of vLLM."""

    def __init__(self, address: str, world: int, timeout: float) -> None:
        from torch.distributed import TCPStore

        self._world, self._timeout = world, timedelta(seconds=timeout)
        # Whatever port is free: the store is there before anybody is told.
        self._store = TCPStore(address, 0, world, True, self._timeout, wait_for_workers=False)
        self.port: int = self._store.port
        self._group: Any = None

    def join(self) -> None:
        self._group = gloo_group(self._store, 0, self._world, self._timeout)

    def broadcast(self, tensor: Tensor) -> None:
        gloo_broadcast(self._group, tensor.detach().cpu())

    def close(self) -> None:
        self._group = None


class Nccl:
    """vLLM's own communicator, on the current GPU."""

    def __init__(self, address: str, world: int, timeout: float) -> None:
        with socket.socket() as free:
            free.bind((address, 0))
            self.port: int = free.getsockname()[1]
        self._address, self._world = address, world
        self._device = torch.cuda.current_device()  # other threads begin on the first
        self._group: Any = None

    def join(self) -> None:
        from vllm.distributed.weight_transfer.nccl_common import trainer_init

        told = {"master_address": self._address, "master_port": self.port, "world_size": self._world}
        with torch.cuda.device(self._device):
            self._group = trainer_init(told)

    def broadcast(self, tensor: Tensor) -> None:
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            self._group.broadcast(tensor.detach(), src=0, stream=stream)
            stream.synchronize()  # the caller may change the weights as soon as this returns

    def close(self) -> None:
        self._group.destroy()
        self._group = None


def gloo_group(store: Any, rank: int, world: int, timeout: timedelta) -> Any:
    """A group beside torch's own, which it does not know of."""
    from torch.distributed import PrefixStore, ProcessGroupGloo

    return ProcessGroupGloo(PrefixStore("mmrl weights", store), rank, world, timeout)


def gloo_broadcast(group: Any, tensor: Tensor) -> None:
    """From rank 0, into `tensor` on all others. Raises RuntimeError where one of them is gone."""
    from torch.distributed import BroadcastOptions

    options = BroadcastOptions()
    options.rootRank = 0
    group.broadcast([tensor], options).wait()


def buckets(weights: Iterable[tuple[str, Tensor]], size: int = BUCKET) -> Iterator[Weights]:
    """Weights in parts of about `size` bytes: merged ones never exist all at once."""
    part: list[tuple[str, Tensor]] = []
    held = 0
    for name, weight in weights:
        part.append((name, weight))
        held += weight.numel() * weight.element_size()
        if held >= size:
            yield part
            part, held = [], 0
    if part:
        yield part


def _own_address(url: str) -> str:
    """Of this machine, as the server sees it."""
    found = urlsplit(url)
    port = found.port or (443 if found.scheme == "https" else 80)
    try:
        with socket.create_connection((found.hostname or "", port), timeout=10) as connection:
            return str(connection.getsockname()[0])
    except OSError as error:
        raise Lost(f"vllm: {url} cannot be reached: {error}") from error


def _run(half: Callable[[], object], ended: SimpleQueue[BaseException | None]) -> None:
    try:
        half()
    except BaseException as error:
        ended.put(error)
    else:
        ended.put(None)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
