"""From a word to a judge: a baseline, a run or a checkpoint, a reward's name, or the address of a server."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mmrl.config import ConfigError
from mmrl.judging.base import Comparer, Scorer
from mmrl.judging.baselines import BASELINES
from mmrl.judging.models import of_model
from mmrl.judging.scalar import ScalarModel, scalar_folder
from mmrl.judging.words import FORMS
from mmrl.near import near, short
from mmrl.rewarding.load import RewardError, available, load_reward
from mmrl.share import resolve

MAX_PIXELS = 50_000_000  # of a picture that is opened


def open_judge(spec: str, **options: Any) -> Scorer | Comparer:
    """The judge that `spec` names.

    "first", "longest", "random": baselines, without options. A run's folder, or a checkpoint's: a Scorer where the
    model has a scalar head (`of_scalar`), otherwise a Comparer (models.of_model). http(s)://...: a chat endpoint where
    the option `model` names what it serves (`of_chat`), otherwise a server of scores: the reward remote.score, or that
    of the option `protocol`, with its options. A reward's name, as configs have it: a Scorer; options are the reward's.
    Raises ConfigError for anything else, and for an option that this judge does not have.
    """
    if spec in BASELINES:
        _known(spec, lambda: None, options)
        return BASELINES[spec]()
    if spec.startswith(("http://", "https://")):
        opened: Callable[..., Scorer | Comparer] = of_chat
        if "model" not in options:
            return _of_server(spec, **options)
    elif (folder := resolve(spec)).is_dir():
        spec, opened = str(folder), of_scalar if scalar_folder(folder) else of_model
    else:
        return _of_reward(spec, options)
    _known(spec, opened, options)
    try:
        return opened(spec, **options)
    except (ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"judge {short(spec)}: {error}") from error


def of_scalar(folder: str, *, normalise: bool = False, device: str = "auto", batch: int = 16_384) -> Scorer:
    """A model with a scalar head: see mmrl.judging.scalar.ScalarModel for the options."""
    return ScalarModel(folder, normalise, device, batch)


def of_chat(
    url: str,
    *,
    model: str,
    temperature: float = 0.0,
    max_tokens: int = 1024,
    form: str = "answer",
    environment: Mapping[str, Any] | None = None,
    key_env: str = "OPENAI_API_KEY",
    timeout: float = 60.0,
    attempts: int = 3,
    threads: int = 16,
    cache: str | None = None,
) -> Comparer:
    """A model behind an OpenAI-compatible endpoint that compares; pictures travel in the request.

    url: up to and with /v1. environment: {template: ..., system: ...} of the environment `pairs`. The rest: see
    mmrl.rewarding.chat.Endpoint and Judge.
    """
    from mmrl.environments.pairs import PairsOptions
    from mmrl.judging.chatting import Chatting
    from mmrl.rewarding.chat import Endpoint

    if form not in FORMS:
        raise ValueError(f"form {form!r}: {near(form, FORMS)}")
    endpoint = Endpoint(url, model, key_env, timeout, max_tokens)
    asking = {"attempts": attempts, "threads": threads, "cache": cache}
    return Chatting(endpoint, temperature, form, PairsOptions(**(environment or {})), MAX_PIXELS, asking)


def _of_server(url: str, protocol: str = "score", **options: Any) -> Scorer:
    """A server of scores; protocol: which reward of the file remote asks it."""
    return _of_reward(f"remote.{protocol}", {"url": url, **options})


def _of_reward(name: str, options: Mapping[str, Any]) -> Scorer:
    from mmrl.judging.rewards import RewardScorer

    try:
        return RewardScorer(load_reward(name, options), options, MAX_PIXELS)
    except RewardError as error:
        if name in available() or ":" in name:
            raise
        otherwise = "give a run's or a checkpoint's folder, a URL, or a reward's name"
        known = near(name, [*BASELINES, *available()], otherwise)
        raise ConfigError(f"no judge {short(name)}; {known}") from error


def _known(spec: str, opened: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that is none of the function's."""
    known = [p.name for p in inspect.signature(opened).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if wrong := next((name for name in options if name not in known), None):
        hint = near(wrong, known) if known else "it has no options"
        raise ConfigError(f"judge {short(spec)} has no option {short(wrong)}; {hint}")
