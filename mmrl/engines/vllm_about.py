"""What a `vllm serve` says of itself: refused at the start where it is not one that this run can sample from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmrl.engines.http_client import Client, ServerError
from mmrl.engines.remote import PROBE
from mmrl.engines.vllm_model import Model, differences


class Served(NamedTuple):
    """The model that a server serves. root: the folder or hub name that it was started with."""

    name: str
    max_model_len: int
    root: str


@dataclass(frozen=True)
class About:
    """What must be alike among the servers of a run; None: not told. tokens: what its tokenizer makes of PROBE."""

    served: Served
    version: str | None
    dtype: str | None
    transfer: str | None
    tokens: tuple[int, ...] | None


def served(http: Client) -> Served:
    """What a server serves. Raises ServerError where it is not vLLM, or cannot be reached."""
    answer = http.get("/v1/models")
    name, longest, root = (answer.at("data", 0, key) for key in ("id", "max_model_len", "root"))
    return Served(str(name), int(longest), str(root))


def about(http: Client, lora: bool, transfer: str) -> About:
    """lora, transfer: how weights are to get there, see Pool. Raises ServerError where it was started in a way that
    this run cannot use."""
    there = served(http)
    try:
        info = http.get("/server_info?config_format=json")
    except ServerError as error:
        raise ServerError(f"{error}. Start the server with VLLM_SERVER_DEV_MODE=1: syncs need its endpoints") from None
    if (mode := info.at("vllm_config", "model_config", "logprobs_mode")) != "processed_logprobs":
        raise ServerError(f"vllm: the server runs with {mode}; start it with --logprobs-mode processed_logprobs")
    try:  # without the flag the route is there, and forbidden
        http.post("/inference/v1/generate")
    except ServerError as error:
        if error.status in (403, 404):
            raise ServerError(
                f"vllm: {http.url} takes no ids (/inference/v1/generate); start it with --enable-scale-out"
            ) from None
        if error.status not in (400, 422):  # what it says to a request of nothing
            raise
    for route in ("/pause", "/resume", "/update_weight_version", "/reset_prefix_cache", *_sending(lora, transfer)):
        _refuse_without(http, route, "vLLM 0.32 or 0.33, and VLLM_SERVER_DEV_MODE=1")
    if lora and info.at("vllm_config", "lora_config") is None:
        raise ServerError("vllm: the server runs without --enable-lora, and the engine with lora=True")
    if lora:
        _refuse_without(http, "/v1/load_lora_adapter", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1")
    dtype = info.maybe("vllm_config", "model_config", "dtype")
    return About(
        there,
        _maybe(lambda: http.get("/version").at("version")),
        None if dtype is None else str(dtype).removeprefix("torch."),
        info.maybe("vllm_config", "weight_transfer_config", "backend"),
        _tokens(http, there.name),
    )


def refuse_other_model(url: str, found: About, model: Model, dtype: str, tokenizer: Any) -> None:
    """Weights of another shape would break the server for all who use it, so this comes before any are sent.

    dtype: that the engine is to have; "auto" for any. tokenizer: the policy's; None: not compared.
    Raises ServerError.
    """
    root = found.served.root
    try:
        theirs = Model.of(root, only_here=True)
    except (OSError, ValueError):
        warnings.warn(
            f"vllm: {url} serves {root!r}, whose config cannot be read here: its shape is not compared with the "
            "policy's",
            stacklevel=2,
        )
    else:
        if wrong := differences(model.shape, theirs.shape):
            raise ServerError(
                f"vllm: {url} serves {root!r}, a model of another shape ({', '.join(wrong[:4])}); start it with this "
                "run's model.path"
            )
    if found.dtype is not None and dtype not in ("auto", found.dtype):
        raise ServerError(
            f"vllm: {url} computes in {found.dtype}, and the engine's dtype is {dtype}; start it with --dtype {dtype}, "
            f"or set model.engine.options.dtype to {found.dtype}"
        )
    if found.tokens is not None and tokenizer is not None and found.tokens != _ids(tokenizer):
        raise ServerError(f"vllm: {url} has another tokenizer than the policy; start it with this run's model.path")


def refuse_difference(first: str, one: About, url: str, other: About) -> None:
    """Raises ServerError where `url` is not as the server `first`; what one of them does not tell is not compared."""
    told = {
        "vLLM": (one.version, other.version),
        "dtype": (one.dtype, other.dtype),
        "--weight-transfer-config": (one.transfer or "none", other.transfer or "none"),
        "--max-model-len": (one.served.max_model_len, other.served.max_model_len),
        "the model name": (one.served.name, other.served.name),
        "the tokenizer's ids of a text": (one.tokens, other.tokens),
    }
    for what, (here, there) in told.items():
        if here is not None and there is not None and here != there:
            values = "" if isinstance(here, tuple) else f" ({here} and {there})"
            raise ServerError(f"vllm: {first} and {url} differ in {what}{values}; start all servers of a run alike")


def _sending(lora: bool, transfer: str) -> tuple[str, ...]:
    """Routes by which weights get there."""
    if lora:
        return ()
    return ("/collective_rpc",) if transfer == "file" else ("/init_weight_transfer_engine", "/start_weight_update")


def _refuse_without(http: Client, route: str, hint: str) -> None:
    """Raise ServerError where nothing answers to a route that is posted to later."""
    try:
        http.get(route)
    except ServerError as error:
        if error.status == 404:
            raise ServerError(f"vllm: {http.url} has no route {route}; start it with {hint}") from None
        if error.status is None:
            raise


def _tokens(http: Client, name: str) -> tuple[int, ...] | None:
    body = {"model": name, "prompt": PROBE, "add_special_tokens": False}
    found = _maybe(lambda: http.post("/tokenize", body).at("tokens"))
    return None if found is None else tuple(found)


def _ids(tokenizer: Any) -> tuple[int, ...]:
    return tuple(tokenizer(PROBE, add_special_tokens=False).input_ids)


def _maybe(ask: Any) -> Any:
    """What a route says that a server need not have."""
    try:
        return ask()
    except ServerError:
        return None
