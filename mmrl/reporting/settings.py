"""config.yaml of a run's folder, as it is written: what was trained, and keys to compare with another run's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mmrl.reporting.words import clip

MOST_TEXT = 200_000
MOST_KEYS = 5_000
MAX_VALUE = 200
MAX_ABOUT = 240
SENTENCE = re.compile(r"\. (?=[A-Z])")
NAMES = ("name", "kind")  # what an entry of a list is called by


class _Loader(yaml.BaseLoader):
    """Every value as the words that stand there. An alias may stand for any amount of text; mmrl writes none."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds aliases")
        return super().compose_node(parent, index)


def read_settings(text: str, where: str, problems: list[str]) -> dict[str, Any]:
    """The mapping that a config is; {} where there is none, with the reason in `problems`."""
    if not text:
        return {}
    why = f"more than {MOST_TEXT:,} characters"
    if len(text) <= MOST_TEXT:
        try:
            read = yaml.load(text, Loader=_Loader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            why = str(error).replace("\n", " ")[:100]
        else:
            if isinstance(read, Mapping):
                return {str(key): value for key, value in read.items()}
            why = "no mapping of keys"
    problems.append(f"{where} cannot be read as a config ({why}); it is shown as it is")
    return {}


def flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Every value by its key with dots, as an override writes it; entries of a list go by their name or kind."""
    found: dict[str, str] = {}
    for key, value in _pairs(settings, ""):
        if len(found) >= MOST_KEYS:
            break
        found[key] = clip(value, MAX_VALUE)
    return found


def total_steps(settings: Mapping[str, Any]) -> int | None:
    """Of all stages together; None where the config does not say."""
    steps = [stage.get("steps") for stage in _entries(settings, "stages")]
    counts = [int(step) for step in steps if isinstance(step, str) and step.isdecimal() and len(step) < 10]
    return sum(counts) if counts and len(counts) == len(steps) else None


def about(settings: Mapping[str, Any]) -> str:
    """What the config says of itself: its first sentences, as many as there is room for."""
    said = settings.get("about")
    words = " ".join(said.split()) if isinstance(said, str) else ""
    if len(words) <= MAX_ABOUT:
        return words
    ends = [match.start() + 1 for match in SENTENCE.finditer(words, 0, MAX_ABOUT)]
    whole = [end for end in ends if words.count("(", 0, end) == words.count(")", 0, end)]  # not that of "(Li et al."
    return words[: whole[-1]] if whole else f"{words[: MAX_ABOUT - 1]}…"


def trained(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, value) pairs: the modality, the model, how it was trained and for what."""
    model = settings.get("model")
    stages = [_stage(stage) for stage in _entries(settings, "stages")]
    rewards = [_word(reward.get("name")) for reward in _entries(settings, "rewards")]
    told = [
        ("modality", _word(settings.get("modality"))),
        ("model", _word(model.get("path")) if isinstance(model, Mapping) else ""),
        ("trained by", ", then ".join(filter(None, stages))),
        ("for", ", ".join(filter(None, rewards))),
    ]
    return [(label, clip(value, MAX_VALUE)) for label, value in told if value]


def _stage(stage: Mapping[str, Any]) -> str:
    algorithm = stage.get("algorithm")
    preset = _word(algorithm.get("preset")) if isinstance(algorithm, Mapping) else ""
    kind = _word(stage.get("kind"))
    return f"{kind} ({preset})" if preset and preset != kind else kind


def _entries(settings: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = settings.get(key)
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def _word(value: Any) -> str:
    return value if isinstance(value, str) and value != "null" else ""


def _pairs(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _pairs(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        names = [next((_word(item.get(n)) for n in NAMES if _word(item.get(n))), "") for item in value]
        for number, (name, item) in enumerate(zip(names, value, strict=True)):
            alone = name and names.count(name) == 1
            yield from _pairs(item, f"{key}.{name if alone else number}")
    else:
        yield key, _said(value)


def _said(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_said, value[:50]))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_said(item)}' for key, item in list(value.items())[:50])}}}"
    return str(value)
