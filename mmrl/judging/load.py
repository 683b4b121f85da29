"""From a word to a judge: a baseline, a run or a checkpoint, a reward's name, or the address of a server."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmrl.config import Config, ConfigError, is_run, load
from mmrl.environments.load import load_environment, parts_of
from mmrl.judging.base import Comparer, Scorer
from mmrl.judging.baselines import BASELINES
from mmrl.judging.words import FORMS
from mmrl.near import near, short
from mmrl.rewarding.load import RewardError, available, load_reward
from mmrl.share import resolve

MAX_PIXELS = 50_000_000  # of a picture that is opened
ENVIRONMENT = "pairs"  # shows candidates side by side


def open_judge(spec: str, **options: Any) -> Scorer | Comparer:
    """The judge that `spec` names.

    "first", "longest", "random": baselines, without options. A run's folder, or a checkpoint's: a Scorer where the
    model has a scalar head, otherwise a Comparer (see `of_model`). http(s)://...: a chat endpoint where the option
    `model` names what it serves (see `of_chat`), otherwise a server of scores (see `of_server`). A reward's name, as
    configs have it: a Scorer; the options are the reward's.
    Raises ConfigError for anything else, and for an option that this judge does not have.
    """
    if spec in BASELINES:
        _known(spec, lambda: None, options)
        return BASELINES[spec]()
    if spec.startswith(("http://", "https://")):
        opened: Callable[..., Scorer | Comparer] = of_chat if "model" in options else of_server
    elif (folder := resolve(spec)).is_dir():
        spec, opened = str(folder), of_model
    else:
        return _of_reward(spec, options)
    _known(spec, opened, options)
    try:
        return opened(spec, **options)
    except (ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"judge {short(spec)}: {error}") from error


def of_model(
    folder: str,
    *,
    temperature: float = 0.0,
    max_tokens: int | None = None,
    form: str = "answer",
    environment: Mapping[str, Any] | None = None,
    device: str | None = None,
    batch: int | None = None,
    dtype: str | None = None,
) -> Scorer | Comparer:
    """A model from disk: a run's folder, of which it is the last checkpoint, or a folder that `from_pretrained` loads.

    A model with a scalar head scores; temperature, max_tokens, form and environment are then of no use and refused.
    Another one compares. temperature: 0 is greedy. max_tokens: of a verdict; left out: the run's, 1024 for a folder.
    form: of its verdicts, see words.read_verdict. environment: {template: ..., system: ...} of the environment `pairs`;
    left out: the run's own where it has that. device, dtype: of a folder; a run has its own. batch: sampled together.
    """
    from mmrl.training.assemble import load_adapter, with_checkpoint

    path = Path(folder)
    if is_run(path):
        if device is not None or dtype is not None:
            raise ValueError("device and dtype are those of the run; leave them out")
        config = with_checkpoint(load(folder), path)
    else:
        config = _config_of(path, device or "auto", dtype or "float32")
    if _has_head(config):
        from mmrl.judging.scalar import ScalarJudge

        unused = {"temperature": temperature, "max_tokens": max_tokens, "environment": environment}
        if given := [name for name, value in unused.items() if value] + ["form"] * (form != "answer"):
            raise ValueError(f"{', '.join(given)}: a model with a scalar head says nothing; leave them out")
        return ScalarJudge(load_adapter(config), _identity(path))
    if form not in FORMS:
        raise ValueError(f"form {form!r}: {near(form, FORMS)}")
    from mmrl.judging.generative import Generative

    config = _comparing(config, temperature, max_tokens, environment, batch)
    return Generative(load_adapter(config), f"{_identity(path)} {temperature} {form}", form)


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


def _of_reward(name: str, options: Mapping[str, Any]) -> Scorer:
    from mmrl.judging.rewards import RewardScorer

    try:
        return RewardScorer(load_reward(name, options), options, MAX_PIXELS)
    except RewardError as error:
        if name in available() or ":" in name:
            raise
        known = near(name, [*BASELINES, *available()], "give a run's or a checkpoint's folder, a URL, or a reward's name")
        raise ConfigError(f"no judge {short(name)}; {known}") from error


# -------------------------------------------------------------------- models


def _config_of(folder: Path, device: str, dtype: str) -> Config:
    """A config of a checkpoint's folder alone; the base of LoRA weights is the one that they name."""
    import json

    from mmrl.modalities.load import modality_of

    model: dict[str, Any] = {"path": str(folder), "dtype": dtype, "sampling": {"max_tokens": 1024}}
    modality = modality_of(folder)
    if (folder / "adapter_config.json").is_file():
        told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = told.get("base_model_name_or_path")
        if not base or not Path(base).is_dir():
            raise ValueError(f"its LoRA weights are on {short(base)}, which is no folder here; give the run's folder")
        modality = modality_of(Path(base))
        model |= {"path": base, "train": "lora", "lora": {"path": str(folder)}}
    if (folder / "head").is_dir():
        model["head"] = _head_options(folder)
    return load({"modality": modality, "model": model, "device": device})


def _comparing(
    config: Config, temperature: float, max_tokens: int | None, environment: Mapping[str, Any] | None, batch: int | None
) -> Config:
    """The config of a model that compares: how it is shown pairs, and how it is sampled."""
    shows = parts_of(config.environment)[0] == ENVIRONMENT
    section = {"name": ENVIRONMENT, **environment} if environment is not None or not shows else config.environment
    load_environment(section)  # what is wrong with it is told before anything heavy is loaded
    model: Any = config.model
    evaluation = {"temperature": temperature, **({"max_tokens": max_tokens} if max_tokens else {})}
    changes: dict[str, Any] = {"evaluation": model.evaluation.model_copy(update=evaluation)}
    if batch is not None:
        changes["rollout_batch"] = batch
    return config.model_copy(update={"environment": section, "model": model.model_copy(update=changes)})


def _has_head(config: Config) -> bool:
    return getattr(config.model, "head", None) is not None


def _head_options(folder: Path) -> dict[str, Any]:
    """The shape of a stored head, as `model.head` has it."""
    from safetensors import safe_open

    with safe_open(folder / "head" / "head.safetensors", framework="pt") as file:
        return {"outputs": int(file.get_slice("score.weight").get_shape()[0])}


def _identity(folder: Path) -> str:
    """The folder with what its weights were last written as."""
    files = sorted(p for p in folder.rglob("*.safetensors"))
    newest = max((p.stat().st_mtime_ns for p in files), default=0)
    return f"{folder.resolve()} {sum(p.stat().st_size for p in files)} {newest}"


def _known(spec: str, opened: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that is none of the function's."""
    known = [p.name for p in inspect.signature(opened).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if wrong := next((name for name in options if name not in known), None):
        hint = near(wrong, known) if known else "it has no options"
        raise ConfigError(f"judge {short(spec)} has no option {short(wrong)}; {hint}")
