"""The servers of a run: prompts go round them, weights to all, and what one of them loses another one is asked for."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from mmrl.engines.base import Sampling
from mmrl.engines.folders import WeightsFolder
from mmrl.engines.vllm_about import refuse_difference, refuse_differences, refuse_other_model
from mmrl.engines.vllm_ask import drawn, part, sampling_params, spans
from mmrl.engines.vllm_http import Answer, Lost, ServerError
from mmrl.engines.vllm_model import Model
from mmrl.engines.vllm_server import ALONE, TIMEOUT_S, URL, Server, StaleWeights
from mmrl.engines.vllm_transfer import TRANSFERS, Weights, buckets
from mmrl.engines.vllm_wire import Drawn, Request, Save, write_lora

ADAPTER = "policy"
PAUSE_S = 0.5  # between two looks at servers that are all lost
ATTEMPTS = 3  # at one request for each server: what fails on all of them, again and again, is the request's fault


class Pool:
    """Talks to one `vllm serve` or several of the same model; see Server.

    model: the policy's, which theirs must have the shape of. dtype, tokenizer: see refuse_other_model.
    url: where they listen. transfer: how whole weights get there: "file", or "nccl" and "gloo" as in vllm_transfer.
    folder: with files, and for adapters: where they are written; the servers must see the same path. None is the
    temporary folder, for servers on this machine. concurrency: requests in flight at each. timeout: seconds for one.

    Each sync writes its mark on the servers as their weight version, which comes back with every completion.
    All samples of a prompt are asked of one server, whose prefix cache serves them. A server that fails is lost: what
    it had is asked of the others, and it gets weights again, before prompts, with the first load that it answers.

    flows: whether weights may change while requests are under way. Completions then say which weights sampled each
    token, and requests wait where all servers are lost, until one has come back.
    """

    def __init__(
        self,
        *,
        lora: bool,
        model: Model,
        dtype: str = "auto",
        tokenizer: Any = None,
        url: str | Sequence[str] = URL,
        transfer: str = "file",
        folder: str | Path | None = None,
        concurrency: int = 64,
        timeout: float = TIMEOUT_S,
    ) -> None:
        urls = _checked(url, transfer, folder, lora)
        self.flows = False
        self._timeout, self._model = timeout, model
        self._folder = WeightsFolder(folder)
        self.servers = [Server(each, lora=lora, transfer=transfer, timeout=timeout) for each in urls]
        refuse_differences([s.url for s in self.servers], [s.about for s in self.servers])
        for server in self.servers:
            refuse_other_model(server.url, server.about, model, dtype, tokenizer)
            if transfer != "file" and server.about.transfer != transfer:
                raise ServerError(
                    f"vllm: {server.url} runs with --weight-transfer-config of {server.about.transfer or 'nothing'}; "
                    f'start it with --weight-transfer-config \'{{"backend": "{transfer}"}}\''
                )
        self.max_model_len = min(server.about.served.max_model_len for server in self.servers)
        self._run = uuid.uuid4().hex[:12]
        self._mark = self.servers[0].holds
        self._compared = lora
        if lora:  # adapters alone are sent: what lies under them must be the same everywhere
            self._compare(self.servers)
        self._changed = threading.Condition()
        self._turn = 0
        self._closed = False
        self.asked_again = 0
        self._threads = ThreadPoolExecutor(concurrency * len(urls), thread_name_prefix="vllm")

    # ---------------------------------------------------------------- prompts

    def sample(self, requests: Sequence[Request], sampling: Sampling, adapted: bool) -> list[Drawn]:
        """See Backend.sample. Raises ServerError where the last server is lost, or refuses."""
        params = sampling_params(sampling)
        media = {shown.key: shown for request in requests for shown in request.media}
        parts = {key: part(shown) for key, shown in media.items()}
        homes: dict[Any, Server] = {}  # of the prompts

        def one(request: Request) -> Drawn:
            body = {
                "token_ids": request.ids,
                "content_parts": [parts[shown.key] for shown in request.media] or None,
                "sampling_params": params | {"seed": request.seed},
                "return_token_ids": True,
            }
            prompt = (*request.ids, *(shown.key for shown in request.media))
            for attempts in range(ATTEMPTS * len(self.servers), -1, -1):
                server = self._home(homes, prompt)
                try:
                    name = ADAPTER if adapted else server.about.served.name
                    answer = server.http.post("/inference/v1/generate", {"model": name, **body})
                    return drawn(answer, self._versions(server, answer))
                except (Lost, StaleWeights) as error:
                    if self._closed or not self._may_go_on(server, error) or not attempts:
                        raise
            raise AssertionError("the last attempt returns or raises")

        try:
            return list(self._threads.map(one, requests))
        finally:
            with self._changed:
                for server in homes.values():
                    server.prompts -= 1

    def _home(self, homes: dict[Any, Server], prompt: Any) -> Server:
        """The server of a prompt: the one that has the fewest, in turns. Waits for one where all are lost."""
        until = time.monotonic() + self._timeout
        with self._changed:
            home = homes.get(prompt)
            if home is not None and home.lost is None:
                return home
            while not (ready := [server for server in self.servers if server.lost is None]):
                if not self.flows or self._closed or time.monotonic() > until:
                    raise Lost(f"vllm: no server is left: {'; '.join(str(server.lost) for server in self.servers)}")
                self._changed.wait(PAUSE_S)
            if home is not None:
                home.prompts -= 1
            self._turn += 1
            turns = ready[self._turn % len(ready) :] + ready[: self._turn % len(ready)]
            home = homes[prompt] = min(turns, key=lambda server: server.prompts)
            home.prompts += 1
            return home

    def _may_go_on(self, server: Server, error: ServerError) -> bool:
        """The server is lost; returns whether its prompts may be asked elsewhere, or later."""
        if len(self.servers) == 1 and not self.flows:
            return False
        with self._changed:
            self.asked_again += 1
            self._lose(server, error)
        return True

    def _lose(self, server: Server, error: Exception) -> None:
        if server.lost is None:
            warnings.warn(f"a server is lost, its prompts go to others: {error}", stacklevel=2)
        server.lost = str(error)

    def _versions(self, server: Server, answer: Answer) -> list[int] | None:
        """Of a completion's tokens, the numbers of the syncs whose weights sampled them. Raises StaleWeights where they
        are not this run's (where they flow), or not the last ones."""
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

    def load(self, weights: Callable[[], Iterator[tuple[str, Tensor]]], version: int) -> None:
        """Replace the weights of all servers that answer. Raises ServerError where none does, or one refuses."""
        self._patiently(lambda: self._load(weights(), version))

    def _load(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        if self.servers[0].channel is None:
            target = self._folder.empty(f"version_{version}")
            _write(weights, target)
            body = {"method": "reload_weights", "kwargs": {"weights_path": str(target.resolve())}}
            self._update(version, lambda them: self._each(them, lambda s: s.http.post("/collective_rpc", body)))
            self._folder.keep_only(target)
            return

        def send(them: list[Server]) -> list[Server]:
            them = self._each(them, lambda s: s.pipe.begin())
            for some in buckets(weights):
                them = self._each(them, partial(_send, some))
            return self._each(them, lambda s: s.pipe.end())

        self._update(version, send)

    def _patiently(self, act: Callable[[], None]) -> None:
        """Where weights flow, servers that are all lost may be back in a while."""
        until = time.monotonic() + self._timeout
        while True:
            try:
                return act()
            except (Lost, StaleWeights):
                if not self.flows or time.monotonic() > until:
                    raise
                time.sleep(PAUSE_S)

    def load_lora(self, save: Save, version: int) -> None:
        """Replace the adapter."""
        target = self._folder.empty(f"lora_{version}")
        body = {"lora_name": ADAPTER, "lora_path": write_lora(save, target), "load_inplace": True}
        self._update(version, lambda them: self._each(them, lambda s: s.http.post("/v1/load_lora_adapter", body)))
        self._folder.keep_only(target)

    def settle(self, version: int) -> None:
        """Remember which weights the servers hold; every process calls it when one of them has sent."""
        several = len(self.servers) > 1
        with self._changed:
            for server in self.servers:
                if server.lost is not None and not server.answers():
                    continue
                try:
                    server.holds = server.version()
                except Lost as error:
                    if not several:
                        raise
                    self._lose(server, error)
                    continue
                current = server.holds.rpartition(" ")[2] == str(version)
                server.lost = None if current or not several else f"vllm: {server.url} holds {server.holds!r}"
                if current or not several:
                    self._mark = server.holds
            self._changed.notify_all()

    @property
    def ready(self) -> int:
        """Servers that get prompts."""
        return sum(server.lost is None for server in self.servers)

    def counts(self) -> dict[str, float]:
        """See VllmEngine.counts."""
        return {"rollout/servers": self.ready, "rollout/asked_again": self.asked_again}

    def returned(self) -> bool:
        """Whether a server that was lost answers again, and is to get weights."""
        return any(server.lost is not None and server.answers() for server in self.servers)

    def rest(self) -> None:
        """Nothing: a server has its device for itself."""

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self.flows:  # nobody waits for what is under way
            for server in self.servers:
                with contextlib.suppress(ServerError):
                    server.http.post("/abort_requests")
        self._threads.shutdown(cancel_futures=True)
        for server in self.servers:
            if server.channel is not None:
                server.channel.close()
        self._folder.close()

    def _update(self, version: int, send: Callable[[list[Server]], list[Server]]) -> None:
        """The mark is another one as soon as the weights may be: what others sample meanwhile is seen as not theirs."""
        mark = f"mmrl {self._run} {version}"
        back = [server for server in self.servers if server.lost is not None and self._is_back(server)]
        asked = [server for server in self.servers if server.lost is None or server in back]
        frozen = self._each(asked, lambda s: s.freeze(mark))
        try:
            done = self._each(send(frozen), lambda s: s.thaw(mark, self._model.perceives))
        except BaseException:
            for server in frozen:
                server.go_on()
            raise
        with self._changed:
            self._mark = mark
            for server in done:
                server.lost = None
        if back or not self._compared:
            self._compare(done)
            self._compared = True
        with self._changed:
            self._changed.notify_all()

    def _is_back(self, server: Server) -> bool:
        """Whether a lost server answers, and is still one that this run can use."""
        first = next((s for s in self.servers if s is not server), server)
        try:
            if not server.answers():
                return False
            server.look_again()
            refuse_difference(first.url, first.about, server.url, server.about)
        except ServerError as error:
            server.lost = str(error)
            return False
        return True

    def _each(self, servers: Sequence[Server], act: Callable[[Server], object]) -> list[Server]:
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
                    with self._changed:
                        self._lose(server, error)
                    server.go_on()
        if not done:
            raise failed
        return done

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


def _send(some: Weights, server: Server) -> None:
    server.pipe.send(some)


def _write(weights: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    from safetensors.torch import save_file

    # A copy of each: safetensors refuses tensors that share memory, as a tied head does.
    save_file(
        {name: weight.cpu().contiguous().clone() for name, weight in weights},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def _checked(url: str | Sequence[str], transfer: str, folder: object, lora: bool) -> list[str]:
    """The addresses. Raises ValueError for options that do not go together."""
    urls = [url] if isinstance(url, str) else [str(each) for each in url]
    twice = sorted({each for each in urls if urls.count(each) > 1})
    if not urls or twice:
        raise ValueError(f"vllm: url names {', '.join(twice) + ' twice' if twice else 'no server'}")
    if transfer not in TRANSFERS:
        raise ValueError(f"vllm: transfer is {transfer!r}; write {', '.join(TRANSFERS)}")
    if transfer != "file" and lora:
        raise ValueError(f"vllm: transfer {transfer} sends whole weights, and lora: true adapters; leave one out")
    if transfer != "file" and folder is not None:
        raise ValueError(f"vllm: with transfer {transfer} nothing is written; leave folder out")
    return urls
