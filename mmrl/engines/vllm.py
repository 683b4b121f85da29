"""vLLM as the sampler: in this process, or a server it talks to. Log-probs are vLLM's own, checked by `verify`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mmrl.engines.agreement import Agreement, EngineMismatch, measure
from mmrl.engines.base import Completion, Once, Sampling, here
from mmrl.engines.decoder import Row
from mmrl.engines.holding import Holder
from mmrl.engines.view import collapse
from mmrl.engines.vllm_model import HEAD, Model
from mmrl.engines.vllm_wire import Drawn, Request, Save

GIVEN = {"lora", "model", "dtype", "tokenizer"}  # to a server by the engine itself
TEMPERATURES = (0.01, 2.0)  # vLLM raises smaller ones to the first without an error, and refuses larger ones


class Backend(Protocol):
    """Where vLLM runs. flows: whether weights may change while it samples."""

    max_model_len: int
    flows: bool

    def sample(self, requests: Sequence[Request], sampling: Sampling, adapted: bool) -> list[Drawn]:
        """One completion per request, in their order; adapted: with the adapter that was loaded, maybe by another
        process."""

    def load(self, weights: Callable[[], Iterator[tuple[str, Tensor]]], version: int) -> None:
        """Replace the weights and forget every cached prefix. weights: from the first one, also where asked again."""

    def load_lora(self, save: Save, version: int) -> None:
        """Replace the adapter by what `save` writes, and forget every cached prefix."""

    def meet(self, run: Holder, title: str, claims: bool) -> None:
        """See VllmEngine.meet."""

    def settle(self, version: int) -> None:
        """After a load, on every process that shares it: what it holds now is what samples are to come from."""

    def returned(self) -> bool:
        """Whether a server that was lost answers again."""

    def counts(self) -> dict[str, float]:
        """Numbers of servers."""

    def rest(self) -> None:
        """Nothing will be sampled before the next load."""

    def close(self) -> None: ...


class VllmEngine:
    """Samples with vLLM (`pip install 'mmrl[vllm]'`).

    path: the model, a folder in Hugging Face format or a hub name; the first weights come from there.
    mode: "colocated" runs vLLM in this process; "server" talks to a running `vllm serve` (see docs/vllm.md).
    dtype: as vLLM takes it ("float32", "bfloat16", "auto"); a server must have it, "auto" takes any.
    max_model_len: prompt + completion; of a server, the least that it must have.
    processor: what vLLM's processor of pictures is told; a server has its own.
    lora: an adapter over fixed weights, which `sync_lora` takes. Without, `sync` takes whole (merged) weights.
    sleep: colocated, what `rest` gives back: 0 nothing, 1 or 2 the device's memory (see Colocated).
    options: keyword arguments of `vllm.LLM`, or of `mmrl.engines.vllm_pool.Pool`.
    tokenizer: the policy's, which a server's must equal; None: not compared.

    With top_p or top_k on, log-probs are those of the truncated distribution: what vLLM drew from is all it reports.
    """

    exact = False

    def __init__(
        self,
        path: str | Path,
        tokenizer: Any = None,
        *,
        mode: Literal["colocated", "server"] = "colocated",
        dtype: str = "auto",
        max_model_len: int | None = None,
        processor: Mapping[str, Any] | None = None,
        lora: bool = False,
        sleep: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.lora, self.dtype, self.version = lora, dtype, 0
        self._closed = False
        self._model = Model.of(path)
        self.shared = mode == "server"  # one engine for all processes
        self._backend: Backend
        if mode == "server":
            from mmrl.engines.vllm_pool import Pool

            if sleep:
                raise ValueError("vllm: sleep is for mode colocated; a server has its device for itself")
            _refuse_unknown(Pool, options or {})
            self._backend = Pool(lora=lora, model=self._model, dtype=dtype, tokenizer=tokenizer, **(options or {}))
        elif mode == "colocated":
            from mmrl.engines.vllm_colocated import Colocated

            told = {"mm_processor_kwargs": dict(processor)} if processor else {}
            every = told | dict(options or {})
            self._backend = Colocated(path, dtype, max_model_len, lora, self._model.perceives, sleep, every)
        else:
            raise ValueError(f"vllm: mode is {mode!r}; write colocated or server")
        if max_model_len is not None and self.max_model_len < max_model_len:
            self.close()
            raise ValueError(
                f"vllm: the server has --max-model-len {self.max_model_len}, and max_model_len is {max_model_len}; "
                "lower this one, or start the server with more"
            )

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and completion."""
        return self._backend.max_model_len

    @property
    def flows(self) -> bool:
        """Whether weights may change while completions are sampled, which go on with the new ones: of servers only."""
        return self._backend.flows

    @flows.setter
    def flows(self, on: bool) -> None:
        if not self.shared:
            raise ValueError("vllm: weights flow to servers only; set mode: server")
        self._backend.flows = on

    def meet(self, run: Holder, title: str, claims: bool) -> None:
        """Before a run does anything, on each of its processes: whose the servers are. run: the same on all; title:
        what it is called. claims: on the process that sends. Raises Taken where another run sends to one of them."""
        self._backend.meet(run, title, claims)

    def returned(self) -> bool:
        """Whether a server that was lost answers again, and needs a sync."""
        return self._backend.returned()

    def counts(self) -> dict[str, float]:
        """rollout/servers: those that get prompts now; rollout/asked_again: requests so far that a server lost."""
        return self._backend.counts()

    def generate(
        self, prompts: Sequence[Row | Tensor], n: int, sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """n completions of each prompt: one request per sample with its own seed; prompts share prefixes.

        prompts: ids [p] int64, or rows, whose pictures and sounds the engine processes itself. The same seeds repeat
        the same completions; another batch may change them by rounding alone.
        """
        rows = [Row.of(prompt) for prompt in prompts]
        self._check_request(rows, n, sampling, seeds)
        requests = [request for row, own in zip(rows, seeds) for request in _requests(row, own)]
        drawn = self._backend.sample(requests, sampling, adapted=self.lora and self.version > 0)
        for request, found in zip(requests, drawn):
            _check_read(request, found)
        completions = [_completion(d, sampling) for d in drawn]
        return [completions[i * n : (i + 1) * n] for i in range(len(prompts))]

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int, once: Once = here) -> None:
        """Take over all weights, by their names in the model's `state_dict` (LoRA merged), before the next rollout.

        once: what has a server's weights sent by one of the processes that sample from it (`Processes.once`).
        Raises RuntimeError without it where there are several. version: 1 or more.
        """
        if self.lora:
            raise RuntimeError("vllm: the engine runs with lora=True; give what saves the adapter to sync_lora")
        self._update(lambda: self._backend.load(lambda: self._model.sent(weights), version), version, once)

    def sync_lora(self, save: Save, version: int, once: Once = here) -> None:
        """Take over the adapter that `save` (`save_pretrained` of a PEFT model) writes. once: as for `sync`."""
        if not self.lora:
            raise RuntimeError("vllm: the engine runs with lora=False; give merged weights to sync, or set lora=True")
        self._update(lambda: self._backend.load_lora(save, version), version, once)

    def verify(
        self, completions: Sequence[Completion], low: Sequence[Tensor], high: Sequence[Tensor], tolerance: float
    ) -> float:
        """Largest |engine log-prob - trainer log-prob| over all tokens, in nats.

        low, high: [t] for each completion, from the trainer's forward at the same temperature and bans; equal where it
        knows more than a range.
        Raises EngineMismatch where the differences are not within the tolerance (see agreement), ValueError where
        shapes differ.
        """
        found = measure([c.logp for c in completions], low, high)
        if not found.within(tolerance):
            raise EngineMismatch(
                f"vLLM's log-probs differ from the trainer's by up to {found.largest:.3g} nats (99 % of the tokens by "
                f"up to {found.high:.3g}, tolerated are {tolerance:g}; their mean is {found.mean:.3g}, tolerated is a "
                f"quarter), most at token {found.token} of completion {found.completion}, version {self.version}. "
                "Likely causes: "
                + "; ".join(self._causes(found))
                + ". Where it is precision alone, set model.engine.tolerance"
            )
        return found.largest

    def rest(self) -> None:
        """Nothing will be sampled before the next sync; see `sleep`."""
        self._backend.rest()

    def close(self) -> None:
        """Give back the memory of an engine in this process; a server keeps running."""
        if not self._closed:
            self._backend.close()
        self._closed = True

    def _update(self, load: Callable[[], None], version: int, once: Once) -> None:
        if self.shared and once is here and _several_processes():
            raise RuntimeError(
                "vllm: several processes share the server, and each would send its weights while others sample; give "
                "sync the `once` of mmrl.training.processes.Processes"
            )
        if self.shared:
            once(load)
        else:
            load()
        self._backend.settle(version)
        self.version = version

    def _causes(self, found: Agreement) -> list[str]:
        precision = f"the engine computes in {self.dtype}: use the trainer's dtype, or a wider tolerance"
        weights = "the engine holds other weights: sync before the rollout, and send every weight"
        tied = f"the output head is tied to the embeddings and kept its old values: send {HEAD} with each sync"
        inputs = "the trainer scored another prompt (chat template, special tokens), temperature, bans, or top-p/top-k"
        kernels = "vLLM leaves a part of the model out (a soft cap, a window), or the trainer's attention does"
        tied_too = self._model.tied and self._model.has_head and not self.lora
        by_weights = [*([tied] if tied_too else []), weights, inputs, kernels]
        small = found.high < 0.1 and self.dtype != "float32"
        return [precision, *by_weights] if small else [*by_weights, precision]

    def _check_request(
        self, prompts: Sequence[Row], n: int, sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> None:
        if self._closed:
            raise RuntimeError("vllm: the engine is closed")
        if sampling.annealing:
            raise ValueError("vllm: annealing is not supported, one temperature holds for a request; use transformers")
        low, high = TEMPERATURES
        if sampling.temperature != 0 and not low <= sampling.temperature <= high:
            raise ValueError(f"vllm: temperature is {sampling.temperature}; write 0, or from {low} to {high}")
        if len(seeds) != len(prompts) or any(len(row) != n for row in seeds):
            raise ValueError(f"vllm: {len(prompts)} prompts x {n} samples need one seed each")
        longest = max((len(prompt) for prompt in prompts), default=0)
        if longest + sampling.max_tokens > self._backend.max_model_len:
            raise ValueError(
                f"vllm: a prompt of {longest} tokens + max_tokens {sampling.max_tokens} exceeds max_model_len "
                f"{self._backend.max_model_len}; raise max_model_len, or shorten one of them"
            )
        if set(sampling.stop_ids) & set(sampling.banned):
            raise ValueError(f"vllm: stop ids {set(sampling.stop_ids) & set(sampling.banned)} are banned, nothing ends")


def _requests(row: Row, seeds: Sequence[int]) -> list[Request]:
    short = collapse(row.ids, row.media) if row.media else row.ids
    ids, read = short.tolist(), row.ids.tolist()
    return [Request(ids, row.media, read, seed & (2**63 - 1)) for seed in seeds]


def _check_read(request: Request, drawn: Drawn) -> None:
    if drawn.read != request.read:
        raise RuntimeError(
            f"vllm: its processor made {len(drawn.read)} ids of a prompt with {len(request.media)} pictures and sounds "
            f"of which the policy's makes {len(request.read)}, or others; both must have the same processor and the "
            "same sizes of pictures (mm_processor_kwargs sets vLLM's, --mm-processor-kwargs a server's)"
        )


def _completion(drawn: Drawn, sampling: Sampling) -> Completion:
    if len(drawn.ids) != len(drawn.logp) or not drawn.ids or not all(map(math.isfinite, drawn.logp)):
        raise RuntimeError(f"vllm: {len(drawn.ids)} tokens came back with log-probs {drawn.logp[:8]} ...; not usable")
    if forbidden := set(drawn.ids) & set(sampling.banned):
        raise RuntimeError(f"vllm: sampled the banned ids {sorted(forbidden)}, which it was told to mask")
    if drawn.versions is not None and len(drawn.versions) != len(drawn.ids):
        raise RuntimeError(f"vllm: {len(drawn.ids)} tokens came back with the versions of {len(drawn.versions)}")
    stop = "eos" if drawn.stopped else "length"
    logp = torch.tensor(drawn.logp, dtype=torch.float32)
    versions = None if drawn.versions is None else torch.tensor(drawn.versions)
    return Completion(torch.tensor(drawn.ids), logp, stop, versions=versions)


def _refuse_unknown(backend: Any, options: Mapping[str, Any]) -> None:
    known = [name for name in inspect.signature(backend).parameters if name not in GIVEN]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"vllm: a server has no option {', '.join(unknown)}; it has: {', '.join(known)}")


def _several_processes() -> bool:
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1
