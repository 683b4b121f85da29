"""`mmrl plan` looks at the first prompts: would the chat template take them?"""

from __future__ import annotations

from itertools import islice

from mmrl.config import Config, ConfigError
from mmrl.data.prompts import load_prompts, reading
from mmrl.data.sources import HUB, function_of, function_rows, read_rows
from mmrl.modalities.load import adapter_class
from mmrl.types import Prompt

LOOKED_AT = 100


def prompt_lines(config: Config) -> list[str]:
    """What is wrong with some of the first prompts, a line each for those to train on and those held out.

    Data on the hub, tokenizers that are not on this machine, and prompts that an environment opens are not looked at.
    Raises ConfigError, as a training would, where not one of them can be used.
    """
    if config.environment is not None:
        return []
    try:
        check = adapter_class(config.modality).prompt_check(config.model)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    if check is None:
        return []
    lines = []
    for key in ("prompts", "eval_prompts"):
        prompts = [p for p in _first(config, key) if p.record.get("environment") is None]
        reasons = [(p, why) for p in prompts if (why := check(p))]
        if reasons:
            first, why = reasons[0]
            found = f"data.{key}: {len(reasons)} of the first {len(prompts)} cannot be used, first {first.id!r}: {why}"
            if len(reasons) == len(prompts):
                raise ConfigError(found)
            lines.append(found)
    return lines


def _first(config: Config, key: str) -> list[Prompt]:
    """The first prompts of a source that is on this machine; what cannot be read is not for here to say."""
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
        return load_prompts(source, {}, data.on_bad_record, rows=rows, **how)
    except ConfigError:
        return []
