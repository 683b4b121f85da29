"""GenEval of a model, or of pictures that are there: drawn, looked at by a detector, scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from mmrl.bench.geneval.found import Colours, Detector
from mmrl.bench.geneval.load import open_detector
from mmrl.bench.geneval.reading import Task, labels, read
from mmrl.bench.geneval.rules import Rules, kept, right
from mmrl.bench.geneval.scores import rows
from mmrl.bench.items import MAX_PIXELS, Gallery, Item
from mmrl.bench.judged import Line, judged
from mmrl.bench.ledger import Ledger
from mmrl.bench.outcome import Outcome
from mmrl.bench.page import Point, write_page
from mmrl.bench.source import Source
from mmrl.config import ConfigError
from mmrl.near import short
from mmrl.pictures import open_image
from mmrl.reporting.files import write_atomic
from mmrl.share import resolve

NAME = "geneval"
METADATA = "metadata.jsonl"  # beside the pictures of each prompt, for the benchmark's own scripts


def evaluate(
    file: str | Path,
    source: Source,
    detector: str | Detector,
    *,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    clip: str | Path | Colours | None = None,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    pictures: int = 4,
    limit: int | None = None,
    allow: Sequence[str] = (),
    quiet: bool = True,
) -> Outcome:
    """Measure pictures on GenEval.

    file: the benchmark's evaluation_metadata.jsonl; limit: its first prompts alone. detector: a word for
    load.open_detector, with `options`, or a Detector. clip: the folder of a CLIP model, or a Colours, for files that
    ask for colours and a detector that does not name them. pictures: a prompt, 4 in the benchmark.
    out: as in unigenbench.evaluation.evaluate. Raises ConfigError before anything is drawn.
    """
    tasks = read(file)
    folder, items = Path(out), tasks[:limit]
    seer = _detector(detector, labels(tasks), rules, options or {})
    colours = _colours(clip, seer, items)
    settings = {
        "benchmark": NAME,
        "file": hashlib.sha256(json.dumps([task.record for task in tasks]).encode()).hexdigest()[:16],
        "pictures_a_prompt": pictures,
        "pictures": source.settings(),
        "detector": seer.identity,
        "clip": colours.identity if colours else None,
        "rules": asdict(rules),
    }
    gallery = source.gallery(folder, names, pictures)
    if source.folder is not None:
        _check_metadata(gallery, items)
    ledger = Ledger(folder, settings, allow)
    told = {task.id: task for task in items}
    source.fill(gallery, items, lambda item: _write_metadata(gallery, told[item.id]), quiet=quiet)
    ask = partial(_verdict, seer, colours, rules)
    lines = judged(items, gallery, ledger, ask, quiet=quiet, told="looking at pictures")
    outcome = Outcome(NAME, rows(items, lines), (), lines)
    outcome.write(folder)
    facts = {
        "pictures": len(lines),
        "prompts": len(items),
        "detector": seer.identity.split()[0],
        "colours": "the detector's" if seer.names_colours else "CLIP's" if colours else None,
        **source.facts(),
    }
    write_page(folder, outcome, gallery, items, points, facts, lambda task: task.tag, tally=False)
    return outcome


def points(task: Task, line: Line) -> list[Point]:
    """What the page says of a picture: that it is right, or each fault; and what was found."""
    names = [" ".join(dict.fromkeys((one.get("colour") or one["label"], one["label"]))) for one in line["found"]]
    wrong = [Point(fault, False) for fault in line["faults"]]
    told = wrong or [Point("right", True)]
    return [*told[:-1], replace(told[-1], about=f"found: {', '.join(names) or 'nothing'}")]


def names(item: Item, k: int) -> list[str]:
    """What the benchmark's scripts, and its page, call a picture."""
    return [f"{int(item.id):05}/samples/{number}.png" for number in (f"{k:05}", f"{k:04}", f"{k}")]


def _detector(detector: str | Detector, wanted: Sequence[str], rules: Rules, options: Mapping[str, Any]) -> Detector:
    if isinstance(detector, str):
        return open_detector(detector, wanted, min(rules.threshold, rules.counting), options)
    if options:
        raise ConfigError("options are those of a detector that is named; this one is there")
    return detector


def _colours(clip: str | Path | Colours | None, detector: Detector, items: Sequence[Task]) -> Colours | None:
    asked = next((task for task in items if any(clause.colour for clause in task.include)), None)
    if clip is None:
        if asked is not None and not detector.names_colours:
            raise ConfigError(
                f"prompt {short(asked.text)} asks for a colour, which the detector does not name: --clip FOLDER"
            )
        return None
    if asked is None or detector.names_colours:
        why = "the detector names colours itself" if detector.names_colours else "no prompt asks for a colour"
        raise ConfigError(f"--clip: {why}; leave it out")
    if not isinstance(clip, str | Path):
        return clip
    from mmrl.bench.geneval.colours import ClipColours

    if not (folder := resolve(str(clip))).is_dir():
        raise ConfigError(f"--clip: there is no folder {folder}")
    return ClipColours(folder)


def _verdict(detector: Detector, colours: Colours | None, rules: Rules, task: Task, path: Path) -> Line:
    """`right`, the faults where it is not, and the objects that counted."""
    picture = open_image(path.name, path.parent, MAX_PIXELS)
    objects = kept(detector.detect(picture), task.tag, rules)

    def name(label: str, these: Sequence[Any]) -> list[str]:
        return colours.name(picture, label, these) if colours else [str(one.colour) for one in these]

    well, faults = right(task, objects, name, rules)
    found = [one.as_json() for some in objects.values() for one in some]
    return {"tag": task.tag, "right": well, "faults": faults, "found": found}


# -------------------------------------------------------------------- metadata


def _place(gallery: Gallery, item: Item) -> Path:
    return gallery.path(item, 0).parent.parent / METADATA


def _write_metadata(gallery: Gallery, task: Task) -> None:
    write_atomic(_place(gallery, task), json.dumps(task.record) + "\n")


def _check_metadata(gallery: Gallery, tasks: Sequence[Task]) -> None:
    """Raise ConfigError where a folder says that its pictures are of another prompt than the file has there."""
    for task in tasks:
        path = _place(gallery, task)
        if not path.is_file():
            continue
        try:
            told = json.loads(path.read_text(encoding="utf-8"))["prompt"]
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
        if told != task.text:
            raise ConfigError(f"{path}: pictures of {short(told)}, but the file has {short(task.text)} there")
