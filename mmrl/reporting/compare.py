"""compare.html: runs side by side in one file: curves over each other, what differs in their configs, same prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmrl.reporting.cards import Card, CardMaker
from mmrl.reporting.curves import (
    MAX_OTHER,
    Chart,
    chart_of,
    component_names,
    proportional,
    section,
    series,
    with_evaluations,
)
from mmrl.reporting.drawing import SERIES_COLOURS
from mmrl.reporting.files import write_atomic
from mmrl.reporting.filmstrip import first_samples, shown_prompt
from mmrl.reporting.page import render
from mmrl.reporting.reading import RunReader
from mmrl.reporting.report import ReportError, open_run
from mmrl.reporting.results import Change, Results, Status, results, status
from mmrl.reporting.settings import flat, read_settings, total_steps, trained
from mmrl.reporting.talks import Frame, shared_opening

MOST_RUNS = len(SERIES_COLOURS)
# Keys that say which run it is, and not what it does.
OWN = ("name", "out", "about")
LOGARITHMIC = ("ratio/max_dev", "grad_norm")


@dataclass(frozen=True)
class RunView:
    """One run of a comparison; colour: its number, from 1, on the whole page."""

    name: str
    colour: int
    reader: RunReader
    rows: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    results: Results
    status: Status
    seconds: float | None

    @property
    def main(self) -> Change | None:
        return None if self.results.main is None else self.results.change(self.results.main)

    @property
    def steps(self) -> int:
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def what(self) -> Mapping[str, str]:
        return dict(trained(self.settings))

    @cached_property
    def evaluations(self) -> dict[int, str]:
        """Tags of stored evaluations by their step."""
        last = self.results.step if self.results.finished else self.steps
        ends = {"eval_before": 0, "eval_after": last}
        found = {}
        for tag in self.reader.tags("eval_"):
            number = tag.removeprefix("eval_")
            step = ends.get(tag, int(number) if number.isdecimal() else None)
            if step is not None and self.reader.index(tag)["groups"]:
                found[step] = tag
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class PromptView:
    """One prompt; a card of each run, None where it was not drawn."""

    prompt: str
    cells: Sequence[tuple[RunView, Card | None]]
    frames: tuple[Frame, ...] = ()

    @property
    def drawn(self) -> bool:
        """Whether a run has made a picture of it."""
        return any(card is not None and card.picture for _, card in self.cells)


@dataclass(frozen=True)
class Prompts:
    """The same prompts of several runs. said: which evaluation it is of each run, and what is not as asked."""

    strips: Sequence[PromptView]
    total: int
    said: str


def write_comparison(run_dirs: Sequence[Path], to: Path, max_prompts: int = 12, max_bytes: int = 40_000_000) -> Path:
    """Write one page about several runs, which may be of different lengths, kinds or unfinished, and return its path.

    max_prompts: prompts side by side. max_bytes: bound on all inlined pictures together.
    Raises ReportError for fewer than two runs, more than MOST_RUNS, one that is named twice, or a folder that is no
    run's, and WriteError where the page cannot be written.
    """
    runs = _runs(run_dirs)
    made = [
        section("curves", "Curves", _charts(runs, ("eval/", "reward/"))),
        section("health", "How the update behaves", _charts(runs, ("",), besides=("eval/", "reward/"))),
    ]
    makers: list[CardMaker] = []
    for run in runs:
        shelf = makers[0].shelf if makers else None
        makers.append(CardMaker(run.reader.folder, max_bytes // len(runs), f"run-{run.colour}", shelf))
    prompts = _prompts(runs, makers, max_prompts)
    html = render(
        "compare.html.j2",
        problems=[f"{run.name}: {problem}" for run in runs for problem in run.reader.problems],
        runs=runs,
        modalities=sorted({run.what["modality"] for run in runs if "modality" in run.what}),
        numbers=[(name, [_change(run, name) for run in runs]) for name in _names(runs)],
        sections=[some for some in made if some.charts or some.constant],
        settings=list(_differences(runs)),
        unread=[run.name for run in runs if not run.settings],
        prompts=prompts,
        galleries=[maker.gallery for maker in makers],
        shelf=makers[0].shelf,
    )
    write_atomic(Path(to), html)
    return Path(to)


# -------------------------------------------------------------------- runs


def _runs(run_dirs: Sequence[Path]) -> list[RunView]:
    folders = [Path(folder).resolve() for folder in run_dirs]
    if not 2 <= len(folders) <= MOST_RUNS:
        raise ReportError(f"{len(folders)} run{'s' * (len(folders) != 1)} to compare: give 2 to {MOST_RUNS} folders")
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice:
        raise ReportError(f"{twice} is given twice; give different runs")
    return [_run(folder, name, n) for n, (folder, name) in enumerate(zip(folders, _called(folders)), start=1)]


def _called(folders: Sequence[Path]) -> list[str]:
    """The end of each path, with as many folders above it as tell them apart."""
    for count in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _run(folder: Path, name: str, colour: int) -> RunView:
    reader = open_run(folder)
    rows, summary, ending = reader.rows(), reader.summary(), reader.ending()
    settings = read_settings(reader.text("config.yaml"), "config.yaml", reader.problems)
    if not (rows or summary or ending or reader.tags("eval_")):
        why = f" ({reader.problems[0]})" if reader.problems else ""
        raise ReportError(f"{folder} is no run's folder: it has no metrics or evaluations that can be shown{why}")
    return RunView(
        name,
        colour,
        reader,
        rows,
        settings,
        results(rows, summary, reader.index("eval_before")["extra"]),
        status(rows, summary, ending, total_steps(settings)),
        summary["wall_s"] if summary else sum(row.get("time/step") or 0.0 for row in rows) or None,
    )


def _names(runs: Sequence[RunView]) -> list[str]:
    """Of evaluation metrics, those first that most runs have, then main ones."""
    found = dict.fromkeys(name for run in runs for name in run.results.names)
    mains = {run.results.main for run in runs}
    return sorted(found, key=lambda name: (-sum(name in run.results.names for run in runs), name not in mains))


def _change(run: RunView, name: str) -> Change | None:
    return run.results.change(name) if name in run.results.names else None


# -------------------------------------------------------------------- curves and keys


def _charts(runs: Sequence[RunView], prefixes: tuple[str, ...], besides: tuple[str, ...] = ("\0",)) -> Iterator[Chart]:
    """A chart for each metric of at least one run, with a line for each run that has it."""
    rows = {run.colour: with_evaluations(run.rows, run.results.by_step) for run in runs}
    names = dict.fromkeys(key for some in rows.values() for row in some for key in row)
    mains = {f"eval/{run.results.main}" for run in runs}
    wanted = [key for key in names if key.startswith(prefixes) and not key.startswith(besides) and key != "step"]
    wanted = [key for key in wanted if not _said_by_the_mean(runs, key)]
    wanted.sort(key=lambda key: (key not in mains, key != "reward/mean", not key.startswith("eval/")))
    for key in wanted[:MAX_OTHER]:
        lines = [replace(series(rows[run.colour], key, run.name), colour=run.colour) for run in runs]
        lines = [line for line in lines if line.last is not None]
        if lines:
            marked = key.startswith("eval/")
            note = "" if len(lines) == len(runs) else "only of the runs that have it"
            yield chart_of(key, note, lines, "o" if marked else "", key in LOGARITHMIC, not marked)


def _said_by_the_mean(runs: Sequence[RunView], key: str) -> bool:
    """Whether it is the only reward of each run that has it, so that its mean draws the same line."""
    those = [component_names(run.rows) for run in runs if any(key in row for row in run.rows)]
    alone = bool(those) and all(names == [key] for names in those)
    return alone and all(proportional(run.rows, key, "reward/mean") for run in runs if any(key in r for r in run.rows))


def _differences(runs: Sequence[RunView]) -> Iterator[tuple[str, list[str | None]]]:
    """Keys of the configs that are not the same in all runs with one, and each run's value."""
    values = [flat(run.settings) for run in runs]
    read = [some for some in values if some]
    for key in dict.fromkeys(key for some in read for key in some):
        if key not in OWN and len({some.get(key) for some in read}) > 1:
            yield key, [some.get(key) for some in values]


