"""Reward functions written for TRL, run unchanged: `def f(completions, **columns) -> list[float | None]`."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
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


class Columns:
    """The columns of a data set, of which one record may lack what another has: its reward then gets None, as in TRL.

    A column that a reward needs and that no record has is a mistake, told before training.
    """

    def __init__(self, target: Any, options: Mapping[str, Any]) -> None:
        self._needed = [name for name in _needed(target) if name not in (*GIVEN, *options)]
        self.seen: set[str] = set()

    def check(self, prompts: Sequence[Prompt]) -> str | None:
        """What the reward needs and no prompt has, or None; prompts without it are told once."""
        if not prompts:
            return None
        counts = Counter(name for prompt in prompts for name in prompt.record)
        self.seen |= set(counts)
        absent = [name for name in self._needed if not counts[name]]
        if absent:
            return f"no prompt has the column {', '.join(absent)}, which it needs; data.columns maps other names"
        for name in self._needed:
            if counts[name] < len(prompts):
                without = len(prompts) - counts[name]
                warnings.warn(
                    f"{without} of {len(prompts)} prompts lack the column `{name}`: None is given", stacklevel=3
                )
        return None


def wrap(target: Any, options: Mapping[str, Any], columns: Columns) -> Callable[[Sequence[Sample]], Any]:
    """The reward as list[Sample] -> what it returns, called as TRL's GRPOTrainer calls it.

    completions: the artifacts (texts), or [{"role": "assistant", "content": text}] each where the prompt is a list of
    messages, with the beginning that the prompt ends with, if the policy continued one; prompts: texts or those lists;
    completion_ids: lists of token ids; every other column of the record as a list. A function without `**kwargs` gets
    what it names. None in its result is *not applicable*. A coroutine is run to its end. columns: those of the data.
    Raises ValueError where it needs what only TRL's trainer has.
    """
    for name in _needed(target):
        if name in TRAINER_ONLY:
            raise ValueError(f"needs {name!r}, which only TRL's trainer has; give that parameter a default")
    function: Any = target(**options) if inspect.isclass(target) else target
    fixed = {} if inspect.isclass(target) else dict(options)
    parameters = _parameters(target)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def call(samples: Sequence[Sample]) -> Any:
        inputs = {**_inputs(samples, columns.seen), **fixed}
        lacking = [name for name in _needed(target) if name not in inputs]
        if lacking:
            raise ValueError(f"the records lack {', '.join(lacking)}, which the reward needs as columns")
        values = function(**{k: v for k, v in inputs.items() if takes_all or k in parameters})
        return asyncio.run(values) if inspect.iscoroutine(values) else values

    return call


def _inputs(samples: Sequence[Sample], columns: Set[str]) -> dict[str, list[Any]]:
    """Every input that TRL would give, by name; None where a record lacks a column of the data."""
    names = {name for s in samples for name in s.prompt.record} | columns
    names -= {"prompt", "completion", "completion_ids"}
    inputs: dict[str, list[Any]] = {name: [s.prompt.record.get(name) for s in samples] for name in sorted(names)}
    inputs["prompts"] = [_asked(s.prompt) for s in samples]
    inputs["completions"] = [_completion(s) for s in samples]
    if all(s.trajectory is not None and "ids" in s.trajectory.tensors for s in samples):
        inputs["completion_ids"] = [s.trajectory.tensors["ids"].tolist() for s in samples if s.trajectory]
    return inputs


def _completion(sample: Sample) -> str | list[dict[str, str]]:
    if not isinstance(sample.artifact, str):
        kind = type(sample.artifact).__name__
        raise TypeError(f"TRL's rewards score texts; the sample's artifact is a {kind}: write it for `samples`")
    if "messages" in sample.prompt.record:
        return [{"role": "assistant", "content": _begun(sample.prompt) + sample.artifact}]
    return sample.artifact


def _begun(prompt: Prompt) -> str:
    """The beginning of the assistant's turn, where the prompt brings one that the policy continued."""
    last = prompt.record["messages"][-1]
    return last["content"] if last["role"] == "assistant" else ""


def _asked(prompt: Prompt) -> Any:
    messages = prompt.record.get("messages")
    if messages is None:
        return prompt.text
    return messages[:-1] if _begun(prompt) else messages


def _parameters(target: Any) -> dict[str, inspect.Parameter]:
    if inspect.isclass(target) and any("__call__" in vars(base) for base in target.__mro__):
        called = dict(inspect.signature(target.__call__).parameters)
        called.pop(next(iter(called)))  # self
        return called
    return dict(inspect.signature(target).parameters)


def _needed(target: Any) -> list[str]:
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, p in _parameters(target).items() if p.default is p.empty and p.kind in kinds]
