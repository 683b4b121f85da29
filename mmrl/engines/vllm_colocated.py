"""vLLM inside the training process: weights change hands as tensors, nothing is written."""

from __future__ import annotations

import importlib.util
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrl.engines.base import Sampling
from mmrl.engines.vllm_wire import Drawn, Request, Save, write_lora

DEFAULTS = {"use_tqdm_on_load": False}
# A prompt that is read in parts rewinds its generator, which PyTorch's on a CPU cannot.
CPU_DEFAULTS = {"enforce_eager": True, "kv_cache_memory_bytes": 256 << 20, "enable_chunked_prefill": False}
OURS = {
    "model",
    "dtype",
    "max_model_len",
    "enable_lora",
    "logprobs_mode",
    "skip_tokenizer_init",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
}


class Colocated:
    """One `vllm.LLM` in this process, on one device.

    sees: whether the model reads pictures.
    The global random states of torch, NumPy and Python are as before after each call: vLLM seeds and draws from them.
    """

    def __init__(
        self,
        path: str | Path,
        dtype: str,
        max_model_len: int | None,
        lora: bool,
        sees: bool,
        options: dict[str, Any],
    ) -> None:
        _check(options)
        options = DEFAULTS | ({} if torch.cuda.is_available() else CPU_DEFAULTS) | options
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
                skip_tokenizer_init=not sees,  # processors of pictures have one
                **options,
            )
        self.sees = sees
        self.max_model_len: int = self._llm.llm_engine.model_config.max_model_len
        self._adapter: Any = None
        self._place = tempfile.TemporaryDirectory(prefix="mmrl-vllm-")

    def sample(self, requests: Sequence[Request], sampling: Sampling, adapted: bool) -> list[Drawn]:
        from vllm import SamplingParams

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

    def load(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._forget()

    def load_lora(self, save: Save, version: int) -> None:
        from vllm.lora.request import LoRARequest

        path = write_lora(save, Path(self._place.name) / "lora")
        # Loaded once here; a request that says load_inplace would read the files again for each sample.
        self._llm.llm_engine.add_lora(LoRARequest("policy", 1, path, load_inplace=True))
        self._adapter = LoRARequest("policy", 1, path)
        self._forget()

    def close(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            self._place.cleanup()

    def _forget(self) -> None:
        """Drop what the old weights made: prefixes, and features of pictures."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vllm: prefixes computed with the old weights could not be dropped; requests still run")
        if self.sees:
            self._llm.llm_engine.engine_core.reset_encoder_cache()


def _check(options: dict[str, Any]) -> None:
    if importlib.util.find_spec("vllm") is None:
        raise ImportError("engine vllm needs vLLM; run: pip install 'mmrl[vllm]'")
    if taken := OURS & set(options):
        raise ValueError(f"vllm: options {sorted(taken)} are set by mmrl; an engine on several devices is a server")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise RuntimeError(
            "vllm: mode colocated needs the process group of its process for itself, and a launcher or another engine "
            "holds it; train in one process with one engine, or use mode: server"
        )


def _prompt(request: Request) -> dict[str, Any]:
    pictures = [shown.image for shown in request.media]
    return {"prompt_token_ids": request.ids, **({"multi_modal_data": {"image": pictures}} if pictures else {})}


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
