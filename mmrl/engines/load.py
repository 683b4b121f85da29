"""From the `engine:` section of a config to an engine; the chosen one alone is imported."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmrl.engines.transformers import TransformersEngine
    from mmrl.engines.vllm import VllmEngine

ASK_S = 2.0  # that a server may take to say what it serves
ENGINES = ("transformers", "vllm")


def load_engine(
    config: Mapping[str, Any], model: Any, tokenizer: Any, path: str | Path | None
) -> TransformersEngine | VllmEngine:
    """The engine named by config["name"] ("transformers" where none is), with the section's other keys as its options.

    model: the policy, which `transformers` samples from directly. path: a folder or hub name that holds the same
    policy with its config, which `vllm` loads. tokenizer: ids go in and come out, but a server must have the same.
    Raises ValueError for an unknown engine or option, or a vllm engine without a path; ImportError without vLLM.
    """
    options = dict(config)
    name = options.pop("name", "transformers")
    if name == "transformers":
        from mmrl.engines.transformers import TransformersEngine

        return _make(TransformersEngine, name, (model,), options)
    if name == "vllm":
        from mmrl.engines.vllm import VllmEngine

        if path is None:
            raise ValueError("engine vllm loads the policy from a folder; save the model there and set its path")
        return _make(VllmEngine, name, (path, tokenizer), options)
    raise ValueError(f"engine {name!r} is unknown; there are: {', '.join(ENGINES)}")


def longest_row(config: Mapping[str, Any]) -> int | None:
    """Tokens of a row, prompt and completion, that the engine named by config["name"] will take, as far as that can be
    known before it is there: what the section says, or what a server that runs already says. None: not known, or all
    that the model takes. Raises ValueError for options that are none.
    """
    if config.get("name", "transformers") != "vllm":
        return None
    if config.get("max_model_len") is not None:
        return int(config["max_model_len"])
    if config.get("mode") != "server":
        return None
    from mmrl.engines.http_client import Client, ServerError
    from mmrl.engines.remote import check_options
    from mmrl.engines.vllm_about import served
    from mmrl.engines.vllm_server import URL

    options = dict(config.get("options") or {})
    check_options("vllm", options)
    url = options.get("url", URL)
    try:
        return min(served(Client(each, ASK_S)).max_model_len for each in ([url] if isinstance(url, str) else url))
    except ServerError:  # an evaluation needs none, and a training says so itself when it starts the engine
        return None


def _make(engine: Any, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    known = [p.name for p in inspect.signature(engine).parameters.values()][len(arguments) :]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"engine {name} has no option {', '.join(unknown)}; it has: {', '.join(known) or 'none'}")
    return engine(*arguments, **options)
