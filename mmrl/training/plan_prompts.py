"""`mmrl plan` looks at the first prompts: would the chat template take them?"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from mmrl.config import Config, ConfigError
from mmrl.data.prompts import load_prompts, reading
from mmrl.data.sources import HUB, function_of, function_rows, read_rows
from mmrl.types import Prompt

LOOKED_AT = 100
# Columns that the chat template is given, besides a question.
_TOLD = ("messages", "tools", "chat_template_kwargs")


def prompt_lines(config: Config) -> list[str]:
    """What is wrong with some of the first prompts, a line each for those to train on and those held out.

    Data on the hub, tokenizers that are not on this machine, and prompts that an environment opens are not looked at.
    Raises ConfigError, as a training would, where not one of them can be used.
    """
    if config.environment is not None:
        return []
    found = {key: _first(config, key) for key in ("prompts", "eval_prompts")}
    check = _check(config) if any(found.values()) else None
    if check is None:
        return []
    lines = []
    for key, prompts in found.items():
        reasons = [(p, why) for p in prompts if (why := check(p))]
        if reasons:
            first, why = reasons[0]
            told = f"data.{key}: {len(reasons)} of the first {len(prompts)} cannot be used, first {first.id!r}: {why}"
            if len(reasons) == len(prompts):
                raise ConfigError(told)
            lines.append(told)
    return lines


def _check(config: Config) -> Callable[[Prompt], str | None] | None:
    made = getattr(config.model, "prompt_check", None)
    try:
        return made() if made else None
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error


def _first(config: Config, key: str) -> list[Prompt]:
    """The first prompts of a source that is on this machine, [] where all are plain questions, which any template
    takes; what cannot be read is not for here to say.
    """
    data = config.data
    source = getattr(data, key)
    if not source or source.startswith(HUB):
        return []
    how = reading(data, source) | ({"split": data.eval_split} if key == "eval_prompts" else {})
    try:
        function = function_of(source, getattr(data, f"{key}_options"), f"data.{key}")
        if function:
            rows = function_rows(source, function, min(LOOKED_AT, getattr(data, f"{key}_count")))
        else:
            rows = islice(read_rows(source, how["split"], data.subset), LOOKED_AT)
        found = load_prompts(source, {}, data.on_bad_record, rows=rows, **how)
    except ConfigError:
        return []
    prompts = [prompt for prompt in found if prompt.record.get("environment") is None]
    told = any(getattr(config.model, option, None) for option in ("system", "chat_template_kwargs"))
    return prompts if told or any(prompt.record.get(column) for prompt in prompts for column in _TOLD) else []
