"""A client of `vllm serve`: token ids and JSON over HTTP; weights go through a folder that both sides see."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from mmrl.engines.base import Sampling
from mmrl.engines.vllm_wire import Drawn, Request, Save, write_lora

ADAPTER = "policy"
BIAS = -1e30  # JSON has no infinity


class ServerError(RuntimeError):
    """The server refused, failed or could not be reached; the message holds its own words."""


class Server:
    """Talks to a `vllm serve` that somebody else started, with VLLM_SERVER_DEV_MODE=1, `--enable-scale-out` and
    `--logprobs-mode processed_logprobs` (and, for LoRA, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and `--enable-lora`).

    sees: whether the model reads pictures. url: where it listens.
    folder: where weights and adapters are written for it; the server must see the same path. None is a temporary
    folder, for a server on this machine.
    concurrency: requests in flight. timeout: seconds for one request. Requests are not repeated: a server that
    came back after a crash holds other weights. A key in the environment variable VLLM_API_KEY is sent along.
    """

    def __init__(
        self,
        *,
        lora: bool,
        sees: bool,
        url: str = "http://localhost:8000",
        folder: str | Path | None = None,
        concurrency: int = 64,
        timeout: float = 600.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"vllm: url is {url!r}; write http://host:port")
        self._url, self._timeout = url.rstrip("/"), timeout
        self._own_folder = folder is None
        self._folder = Path(folder) if folder else Path(tempfile.mkdtemp(prefix="mmrl-vllm-"))
        self._written: Path | None = None
        self._lora, self._sees = lora, sees
        served = self._get("/v1/models")["data"][0]
        self._model: str = served["id"]
        self.max_model_len: int = served["max_model_len"]
        self._check_mode()
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="vllm")

    def sample(self, requests: Sequence[Request], sampling: Sampling, adapted: bool) -> list[Drawn]:
        # Everything is said: what is left out takes the server's default, which generation_config.json may change.
        params = {
            "n": 1,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "max_tokens": sampling.max_tokens,
            "stop_token_ids": list(sampling.stop_ids),
            "ignore_eos": True,
            "logit_bias": {str(i): BIAS for i in sampling.banned} or None,
            "logprobs": 0,
            "detokenize": False,
        }
        model = ADAPTER if adapted else self._model
        pictures = {shown.key: shown for request in requests for shown in request.media}
        urls = {key: _url(shown.image) for key, shown in pictures.items()}

        def one(request: Request) -> Drawn:
            body = {
                "model": model,
                "token_ids": request.ids,
                "content_parts": [{"type": "image_url", "url": urls[shown.key]} for shown in request.media] or None,
                "sampling_params": params | {"seed": request.seed},
                "return_token_ids": True,
            }
            return _drawn(self._post("/inference/v1/generate", body))

        return list(self._pool.map(one, requests))

    def load(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        from safetensors.torch import save_file

        target = self._folder / f"version_{version}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        # A copy of each: safetensors refuses tensors that share memory, as a tied head does.
        save_file(
            {name: weight.cpu().contiguous().clone() for name, weight in weights},
            target / "model.safetensors",
            metadata={"format": "pt"},
        )
        self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(target.resolve())}})
        self._forget()
        self._keep_only(target)

    def load_lora(self, save: Save, version: int) -> None:
        target = self._folder / f"lora_{version}"
        path = write_lora(save, target)
        self._post("/v1/load_lora_adapter", {"lora_name": ADAPTER, "lora_path": path, "load_inplace": True})
        self._forget()
        self._keep_only(target)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._own_folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _keep_only(self, written: Path) -> None:
        if self._written not in (None, written):
            shutil.rmtree(self._written)
        self._written = written

    def _forget(self) -> None:
        """Drop what the old weights made: prefixes, and features of pictures."""
        if not self._post("/reset_prefix_cache", {})["success"]:
            raise ServerError("vllm: the server could not drop prefixes of the old weights; are others using it?")
        if self._sees:
            self._post("/reset_encoder_cache", {})

    def _check_mode(self) -> None:
        try:
            info = self._get("/server_info?config_format=json")
        except ServerError as error:
            raise ServerError(
                f"{error}\nStart the server with VLLM_SERVER_DEV_MODE=1: syncs need its endpoints"
            ) from None
        mode = info["vllm_config"]["model_config"]["logprobs_mode"]
        if mode != "processed_logprobs":
            raise ServerError(f"vllm: the server runs with {mode}; start it with --logprobs-mode processed_logprobs")
        if self._lora and info["vllm_config"]["lora_config"] is None:
            raise ServerError("vllm: the server runs without --enable-lora, and the engine with lora=True")

    def _get(self, path: str) -> Any:
        return self._call(urllib.request.Request(self._url + path))

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        return self._call(urllib.request.Request(self._url + path, json.dumps(body).encode(), headers))

    def _call(self, request: urllib.request.Request) -> Any:
        if key := os.environ.get("VLLM_API_KEY"):
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            words = error.read().decode(errors="replace")[:2000]
            raise ServerError(f"vllm: {request.full_url} answered {error.code}: {words}") from error
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise ServerError(f"vllm: {request.full_url} cannot be reached: {error}") from error
        # The LoRA endpoint answers in words, collective_rpc sometimes with nothing.
        return json.loads(text) if text.startswith("{") else text


def _url(image: Any) -> str:
    """A picture in a text, without loss."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _drawn(answer: dict[str, Any]) -> Drawn:
    choice = answer["choices"][0]
    if choice["finish_reason"] not in ("stop", "length"):
        raise ServerError(f"vllm: a request ended with {choice['finish_reason']!r}")
    logp = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    return Drawn(choice["token_ids"], logp, choice["finish_reason"] == "stop", answer["prompt_token_ids"])
