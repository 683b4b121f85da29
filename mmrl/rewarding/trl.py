"""Reward functions written for TRL, run unchanged: `def f(completions, **columns) -> list[float | None]`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmrl.types import Prompt, Sample

# What TRL's trainer would pass besides the columns of its data; there is no such thing here.
TRAINER_ONLY = ("trainer_state", "log_extra", "log_metric", "environments")
GIVEN = ("prompts", "completions", "completion_ids")


def is_trl(target: Any) -> bool:
    """True for a function with a parameter `completions`, or a class whose `__call__` has one."""
    return "completions" in _parameters(target)


def options_of(target: Any) -> tuple[list[str], list[str]]:
    """(options it takes, options it must be given) of a reward in TRL's form.

    A function's options are its parameters with a default; those without are columns. A class has its own.
    """
    parameters = inspect.signature(target).parameters.values()
    named = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in GIVEN]
    known = [p.name for p in named if inspect.isclass(target) or p.default is not p.empty]
    return known, [p.name for p in named if inspect.isclass(target) and p.default is p.empty]


def wrap(target: Any, options: Mapping[str, Any]) -> Callable[[Sequence[Sample]], Any]:
    """The reward as list[Sample] -> what it returns, called as TRL's GRPOTrainer calls it.

    completions: the artifacts (texts), or [{"role": "assistant", "content": text}] each where the prompt is a list of
    messages; prompts: texts or those lists; completion_ids: lists of token ids; every other column of the record as
    a list. A function without `**kwargs` gets what it names. None in its result is *not applicable*. A coroutine is
    run to its end. Raises ValueError where it needs what only TRL's trainer has.
    """
    for name in _needed(target):
        if name in TRAINER_ONLY:
            raise ValueError(f"needs {name!r}, which only TRL's trainer has; give that parameter a default")
    function: Any = target(**options) if inspect.isclass(target) else target
    fixed = {} if inspect.isclass(target) else dict(options)
    parameters = _parameters(target)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def call(samples: Sequence[Sample]) -> Any:
        inputs = {**_inputs(samples), **fixed}
        lacking = [name for name in _needed(target) if name not in inputs]
        if lacking:
            raise ValueError(f"the records lack {', '.join(lacking)}, which the reward needs as columns")
        values = function(**{k: v for k, v in inputs.items() if takes_all or k in parameters})
        return asyncio.run(values) if inspect.iscoroutine(values) else values

    return call


def column_check(target: Any, options: Mapping[str, Any]) -> Callable[[Prompt], str | None]:
    """A `check_prompt` that says which columns the reward needs and the record lacks."""
    columns = [name for name in _needed(target) if name not in (*GIVEN, *options)]

    def check_prompt(prompt: Prompt) -> str | None:
        lacking = [name for name in columns if name not in prompt.record]
        return f"prompt {prompt.id!r} lacks the column {', '.join(lacking)}" if lacking else None

    return check_prompt


def _inputs(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """Every input that TRL would give, by name."""
    shared = set.intersection(*(set(s.prompt.record) for s in samples)) - {"prompt", "completion", "completion_ids"}
    inputs: dict[str, list[Any]] = {name: [s.prompt.record[name] for s in samples] for name in sorted(shared)}
    inputs["prompts"] = [s.prompt.record.get("messages", s.prompt.text) for s in samples]
    inputs["completions"] = [_completion(s) for s in samples]
    if all(s.trajectory is not None and "ids" in s.trajectory.tensors for s in samples):
        inputs["completion_ids"] = [s.trajectory.tensors["ids"].tolist() for s in samples if s.trajectory]
    return inputs


def _completion(sample: Sample) -> str | list[dict[str, str]]:
    if not isinstance(sample.artifact, str):
        kind = type(sample.artifact).__name__
        raise TypeError(f"TRL's rewards score texts; the sample's artifact is a {kind}: write it for `samples`")
    if "messages" in sample.prompt.record:
        return [{"role": "assistant", "content": sample.artifact}]
    return sample.artifact


def _parameters(target: Any) -> dict[str, inspect.Parameter]:
    if inspect.isclass(target) and any("__call__" in vars(base) for base in target.__mro__):
        called = dict(inspect.signature(target.__call__).parameters)
        called.pop(next(iter(called)))  # self
        return called
    return dict(inspect.signature(target).parameters)


def _needed(target: Any) -> list[str]:
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, p in _parameters(target).items() if p.default is p.empty and p.kind in kinds]
