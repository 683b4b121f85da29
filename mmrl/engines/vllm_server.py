"""A client of `vllm serve`: token ids and JSON over HTTP; weights go through a folder that both sides see."""

from __future__ import annotations

import base64
import io
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mmrl.engines.base import Sampling
from mmrl.engines.folders import WeightsFolder
from mmrl.engines.view import Shown
from mmrl.engines.vllm_http import Answer, Client, ServerError
from mmrl.engines.vllm_model import Model, differences
from mmrl.engines.vllm_wire import Drawn, Request, Save, write_lora
from mmrl.media import SOUND_RATE, Heard

ADAPTER = "policy"
BIAS = -1e30  # JSON has no infinity
URL, TIMEOUT_S = "http://localhost:8000", 600.0


class StaleWeights(ServerError):
    """The server sampled with other weights than those of this run's last sync."""


class Server:
    """Talks to a `vllm serve` that somebody else started, with VLLM_SERVER_DEV_MODE=1, `--enable-scale-out` and
    `--logprobs-mode processed_logprobs` (and, for LoRA, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and `--enable-lora`).

    model: the policy's, which the server's must have the shape of. url: where it listens.
    folder: where weights and adapters are written for it; the server must see the same path. None is the temporary
    folder, for a server on this machine.
    concurrency: requests in flight. timeout: seconds for one request.

    Each sync writes its mark on the server as its weight version, which comes back with every completion.
    """

    def __init__(
        self,
        *,
        lora: bool,
        model: Model,
        url: str = URL,
        folder: str | Path | None = None,
        concurrency: int = 64,
        timeout: float = TIMEOUT_S,
    ) -> None:
        self._http = Client(url, timeout)
        self._folder = WeightsFolder(folder)
        self._lora, self._perceives = lora, model.perceives
        there = served(self._http)
        self._name, self.max_model_len = there.name, there.max_model_len
        self._check()
        _check_shape(self._http.url, model, there.root)
        self._run = uuid.uuid4().hex[:12]
        self._holds = self._version()
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
        model = ADAPTER if adapted else self._name
        media = {shown.key: shown for request in requests for shown in request.media}
        parts = {key: _part(shown) for key, shown in media.items()}

        def one(request: Request) -> Drawn:
            body = {
                "model": model,
                "token_ids": request.ids,
                "content_parts": [parts[shown.key] for shown in request.media] or None,
                "sampling_params": params | {"seed": request.seed},
                "return_token_ids": True,
            }
            answer = self._http.post("/inference/v1/generate", body)
            self._check_held({span["version"] for span in answer.at("choices", 0, "weight_versions") or ()})
            return _drawn(answer)

        return list(self._pool.map(one, requests))

    def load(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        from safetensors.torch import save_file

        target = self._folder.empty(f"version_{version}")
        # A copy of each: safetensors refuses tensors that share memory, as a tied head does.
        save_file(
            {name: weight.cpu().contiguous().clone() for name, weight in weights},
            target / "model.safetensors",
            metadata={"format": "pt"},
        )
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(target.resolve())}}
        self._send(version, lambda: self._http.post("/collective_rpc", body))
        self._folder.keep_only(target)

    def load_lora(self, save: Save, version: int) -> None:
        target = self._folder.empty(f"lora_{version}")
        path = write_lora(save, target)
        body = {"lora_name": ADAPTER, "lora_path": path, "load_inplace": True}
        self._send(version, lambda: self._http.post("/v1/load_lora_adapter", body))
        self._folder.keep_only(target)

    def settle(self) -> None:
        """Remember which weights the server holds; every process calls it when one of them has sent."""
        self._holds = self._version()

    def rest(self) -> None:
        """Nothing: a server has its device for itself."""

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._folder.close()

    def _send(self, version: int, load: Callable[[], object]) -> None:
        """The mark is another one as soon as the weights may be: what others sample meanwhile is seen as not theirs."""
        mark = f"mmrl {self._run} {version}"
        self._http.post("/update_weight_version", {"new_version": f"{mark}, loading"})
        load()
        self._forget()
        self._http.post("/update_weight_version", {"new_version": mark})
        if (held := self._version()) != mark:
            raise StaleWeights(f"vllm: {self._http.url} holds {held!r} right after {mark!r} was sent. {_ALONE}")

    def _check_held(self, versions: set[str]) -> None:
        if versions != {self._holds}:
            other = ", ".join(sorted(versions - {self._holds})) or "of no version"
            raise StaleWeights(
                f"vllm: {self._http.url} sampled with weights {other!r} where this run's last sync is "
                f"{self._holds!r}: it was started anew (then they are 'default'), or another run sends to it. {_ALONE}"
            )

    def _version(self) -> str:
        return str(self._http.get("/weight_info").at("weight_version"))

    def _forget(self) -> None:
        """Drop what the old weights made: prefixes, and features of media."""
        if not self._http.post("/reset_prefix_cache", {}).at("success"):
            raise ServerError("vllm: the server could not drop prefixes of the old weights; are others using it?")
        if self._perceives:
            self._http.post("/reset_encoder_cache", {})

    def _check(self) -> None:
        try:
            info = self._http.get("/server_info?config_format=json")
        except ServerError as error:
            raise ServerError(
                f"{error}. Start the server with VLLM_SERVER_DEV_MODE=1: syncs need its endpoints"
            ) from None
        if (mode := info.at("vllm_config", "model_config", "logprobs_mode")) != "processed_logprobs":
            raise ServerError(f"vllm: the server runs with {mode}; start it with --logprobs-mode processed_logprobs")
        if self._lora and info.at("vllm_config", "lora_config") is None:
            raise ServerError("vllm: the server runs without --enable-lora, and the engine with lora=True")


