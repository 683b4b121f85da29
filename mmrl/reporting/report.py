"""report.html: a run folder as one file that opens anywhere, rebuilt from the folder alone."""

from __future__ import annotations

from pathlib import Path

from mmrl.reporting.cards import CardMaker
from mmrl.reporting.curves import (
    conversation_charts,
    evaluation_charts,
    health_charts,
    not_drawn,
    reward_charts,
    role_charts,
    section,
)
from mmrl.reporting.files import write_atomic
from mmrl.reporting.filmstrip import TEACHER, UNFOLDED, evaluation_tags, filmstrip, tag_title
from mmrl.reporting.groups import evaluated_by, step_view, training_tags
from mmrl.reporting.outcomes import status_charts
from mmrl.reporting.page import render
from mmrl.reporting.reading import RunReader
from mmrl.reporting.results import facts, headline, results, status, teacher_of
from mmrl.reporting.settings import about, read_settings, total_steps, trained


class ReportError(RuntimeError):
    """A folder that is no run's; says why."""


def write_report(
    run_dir: Path,
    max_groups: int = 6,
    max_prompts: int = 12,
    max_samples: int = 16,
    max_bytes: int = 40_000_000,
) -> Path:
    """Write run_dir/report.html from what the folder holds and return its path.

    max_groups: groups shown of a training step; max_samples: samples of a group (the best and the worst).
    max_prompts: prompts in the filmstrip. max_bytes: bound on all inlined pictures, sounds and meshes together.
    Sections without data are left out; what is broken, missing or leads out of the folder is named and not shown.
    Raises ReportError where the folder is no run's, and WriteError where the report cannot be written.
    """
    reader = open_run(run_dir)
    rows, summary, ending = reader.rows(), reader.summary(), reader.ending()
    config, plan = reader.text("config.yaml"), reader.text("plan.txt")
    settings = read_settings(config, "config.yaml", reader.problems)
    found = results(rows, summary, reader.index("eval_before")["extra"])
    maker = CardMaker(reader.folder, max_bytes)
    evaluations = evaluation_tags(reader)
    asked_too = evaluated_by(maker, reader, [tag for tag in evaluations if tag != TEACHER], found.main)
    steps = [step_view(maker, reader, tag, max_groups, max_samples, asked_too) for tag in training_tags(reader)]
    steps = [step for step in steps if step.groups]
    offending = reader.tags("offending_")[-3:]
    broke = [step_view(maker, reader, tag, max_groups, max_samples) for tag in offending]
    broke = [step for step in broke if step.groups or step.why]
    if not (rows or summary or ending or evaluations or steps or broke or plan):
        why = f" ({reader.problems[0]})" if reader.problems else ""
        raise ReportError(f"{run_dir} is no run's folder: it has no metrics, samples or plan that can be shown{why}")
    if left_out := not_drawn(rows):
        reader.problems.append(f"metrics.jsonl: {len(left_out)} more metrics are not drawn, first {left_out[0][:80]!r}")
    charts = [*evaluation_charts(rows, found.by_step, found.main), *reward_charts(rows)]
    sections = [
        section("curves", "Curves", charts),
        section("outcomes", "What became of the samples", status_charts(rows)),
        section("conversations", "What conversations are like", conversation_charts(rows)),
        section("roles", "What each role learns", role_charts(rows)),
        section("health", "How the update behaves", health_charts(rows)),
    ]
    html = render(
        "report.html.j2",
        name=reader.folder.root.name,
        about=about(settings),
        trained=trained(settings),
        status=status(rows, summary, ending, total_steps(settings)),
        headline=headline(rows, found),
        facts=facts(rows, summary),
        table=[found.change(name) for name in found.names],
        teacher=teacher_of(reader.index(TEACHER)["extra"]),
        columns=[tag_title(tag) for tag in evaluations],
        strips=filmstrip(maker, reader, evaluations, max_prompts, found.main),
        unfolded=UNFOLDED,
        prompts_total=len({g["prompt"]["id"] for tag in evaluations for g in reader.index(tag)["groups"]}),
        sections=[made for made in sections if made.charts or made.constant],
        steps=steps,
        offending=broke,
        config=config,
        plan=plan,
        gallery=maker.gallery,
        shelf=maker.shelf,
        problems=reader.problems,
    )
    path = Path(run_dir) / "report.html"
    write_atomic(path, html)
    return path


def open_run(run_dir: Path) -> RunReader:
    """A reader of the folder. Raises ReportError where there is none."""
    if not Path(run_dir).is_dir():
        raise ReportError(f"run folder {run_dir} does not exist; give the folder that holds metrics.jsonl")
    return RunReader(run_dir)
