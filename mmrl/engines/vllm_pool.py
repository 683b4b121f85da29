"""The servers of a run: prompts go round them, weights to all, and what one of them loses another one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from mmrl.copying import to_host
from mmrl.engines.base import Sampling
from mmrl.engines.fleet import Fleet
from mmrl.engines.folders import WeightsFolder
from mmrl.engines.holding import Holder
from mmrl.engines.http_client import ServerError
from mmrl.engines.remote import TIMEOUT_S, check_options
from mmrl.engines.rounds import Homes, Rounds
from mmrl.engines.vllm_about import refuse_other_model
from mmrl.engines.vllm_ask import drawn, part, sampling_params, spans
from mmrl.engines.vllm_model import Model
from mmrl.engines.vllm_server import URL, Server
from mmrl.engines.vllm_transfer import TRANSFERS, Weights, buckets
from mmrl.engines.vllm_wire import Drawn, Request, Save, write_lora

ADAPTER = "policy"


class Pool:
    """Talks to one `vllm serve` or several of the same model; see Server and Fleet.

    model: the policy's, which theirs must have the shape of. dtype, tokenizer: see refuse_other_model.
    url: where they listen. transfer: how whole weights get there: "file", or "nccl" and "gloo" as in vllm_transfer.
    folder: with files, and for adapters: where they are written; the servers must see the same path. None is the
    temporary folder, for servers on this machine. concurrency: requests in flight at each. timeout: seconds for one.

    Each sync writes its mark on the servers as their weight version, which comes back with every completion.
    All samples of a prompt are asked of one server, whose prefix cache serves them. A server that fails is lost: what
    it had is asked of the others, and it gets weights again, before prompts, with the first load that it answers.
    Where weights flow (see VllmEngine.flows) requests wait while all servers are lost, until one has come back.
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
        urls = _checked(url, transfer, folder, lora, concurrency, timeout)
        self._perceives = model.perceives
        self._folder = WeightsFolder(folder)
        servers = [Server(each, lora=lora, transfer=transfer, timeout=timeout) for each in urls]
        # Adapters alone are sent: what lies under them must be the same everywhere.
        self.fleet = Fleet(servers, timeout, compared=lora)
        for server in servers:
            refuse_other_model(server.url, server.about, model, dtype, tokenizer)
            if transfer not in ("file", server.about.transfer):
                raise ServerError(
                    f"vllm: {server.url} runs with --weight-transfer-config of {server.about.transfer or 'nothing'}; "
                    f'start it with --weight-transfer-config \'{{"backend": "{transfer}"}}\''
                )
        self.max_model_len = min(server.about.served.max_model_len for server in servers)
        self._rounds = Rounds(self.fleet, timeout)
        self._threads = ThreadPoolExecutor(concurrency * len(urls), thread_name_prefix="vllm")

    @property
    def flows(self) -> bool:
        """See VllmEngine.flows."""
        return self.fleet.flows

    @flows.setter
    def flows(self, on: bool) -> None:
        self.fleet.flows = on

    # ---------------------------------------------------------------- prompts

    def sample(self, requests: Sequence[Request], sampling: Sampling, adapted: bool) -> list[Drawn]:
        """See Backend.sample. Raises ServerError where the last server is lost, or refuses."""
        params = sampling_params(sampling)
        media = {shown.key: shown for request in requests for shown in request.media}
        parts = {key: part(shown) for key, shown in media.items()}
        homes: Homes[Server] = Homes()

        def one(request: Request) -> Drawn:
            body = {
                "token_ids": request.ids,
                "content_parts": [parts[shown.key] for shown in request.media] or None,
                "sampling_params": params | {"seed": request.seed},
                "return_token_ids": True,
            }

            def of(server: Server) -> Drawn:
                name = ADAPTER if adapted else server.about.served.name
                answer = server.http.post("/inference/v1/generate", {"model": name, **body})
                return drawn(answer, self.fleet.versions(server, spans(answer)))

            return self._rounds.ask(homes, (*request.ids, *(shown.key for shown in request.media)), of)

        try:
            return list(self._threads.map(one, requests))
        finally:
            self._rounds.leave(homes)

    # ---------------------------------------------------------------- weights

    def load(self, weights: Callable[[], Iterator[tuple[str, Tensor]]], version: int) -> None:
        """Replace the weights of all servers that answer. Raises ServerError where none does, or one refuses."""
        if self.fleet.servers[0].channel is None:
            self.fleet.patiently(lambda: self._load_file(weights(), version))
        else:
            self.fleet.patiently(lambda: self._transfer(weights(), version))

    def _load_file(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        target = self._folder.empty(f"version_{version}")
        _write(weights, target)
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(target.resolve())}}
        self._tell(version, "/collective_rpc", body)
        self._folder.keep_only(target)

    def _transfer(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        each = self.fleet.each

        def send(them: list[Server]) -> list[Server]:
            them = each(them, lambda s: s.pipe.begin())
            for some in buckets(weights):
                them = each(them, partial(_send, some))
            return each(them, lambda s: s.pipe.end())

        self.fleet.update(version, self._perceives, send)

    def load_lora(self, save: Save, version: int) -> None:
        """Replace the adapter."""
        target = self._folder.empty(f"lora_{version}")
        body = {"lora_name": ADAPTER, "lora_path": write_lora(save, target), "load_inplace": True}
        self._tell(version, "/v1/load_lora_adapter", body)
        self._folder.keep_only(target)

    def _tell(self, version: int, route: str, body: dict[str, Any]) -> None:
        """Have all servers load what was written."""
        each = self.fleet.each
        self.fleet.update(version, self._perceives, lambda them: each(them, lambda s: s.http.post(route, body)))

    def meet(self, run: Holder, title: str, claims: bool) -> None:
        """See VllmEngine.meet."""
        self.fleet.named(run, title)
        if claims:
            self.fleet.claim()

    def settle(self, version: int) -> None:
        """See Fleet.settle."""
        self.fleet.settle(version)

    def returned(self) -> bool:
        """See Fleet.returned."""
        return self.fleet.returned()

    def counts(self) -> dict[str, float]:
        """See VllmEngine.counts."""
        return self._rounds.counts()

    def rest(self) -> None:
        """Nothing: a server has its device for itself."""

    def close(self) -> None:
        """Nobody waits for what is under way."""
        self._rounds.close()
        self._threads.shutdown(cancel_futures=True)
        self._folder.close()


def _send(some: Weights, server: Server) -> None:
    server.pipe.send(some)


def _write(weights: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    from safetensors.torch import save_file

    # A copy of each: safetensors refuses tensors that share memory, as a tied head does.
    own = {name: to_host({name: weight})[name] for name, weight in weights}  # merged ones are there one at a time
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})


def _checked(
    url: str | Sequence[str], transfer: str, folder: object, lora: bool, concurrency: int, timeout: float
) -> list[str]:
    """The addresses. Raises ValueError for options that do not go together."""
    check_options("vllm", {"url": url, "concurrency": concurrency, "timeout": timeout})
    urls = [str(each).rstrip("/") for each in ([url] if isinstance(url, str) else url)]
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
