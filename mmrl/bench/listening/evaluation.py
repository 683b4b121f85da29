"""MMAU or MMAR of a model that hears, or of answers that are there: asked in all ways, scored by the published rule."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrl.bench.drawing import model_of
from mmrl.bench.ledger import Ledger
from mmrl.bench.listening.page import write_page
from mmrl.bench.listening.reading import Benchmark, File, Question, predictions, read
from mmrl.bench.listening.replies import answer_in
from mmrl.bench.listening.scores import rows
from mmrl.bench.listening.ways import GIVEN, Way, others, prompt_of, ways, wording_of
from mmrl.bench.outcome import Outcome
from mmrl.config import Config, ConfigError
from mmrl.reporting.progress import counted
from mmrl.share import resolve
from mmrl.sounds import MAX_SECONDS, SoundError, measure
from mmrl.training.assemble import load_adapter, set_threads, with_checkpoint

WAY = "way"  # of a line: in which way the question was asked, by number
TOGETHER = 8  # prompts that are asked together


@dataclass(frozen=True)
class Model:
    """A config's model, or the last checkpoint of `run`. seed: of other sounds, and of what the model samples."""

    config: Config
    run: str | Path | None = None
    seed: int = 0


def evaluate(
    file: str | Path,
    benchmark: Benchmark,
    source: Model | str | Path | None,
    *,
    out: str | Path,
    sounds: str | Path | None = None,
    key: str | None = None,
    version: str | None = None,
    letters: bool = False,
    template: str | Path | None = None,
    limit: int | None = None,
    on_bad: str = "stop",
    allow: Sequence[str] = (),
    quiet: bool = True,
) -> Outcome:
    """Measure what a model hears.

    file: the benchmark's questions. source: the model that is asked, or a file of its answers; None: `file` has them.
    sounds: the folder that the names of sounds are below; None: the file's, and of answers that are there none is
    played. key: the column of answers. version: of the benchmark, in the user's words. letters: options are shown
    behind letters, and a letter is an answer. template: a file with the words of a question. limit: the first questions
    alone. on_bad: stop, or skip: a record that is no question, or whose sound cannot be used, counts as not answered.
    out: the folder of settings.json, verdicts.jsonl (of a model that is asked), results.json and results.html; see
    unigenbench.evaluation.evaluate.
    Raises ConfigError before the model is asked.
    """
    if on_bad not in ("stop", "skip"):
        raise ConfigError(f"on_bad is {on_bad!r:.60}, expected stop or skip")
    found, folder = read(file, benchmark, key, on_bad == "skip"), Path(out)
    chosen = set(found.order[:limit])
    questions = [question for question in found.questions if question.id in chosen]
    bad = {name: why for name, why in found.bad.items() if name in chosen}
    place: Path | None
    if isinstance(source, Model):
        if key is not None:
            raise ConfigError("--key is of answers that are there; here a model is asked")
        wording, root = wording_of(template, letters), Path(sounds) if sounds else resolve(str(file)).parent
        questions, deaf = _with_sounds(questions, root, source.config.data.max_seconds, on_bad)
        bad |= deaf
        settings = _settings(benchmark, found, source, wording, letters, version)
        ledger = Ledger(folder, settings, allow, WAY)
        asked = _asked(questions, source.seed)
        lines = list(_ask(questions, asked, ledger, source, wording, letters, root, quiet))
        said, place = _said(lines, asked, letters), root
        who: dict[str, Any] = {"model": source.config.name, "run": str(source.run) if source.run else None}
    else:
        _refuse_unused(letters=letters or None, template=template)
        asked, place = {}, Path(sounds) if sounds else None
        answers = found.said if source is None else predictions(source, benchmark, key)
        if not answers:
            raise ConfigError(
                f"whose answers? {file} has none ({key or ' or '.join(benchmark.said)}): give a config or a run's "
                "folder, or --predictions FILE"
            )
        lines = [{"id": q.id, "said": answers[q.id]} for q in questions if q.id in answers]
        said = {line["id"]: {GIVEN: line["said"]} for line in lines}
        who = {"predictions": str(source or file)}
    told = [*found.odd, *_told(questions, said, bad, found, isinstance(source, Model), version)]
    more = {"version": version, "questions_digest": _digest(found), **who}
    table = rows(questions, said, len(bad), isinstance(source, Model))
    outcome = Outcome(benchmark.name, table, told, lines, more, counted="answers")
    outcome.write(folder)
    write_page(folder, outcome, questions, said, asked, {"questions": len(questions), "version": version, **who}, place)
    return outcome


# -------------------------------------------------------------------- asking


def _asked(questions: Sequence[Question], seed: int) -> dict[str, list[Way]]:
    other = others(questions, seed)
    return {question.id: ways(question, other[question.id]) for question in questions}


