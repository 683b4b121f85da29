"""Asking a model each question in all ways, each once, whatever stopped in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrl.bench.ledger import Ledger
from mmrl.bench.listening.reading import Question
from mmrl.bench.listening.replies import answer_in
from mmrl.bench.listening.ways import Way, others, prompt_of, ways
from mmrl.config import Config, ConfigError
from mmrl.media import MediaError
from mmrl.reporting.progress import counted
from mmrl.training.assemble import load_adapter, set_threads, with_checkpoint
from mmrl.types import Prompt

WAY = "way"  # of a line: in which way the question was asked, by number
TOGETHER = 8  # prompts that are asked together


@dataclass(frozen=True)
class Model:
    """A config's model, or the last checkpoint of `run`. seed: of other sounds, and of what the model samples."""

    config: Config
    run: str | Path | None = None
    seed: int = 0


def all_ways(questions: Sequence[Question], seed: int) -> dict[str, list[Way]]:
    """Id -> the ways in which the question is asked. Raises ConfigError where all are about one sound."""
    other = others(questions, seed)
    return {question.id: ways(question, other[question.id]) for question in questions}


def ask(
    questions: Sequence[Question],
    asked: Mapping[str, Sequence[Way]],
    ledger: Ledger,
    model: Model,
    wording: str,
    letters: bool,
    root: Path,
    quiet: bool,
    lost: dict[str, str] | None,
) -> Iterator[dict[str, Any]]:
    """A line for each way of each question: those of the ledger, and what the model says to the others.

    A line of the ledger counts as far as it is about the sound that the way has now: with more questions, another's
    sound is another one.
    lost: gets why the model cannot be asked, by the id of the prompt; None: that raises ConfigError.
    """
    places = [(question, number, way) for question in questions for number, way in enumerate(asked[question.id])]
    # Asked anew in the same parts: what is said then is the same to the bit.
    parts = [places[start : start + TOGETHER] for start in range(0, len(places), TOGETHER)]
    left = [part for part in parts if any(_kept(ledger, *place) is None for place in part)]
    if left:
        adapter = opened(model)
        try:
            for part in left if quiet else counted(left, f"asking {len(places)} times"):
                prompts = [prompt_of(q, way, wording, letters, root) for q, _, way in part]
                unfit = {prompt.id: why for prompt in prompts if (why := _unfit(adapter, prompt))}
                for name, why in unfit.items():
                    if lost is None:
                        raise ConfigError(f"question {name}: {why}; --on-bad skip counts it as not answered")
                    lost[name] = why
                fit = [(place, prompt) for place, prompt in zip(part, prompts) if prompt.id not in unfit]
                groups = adapter.evaluate([prompt for _, prompt in fit], 1, model.seed) if fit else []
                for ((q, number, way), _), group in zip(fit, groups, strict=True):
                    reply = group.samples[0].artifact
                    if not isinstance(reply, str):
                        raise ConfigError(f"the model makes {type(reply).__name__}, not texts")
                    if _kept(ledger, q, number, way) is None:
                        ledger.add({"id": q.id, WAY: number, "name": way.name, "sound": way.sound, "said": reply})
        finally:
            adapter.close()
    for place in places:
        line = _kept(ledger, *place)
        if line is not None:
            yield line


def _kept(ledger: Ledger, question: Question, number: int, way: Way) -> dict[str, Any] | None:
    """What was said of the question in this way, where it was asked with this sound."""
    line = ledger.get(question.id, number)
    return line if line is not None and line.get("sound") == way.sound else None


def _unfit(adapter: Any, prompt: Prompt) -> str | None:
    """Why the model cannot be asked, or None."""
    try:
        why: str | None = adapter.usable(prompt)
    except MediaError as error:
        return str(error)
    return why


def opened(model: Model) -> Any:
    config = with_checkpoint(model.config, model.run)
    set_threads(config)
    return load_adapter(config)


def said_in(
    lines: Sequence[Mapping[str, Any]], asked: Mapping[str, Sequence[Way]], letters: bool
) -> dict[str, dict[str, str]]:
    """Id -> the answers that lines hold, by the name of the way."""
    said: dict[str, dict[str, str]] = {}
    for line in lines:
        way = asked[line["id"]][line[WAY]]
        said.setdefault(line["id"], {})[way.name] = answer_in(line["said"], way.options, letters)
    return said
