"""vLLM inside the training process: weights change hands as tensors, nothing is written."""

from __future__ import annotations

import gc
import importlib.util
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrl.engines.base import Sampling
from mmrl.engines.folders import WeightsFolder
from mmrl.engines.holding import Holder
from mmrl.engines.vllm_wire import Drawn, Request, Save, write_lora
from mmrl.media import SOUND_RATE, Heard

DEFAULTS = {"use_tqdm_on_load": False}
# A prompt that is read in parts rewinds its generator, which PyTorch's on a CPU cannot.
CPU_DEFAULTS = {"enforce_eager": True, "kv_cache_memory_bytes": 256 << 20, "enable_chunked_prefill": False}
MEMORY = ("weights", "kv_cache")  # vLLM's names of what sleeps
OURS = {
    "model",
    "dtype",
    "max_model_len",
    "enable_lora",
    "logprobs_mode",
    "skip_tokenizer_init",
    "enable_sleep_mode",
    "distributed_executor_backend",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
}


class Colocated:
    """One `vllm.LLM` in this process, on one device. Where a launcher started several processes, one in each.

    perceives: whether the model reads pictures or sounds. sleep: between rollouts its memory is the trainer's: 1 keeps
    the weights in the CPU's memory, 2 drops them, 0 stays awake.
    The global random states of torch, NumPy and Python are as before after each call: vLLM seeds and draws from them.
    """

    flows = False

    def __init__(
        self,
        path: str | Path,
        dtype: str,
        max_model_len: int | None,
        lora: bool,
        perceives: bool,
        sleep: int,
        options: dict[str, Any],
    ) -> None:
        _check(options, sleep, lora)
        self._launched = _in_a_group()
        options = DEFAULTS | ({} if torch.cuda.is_available() else CPU_DEFAULTS) | options
        options |= {"enable_sleep_mode": True} if sleep else {}
        # An engine for each process of the launcher's group, which vLLM would otherwise set up itself.
        options |= {"distributed_executor_backend": "external_launcher"} if self._launched else {}
        # Read when vllm is imported. Without its own process the engine takes tensors, not files.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        for name, value in {"CPU_OMP_THREADS_BIND": "nobind", "NO_USAGE_STATS": "1", "LOGGING_LEVEL": "ERROR"}.items():
            os.environ.setdefault(f"VLLM_{name}", value)
        with _untouched_random_state():
            from vllm import LLM

            self._llm: Any = LLM(
                model=str(path),
                dtype=dtype,
                max_model_len=max_model_len,
                enable_lora=lora,
                logprobs_mode="processed_logprobs",
                skip_tokenizer_init=not perceives,  # processors of media have one
                **options,
            )
        self.perceives, self._sleep = perceives, sleep
        self._asleep: set[str] = set()  # of MEMORY
        self.max_model_len: int = self._llm.llm_engine.model_config.max_model_len
        self._adapter: Any = None
        self._folder = WeightsFolder()

    def sample(self, requests: Sequence[Request], sampling: Sampling, adapted: bool) -> list[Drawn]:
        from vllm import SamplingParams

        if "weights" in self._asleep and self._sleep == 2:
            raise RuntimeError("vllm: weights were dropped when the engine went to sleep; sync before generating")
        self._wake(*MEMORY)
        # Straight to the class: `from_optional` would lift the bias to -100.
        banned = dict.fromkeys(sampling.banned, float("-inf")) or None
        params = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_tokens,
                seed=request.seed,
                logprobs=0,
                stop_token_ids=list(sampling.stop_ids),
                ignore_eos=True,  # the ids of generation_config.json are not ours
                logit_bias=banned,
                detokenize=False,
            )
            for request in requests
        ]
        adapter = self._adapter if adapted else None
        with _untouched_random_state(), _no_autocast():
            outputs = self._llm.generate(
                [_prompt(request) for request in requests], params, use_tqdm=False, lora_request=adapter
            )
        return [_drawn(output) for output in outputs]

    def load(self, weights: Callable[[], Iterator[tuple[str, Tensor]]], version: int) -> None:
        # Prefixes get their room last: while weights are loaded there may be none for both.
        self._wake("weights")
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights()})
        self._wake("kv_cache")
        self._forget()

    def load_lora(self, save: Save, version: int) -> None:
        from vllm.lora.request import LoRARequest

        self._wake(*MEMORY)
        path = write_lora(save, self._folder.empty("lora"))
        # Loaded once here; a request that says load_inplace would read the files again for each sample.
        self._llm.llm_engine.add_lora(LoRARequest("policy", 1, path, load_inplace=True))
        self._adapter = LoRARequest("policy", 1, path)
        self._forget()

    def meet(self, run: Holder, title: str, claims: bool) -> None:
        """Nothing: nobody else can send weights here."""

    def settle(self, version: int) -> None:
        """Nothing: nobody else sends weights here."""

    def returned(self) -> bool:
        """There is no server."""
        return False

    def counts(self) -> dict[str, float]:
        """There is no server."""
        return {}

    def rest(self) -> None:
        """Give the device's memory to the trainer until the next sync."""
        if self._sleep and not self._asleep:
            self._llm.sleep(level=self._sleep)
            self._asleep = set(MEMORY)

    def close(self) -> None:
        if self._llm is not None:
            _shut_down(self._llm.llm_engine.engine_core, self._launched)
            self._llm = None
            self._folder.close()

    def _wake(self, *tags: str) -> None:
        if wanted := [tag for tag in tags if tag in self._asleep]:
            self._llm.wake_up(tags=wanted)
            self._asleep -= set(wanted)

    def _forget(self) -> None:
        """Drop what the old weights made: prefixes, and features of media."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vllm: prefixes computed with the old weights could not be dropped; requests still run")
        if self.perceives:
            self._llm.llm_engine.engine_core.reset_encoder_cache()


def _check(options: dict[str, Any], sleep: int, lora: bool) -> None:
    if importlib.util.find_spec("vllm") is None:
        raise ImportError("engine vllm needs vLLM; run: pip install 'mmrl[vllm]'")
    if taken := OURS & set(options):
        raise ValueError(f"vllm: options {sorted(taken)} are set by mmrl; an engine on several devices is a server")
    if sleep not in (0, 1, 2):
        raise ValueError(f"vllm: sleep is {sleep!r}; write 0, 1 (weights are kept in the CPU's memory) or 2 (dropped)")
    if sleep == 2 and lora:
        raise ValueError("vllm: sleep: 2 drops the base weights, which lora: true never sends again; write sleep: 1")
    if sleep and not torch.cuda.is_available():
        raise ValueError("vllm: sleep gives back a GPU's memory, and there is none here; leave it out")
    if torch.distributed.is_available() and torch.distributed.is_initialized() and "RANK" not in os.environ:
        raise RuntimeError("vllm: another engine of this process is open; close it first, or use mode: server")


def _in_a_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _shut_down(core: Any, launched: bool) -> None:
    """End an engine. In a launcher's process group vLLM's own way would end the trainer's group with it."""
    if not launched:
        core.shutdown()
        return
    from vllm.distributed.parallel_state import destroy_model_parallel

    core._finalizer.detach()  # would do it the other way when the engine is collected
    core.engine_core.model_executor.shutdown()
    core.engine_core.scheduler.shutdown()
    destroy_model_parallel()
    gc.unfreeze()
    gc.collect()


def _prompt(request: Request) -> dict[str, Any]:
    seen = [shown.image for shown in request.media if not isinstance(shown.media, Heard)]
    heard = [(shown.image, SOUND_RATE) for shown in request.media if isinstance(shown.media, Heard)]
    media = {**({"image": seen} if seen else {}), **({"audio": heard} if heard else {})}
    return {"prompt_token_ids": request.ids, **({"multi_modal_data": media} if media else {})}


def _drawn(answer: Any) -> Drawn:
    output = answer.outputs[0]
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vllm: a request ended with {output.finish_reason!r}")
    ids = list(output.token_ids)
    logp = [entry[token].logprob for entry, token in zip(output.logprobs, ids)]
    return Drawn(ids, logp, output.finish_reason == "stop", list(answer.prompt_token_ids))


def _no_autocast() -> torch.autocast:
    """The engine computes in its own dtype, also where the caller's forward is in mixed precision."""
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", enabled=False)


@contextmanager
def _untouched_random_state() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