# -------------------------------------------------------------------- prompts


def _prompts(runs: Sequence[RunView], makers: Sequence[CardMaker], max_prompts: int) -> Prompts:
    tags, why = _common(runs)
    samples = {
        run.colour: first_samples(run.reader.index(tag), run.results.main)
        for run in runs
        if (tag := tags.get(run.colour)) is not None
    }
    shared = [
        (id_, text)
        for id_, (text, _) in next(iter(samples.values()), {}).items()
        if len(samples) > 1 and all(id_ in some and some[id_][0] == text for some in samples.values())
    ]
    if len(samples) > 1 and not shared:
        why = f"{why} The runs were evaluated on different prompts.".strip()
    strips = [_strip(runs, makers, tags, samples, id_, text) for id_, text in shared[:max_prompts]]
    when = {run.name: _when(run, tags[run.colour]) for run in runs if run.colour in tags}
    alike = len(set(when.values())) == 1 and len(when) == len(runs)
    told = [f"All {next(iter(when.values()))}."] if alike else [f"{name}: {step}." for name, step in when.items()]
    return Prompts(strips, len(shared), " ".join(filter(None, [*told, why])))


def _common(runs: Sequence[RunView]) -> tuple[dict[int, str], str]:
    """(tag of each run that has stored evaluations, by its colour; what there is to say of them).

    The last step at which all of them were evaluated; where that is none but the beginning, each run's last one.
    """
    there = [run for run in runs if run.evaluations]
    missing = [run.name for run in runs if not run.evaluations]
    why = f"No stored evaluation: {', '.join(missing)}." if missing else ""
    if not there:
        return {}, why
    common = set.intersection(*(set(run.evaluations) for run in there))
    trained_on = any(set(run.evaluations) - {0} for run in there)
    if common - ({0} if trained_on else set()):
        step = max(common)
        return {run.colour: run.evaluations[step] for run in there}, why
    why = f"{why} No evaluation of all runs was made at the same step: of each its last one.".strip()
    return {run.colour: list(run.evaluations.values())[-1] for run in there}, why


def _when(run: RunView, tag: str) -> str:
    step = next(step for step, known in run.evaluations.items() if known == tag)
    return "before training" if step == 0 else f"at step {step}"


def _strip(
    runs: Sequence[RunView],
    makers: Sequence[CardMaker],
    tags: Mapping[int, str],
    samples: Mapping[int, Mapping[str, tuple[str, Mapping[str, Any]]]],
    id_: str,
    text: str,
) -> PromptView:
    there = [(run, maker, samples[run.colour][id_][1]) for run, maker in zip(runs, makers) if run.colour in samples]
    count = shared_opening([record for _, _, record in there])
    cards = {run.colour: maker.card(tags[run.colour], record, opening=count) for run, maker, record in there}
    run, maker, record = there[0]
    opening = maker.opening(tags[run.colour], record, count) if count else ()
    frames = tuple(frame for turn in opening for frame in turn.frames)
    return PromptView(shown_prompt(text), [(run, cards.get(run.colour)) for run in runs], frames)