def _ask(
    questions: Sequence[Question],
    asked: Mapping[str, Sequence[Way]],
    ledger: Ledger,
    model: Model,
    wording: str,
    letters: bool,
    root: Path,
    quiet: bool,
) -> Iterator[dict[str, Any]]:
    """A line for each way of each question: those of the ledger, and what the model says to the others."""
    places = [(question, number, way) for question in questions for number, way in enumerate(asked[question.id])]
    # Asked anew in the same parts: what is said then is the same to the bit.
    parts = [places[start : start + TOGETHER] for start in range(0, len(places), TOGETHER)]
    left = [part for part in parts if any(ledger.get(q.id, number) is None for q, number, _ in part)]
    if left:
        adapter = _opened(model)
        try:
            for part in left if quiet else counted(left, f"asking {len(places)} times"):
                prompts = [prompt_of(q, way, wording, letters, root) for q, _, way in part]
                for prompt in prompts:
                    if why := adapter.usable(prompt):
                        raise ConfigError(f"question {prompt.id}: {why}")
                for (q, number, way), group in zip(part, adapter.evaluate(prompts, 1, model.seed)):
                    reply = group.samples[0].artifact
                    if not isinstance(reply, str):
                        raise ConfigError(f"the model makes {type(reply).__name__}, not texts")
                    if ledger.get(q.id, number) is None:
                        ledger.add({"id": q.id, WAY: number, "name": way.name, "sound": way.sound, "said": reply})
        finally:
            adapter.close()
    for question, number, _ in places:
        line = ledger.get(question.id, number)
        assert line is not None
        yield line


def _opened(model: Model) -> Any:
    config = with_checkpoint(model.config, model.run)
    set_threads(config)
    return load_adapter(config)


def _said(
    lines: Sequence[Mapping[str, Any]], asked: Mapping[str, Sequence[Way]], letters: bool
) -> dict[str, dict[str, str]]:
    said: dict[str, dict[str, str]] = {}
    for line in lines:
        way = asked[line["id"]][line[WAY]]
        said.setdefault(line["id"], {})[way.name] = answer_in(line["said"], way.options, letters)
    return said


def _with_sounds(
    questions: Sequence[Question], root: Path, max_seconds: float, on_bad: str
) -> tuple[list[Question], dict[str, str]]:
    """(questions whose sounds can be used, why those of the others cannot)."""
    good, bad = [], {}
    for question in questions:
        try:
            measure(question.sound, root=root, max_seconds=max_seconds or MAX_SECONDS)
        except SoundError as error:
            if on_bad == "stop":
                raise ConfigError(f"question {question.id}: {error}; --sounds FOLDER, or --on-bad skip") from None
            bad[question.id] = str(error)
        except ImportError as error:
            raise ConfigError(str(error)) from None
        else:
            good.append(question)
    if not good:
        raise ConfigError(f"no question's sound can be used, the first: {next(iter(bad.values()))}")
    return good, bad


def _settings(
    benchmark: Benchmark, found: File, model: Model, wording: str, letters: bool, version: str | None
) -> dict[str, Any]:
    return {
        "benchmark": benchmark.name,
        "version": version,
        "file": _digest(found),
        "wording": hashlib.sha256(wording.encode()).hexdigest()[:16],
        "letters": letters,
        "answers": model_of(model.config, model.run, model.seed),
    }


def _refuse_unused(**given: Any) -> None:
    if wrong := next((name for name, value in given.items() if value is not None), None):
        raise ConfigError(f"--{wrong} is for a model that is asked; here its answers are read")


# -------------------------------------------------------------------- telling


def _told(
    questions: Sequence[Question],
    said: Mapping[str, Mapping[str, str]],
    bad: Mapping[str, str],
    found: File,
    asked: bool,
    version: str | None,
) -> Iterator[str]:
    """What the reader of the numbers has to be told."""
    yield (
        f"version: {version or 'not told (--version)'}, questions {_digest(found)}; scores of different versions are "
        "not to be compared"
    )
    places = Counter(question.options.index(question.gold) for question in questions)
    told = ", ".join(f"{places[place]} in place {place + 1}" for place in sorted(places))
    yield f"the right option stands {told}, of {len(questions)}"
    if bad:
        yield f"{len(bad)} records could not be asked and count as not answered, the first: {next(iter(bad.values()))}"
    missing = sum(GIVEN not in said.get(question.id, {}) for question in questions)
    whole = len(questions) + len(bad)
    if missing:
        yield (
            f"{missing} of {whole} questions have no answer and count as wrong; the released scorer leaves them out of "
            "its denominator"
        )
    if not asked:
        yield (
            "not measured, for only answers are there: other orders of options, text alone, another's sound. A gain "
            "over them is what hearing brings: have the model asked here for these"
        )


def _digest(found: File) -> str:
    told = [(q.id, q.text, q.options, q.gold) for q in found.questions]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
