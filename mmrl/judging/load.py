"""From a word to a judge: a baseline, a run or a checkpoint, a reward's name, or the address of a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmrl.config import ConfigError
from mmrl.judging.base import Comparer, Scorer
from mmrl.judging.baselines import BASELINES
from mmrl.judging.models import ENVIRONMENT, of_model
from mmrl.judging.options import Count, Device, Patience, Seconds, Temperature, check_options
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
    the option `model` names what it serves (`of_chat`); otherwise `mmrl serve-reward` of a judge that compares, as its
    /health says (`served.open_served_judge`); otherwise a server of scores: the reward remote.score, or that of the
    option `protocol`, with its options. A reward's name, as configs have it: a Scorer; options are the reward's.
    Raises ConfigError for anything else, and for an option that this judge does not have.
    """
    if spec in BASELINES:
        check_options(spec, lambda: None, options)
        return BASELINES[spec]()
    if spec.startswith(("http://", "https://")):
        opened: Callable[..., Scorer | Comparer] = of_chat
        if "model" not in options:
            from mmrl.judging.served import TOKEN, compares, open_served_judge

            if "protocol" in options or not compares(spec, str(options.get("key_env", TOKEN))):
                return _of_server(spec, **options)
            opened = open_served_judge
    elif (folder := resolve(spec)).is_dir():
        spec, opened = str(folder), of_scalar if scalar_folder(folder) else of_model
    else:
        return _of_reward(spec, options)
    check_options(spec, opened, options)
    try:
        return opened(spec, **options)
    except (ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"judge {short(spec)}: {error}") from error


def of_scalar(folder: str, *, normalise: bool = False, device: Device = "auto", batch: Count = 16_384) -> Scorer:
    """A model with a scalar head: see mmrl.judging.scalar.ScalarModel for the options."""
    return ScalarModel(folder, normalise, device, batch)


def of_chat(
    url: str,
    *,
    model: str,
    temperature: Temperature = 0.0,
    max_tokens: Count = 1024,
    form: str = "answer",
    environment: Mapping[str, Any] | None = None,
    key_env: str = "OPENAI_API_KEY",
    timeout: Seconds = 60.0,
    attempts: Count = 3,
    threads: Count = 16,
    cache: str | None = None,
    patience: Patience = 0.0,
) -> Comparer:
    """A model behind an OpenAI-compatible endpoint that compares; pictures travel in the request.

    url: up to and with /v1. environment: {template: ..., system: ...} of the environment `pairs`. The rest: see
    mmrl.rewarding.chat.Endpoint and Judge.
    """
    from mmrl.environments.load import load_environment
    from mmrl.judging.chatting import Chatting
    from mmrl.rewarding.chat import Endpoint

    if form not in FORMS:
        raise ValueError(f"form {form!r}: {near(form, FORMS)}")
    endpoint = Endpoint(url, model, key_env, timeout, max_tokens)
    asking = {"attempts": attempts, "threads": threads, "cache": cache, "patience": patience}
    shown: Any = load_environment({**(environment or {}), "name": ENVIRONMENT})
    return Chatting(endpoint, temperature, form, shown.options, MAX_PIXELS, asking)


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
