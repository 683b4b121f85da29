"""MMAU or MMAR of a model that hears, or of answers that are there: asked in all ways, scored by the published rule."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrl.bench.drawing import model_of
from mmrl.bench.ledger import Ledger
from mmrl.bench.listening.asking import WAY, Model, all_ways, ask, said_in
from mmrl.bench.listening.page import write_page
from mmrl.bench.listening.reading import Benchmark, File, Question, predictions, read
from mmrl.bench.listening.scores import rows
from mmrl.bench.listening.ways import GIVEN, wording_of
from mmrl.bench.outcome import Outcome
from mmrl.config import ConfigError
from mmrl.near import short
from mmrl.share import resolve
from mmrl.sounds import MAX_SECONDS, SoundError, measure


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
    stop = on_bad == "stop"
    found, folder = read(file, benchmark, key, on_bad == "skip"), Path(out)
    chosen = set(found.order[:limit])
    questions = [question for question in found.questions if question.id in chosen]
    bad = {name: why for name, why in found.bad.items() if name in chosen}
    place: Path | None
    unknown: list[str] = []
    lost: dict[str, str] = {}
    if isinstance(source, Model):
        if key is not None:
            raise ConfigError("--key is of answers that are there; here a model is asked")
        wording, root = wording_of(template, letters), Path(sounds) if sounds else resolve(str(file)).parent
        heard, deaf = _with_sounds(questions, root, source.config.data.max_seconds, on_bad)
        settings = _settings(benchmark, found, source, wording, letters, version, root)
        ledger = Ledger(folder, settings, allow, WAY)
        asked = all_ways(heard, source.seed)
        lines = list(ask(heard, asked, ledger, source, wording, letters, root, quiet, None if stop else lost))
        said, place = said_in(lines, asked, letters), root
        who: dict[str, Any] = {"model": source.config.name, "run": str(source.run) if source.run else None}
    else:
        _refuse_unused(letters=letters or None, template=template)
        asked, deaf, place = {}, {}, Path(sounds) if sounds else None
        answers = found.said if source is None else predictions(source, benchmark, key)
        if not answers:
            raise ConfigError(
                f"whose answers? {file} has none ({key or ' or '.join(benchmark.said)}): give a config or a run's "
                "folder, or --predictions FILE"
            )
        known = set(found.order)
        unknown = [name for name in answers if name not in known]
        if len(unknown) == len(answers):
            raise ConfigError(
                f"{source}: none of its {len(answers)} answers is to a question of {file}, the first has the id "
                f"{short(unknown[0])}; take the file that they are answers to"
            )
        lines = [{"id": q.id, "said": answers[q.id]} for q in questions if q.id in answers]
        said = {line["id"]: {GIVEN: line["said"]} for line in lines}
        who = {"predictions": str(source or file)}
    told = [
        *found.odd,
        *_lost(lost),
        *_unknown(unknown, file),
        *_told(questions, said, bad, deaf, isinstance(source, Model), version, _digest(found)),
    ]
    more = {"version": version, "questions_digest": _digest(found), **who}
    table = rows(questions, said, len(bad), isinstance(source, Model))
    outcome = Outcome(benchmark.name, table, told, lines, more, counted="answers")
    outcome.write(folder)
    write_page(folder, outcome, questions, said, asked, {"questions": len(questions), "version": version, **who}, place)
    return outcome


# -------------------------------------------------------------------- telling


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
    benchmark: Benchmark, found: File, model: Model, wording: str, letters: bool, version: str | None, root: Path
) -> dict[str, Any]:
    return {
        "benchmark": benchmark.name,
        "version": version,
        "file": _digest(found),
        "wording": hashlib.sha256(wording.encode()).hexdigest()[:16],
        "letters": letters,
        "sounds": str(root.resolve()),
        "answers": model_of(model.config, model.run, model.seed),
    }


def _refuse_unused(**given: Any) -> None:
    if wrong := next((name for name, value in given.items() if value is not None), None):
        raise ConfigError(f"--{wrong} is for a model that is asked; here its answers are read")


def _told(
    questions: Sequence[Question],
    said: Mapping[str, Mapping[str, str]],
    bad: Mapping[str, str],
    deaf: Mapping[str, str],
    asked: bool,
    version: str | None,
    digest: str,
) -> Iterator[str]:
    """What the reader of the numbers has to be told. bad: records that are no questions; deaf: questions whose sounds
    cannot be used."""
    yield (
        f"version: {version or 'not told (--version)'}, questions {digest}; scores of different versions are "
        "not to be compared"
    )
    places = Counter(question.options.index(question.gold) for question in questions)
    told = ", ".join(f"{places[place]} in place {place + 1}" for place in sorted(places))
    yield f"the right option stands {told}, of {len(questions)}"
    if unasked := {**bad, **deaf}:
        first = next(iter(unasked.values()))
        yield f"{len(unasked)} records could not be asked and count as not answered, the first: {first}"
    missing = sum(GIVEN not in said.get(q.id, {}) for q in questions if q.id not in deaf)
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


def _lost(lost: Mapping[str, str]) -> Iterator[str]:
    if lost:
        name, why = next(iter(lost.items()))
        yield f"{len(lost)} times the model could not be asked, which counts as wrong, the first: {name}: {why}"


def _unknown(names: Sequence[str], file: str | Path) -> Iterator[str]:
    """names: ids of answers that are to no question."""
    if names:
        yield (
            f"{len(names)} answers are to no question of {file} and count nothing, the first has the id "
            f"{short(names[0])}"
        )


def _digest(found: File) -> str:
    told = [(q.id, q.text, q.options, q.gold) for q in found.questions]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
