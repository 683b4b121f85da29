"""From a word to a judge: a baseline, a run or a checkpoint, a reward's name, or the address of a server."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrl.config import ConfigError, is_run, load
from mmrl.environments.load import load_environment, parts_of
from mmrl.judging.base import Comparer, Scorer
from mmrl.judging.baselines import BASELINES
from mmrl.judging.words import FORMS
from mmrl.modalities.load import adapter_class, config_class, modality_of
from mmrl.near import near, short
from mmrl.rewarding.load import RewardError, available, load_reward
from mmrl.share import resolve

if TYPE_CHECKING:
    from mmrl.modalities.adapter import Adapter

MAX_PIXELS = 50_000_000  # of a picture that is opened
ENVIRONMENT = "pairs"  # shows candidates side by side


def open_judge(spec: str, **options: Any) -> Scorer | Comparer:
    """The judge that `spec` names.

    "first", "longest", "random": baselines, without options. A run's folder, or a checkpoint's: a Scorer where the
    model has a scalar head, otherwise a Comparer (see `of_model`). http(s)://...: a chat endpoint where the option
    `model` names what it serves (see `of_chat`), otherwise a server of scores: the reward remote.score, or that of the
    option `protocol`, with its options. A reward's name, as configs have it: a Scorer; the options are the reward's.
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
    form: of its verdicts, see words.verdict_in. environment: {template: ..., system: ...} of the environment `pairs`;
    left out: the run's own where it has that. device, dtype: of a folder; a run has its own. batch: sampled together.
    """
    path = Path(folder)
    if is_run(path):
        if device is not None or dtype is not None:
            raise ValueError("device and dtype are those of the run; leave them out")
        made = _of_run(path)
    else:
        made = _of_folder(path, device or "auto", dtype or "float32")
    if getattr(made.model, "head", None) is not None:
        from mmrl.judging.scalar import ScalarJudge

        unused = {"temperature": temperature, "max_tokens": max_tokens, "environment": environment}
        if given := [name for name, value in unused.items() if value] + ["form"] * (form != "answer"):
            raise ValueError(f"{', '.join(given)}: a model with a scalar head says nothing; leave them out")
        return ScalarJudge(_adapter(_sampled(made, batch=batch)), _identity(path))
    if form not in FORMS:
        raise ValueError(f"form {form!r}: {near(form, FORMS)}")
    from mmrl.judging.generative import Generative

    made = _comparing(_sampled(made, temperature, max_tokens, batch), environment)
    return Generative(_adapter(made), f"{_identity(path)} {temperature} {form}", form)


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


# -------------------------------------------------------------------- models


@dataclass(frozen=True)
class _Model:
    """What an adapter is made of: sections of a config."""

    modality: str
    model: Any
    environment: Any = None
    device: str = "auto"


def _of_run(folder: Path) -> _Model:
    from mmrl.training.assemble import with_checkpoint

    config = with_checkpoint(load(folder), folder)
    return _Model(config.modality, config.model, config.environment, config.device)


def _of_folder(folder: Path, device: str, dtype: str) -> _Model:
    """A checkpoint's folder alone; the base of LoRA weights is the one that they name."""
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
    return _Model(modality, config_class(modality)(**model), None, device)


def _sampled(made: _Model, temperature: float = 0.0, max_tokens: int | None = None, batch: int | None = None) -> _Model:
    """The model as it is to be sampled."""
    budget = {"max_tokens": max_tokens} if max_tokens else {}
    changes = {
        "evaluation": made.model.evaluation.model_copy(update={"temperature": temperature, **budget}),
        "sampling": made.model.sampling.model_copy(update=budget),  # the prompt's room is what the longer one leaves
    }
    changes |= {"rollout_batch": batch} if batch is not None else {}
    return replace(made, model=made.model.model_copy(update=changes))


def _comparing(made: _Model, environment: Mapping[str, Any] | None) -> _Model:
    """The model as it is shown pairs."""
    own = environment is None and parts_of(made.environment)[0] == ENVIRONMENT
    section = made.environment if own else {"name": ENVIRONMENT, **(environment or {})}
    load_environment(section)  # what is wrong with it is told before anything heavy is loaded
    return replace(made, environment=section)


def _adapter(made: _Model) -> Adapter:
    import torch

    adapter = adapter_class(made.modality)(made.model)
    if made.environment is not None:
        adapter.environment = load_environment(made.environment)
    adapter.max_pixels = MAX_PIXELS
    cuda = made.device == "auto" and torch.cuda.is_available()
    adapter.to(torch.device("cuda" if cuda else "cpu" if made.device == "auto" else made.device))
    return adapter


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