_ALONE = "Give each run a server of its own that stays up, and go on from the last checkpoint (--resume)"


class Served(NamedTuple):
    """The model that a server serves. root: the folder or hub name that it was started with."""

    name: str
    max_model_len: int
    root: str


def served(http: Client) -> Served:
    """What a server serves. Raises ServerError where it is not vLLM, or cannot be reached."""
    answer = http.get("/v1/models")
    name, longest, root = (answer.at("data", 0, key) for key in ("id", "max_model_len", "root"))
    return Served(str(name), int(longest), str(root))


def _check_shape(url: str, model: Model, root: str) -> None:
    """Weights of another shape would break the server for all who use it, so this comes before any are sent."""
    try:
        theirs = Model.of(root, only_here=True)
    except (OSError, ValueError):
        warnings.warn(
            f"vllm: {url} serves {root!r}, whose config cannot be read here: its shape is not compared with the "
            "policy's",
            stacklevel=2,
        )
        return
    if wrong := differences(model.shape, theirs.shape):
        raise ServerError(
            f"vllm: {url} serves {root!r}, a model of another shape ({', '.join(wrong[:4])}); start it with this run's "
            "model.path"
        )


def _part(shown: Shown) -> dict[str, str]:
    """A picture or a sound in a text, without loss."""
    file = io.BytesIO()
    if isinstance(shown.media, Heard):
        import soundfile

        soundfile.write(file, shown.image, SOUND_RATE, "FLOAT", format="WAV")
        kind, content = "audio", "audio/wav"
    else:
        shown.image.save(file, "PNG")
        kind, content = "image", "image/png"
    coded = base64.b64encode(file.getvalue()).decode("ascii")
    return {"type": f"{kind}_url", "url": f"data:{content};base64,{coded}"}


def _drawn(answer: Answer) -> Drawn:
    reason = answer.at("choices", 0, "finish_reason")
    if reason not in ("stop", "length"):
        raise ServerError(f"vllm: a request ended with {reason!r}")
    logp = [entry["logprob"] for entry in answer.at("choices", 0, "logprobs", "content")]
    return Drawn(answer.at("choices", 0, "token_ids"), logp, reason == "stop", answer.at("prompt_token_ids"))
