"""report.html: a run folder as one file that opens anywhere, rebuilt from the folder alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmrl.reporting.cards import Card, CardMaker, by_advantage
from mmrl.reporting.curves import (
    Chart,
    conversation_charts,
    evaluation_charts,
    health_charts,
    not_drawn,
    reward_charts,
)
from mmrl.reporting.files import write_atomic
from mmrl.reporting.progress import duration
from mmrl.reporting.reading import RunReader
from mmrl.reporting.talks import PLACE, SIGN, Frame, TurnView, shared_opening
from mmrl.reporting.words import breakable, clip, number, signed

TEMPLATES = Path(__file__).parent / "templates"
MAX_COLUMNS = 5
MAX_PROMPT = 600
MOST_PROBLEMS = 30


class ReportError(RuntimeError):
    """A folder that is no run's; says why."""


@dataclass(frozen=True)
class Headline:
    """The main metric before and after, and where the two numbers come from."""

    metric: str
    source: str
    before: float | None
    after: float | None

    @property
    def delta(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class Strip:
    """One prompt of the filmstrip: a card per evaluation, None where it was not drawn. frames: what all were shown."""

    prompt: str
    cards: tuple[Card | None, ...]
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True)
class GroupView:
    """One group, best sample first. `scale` is the largest |advantage|, the length of a full bar.

    opening: the turns that all its samples begin with, where they are conversations.
    """

    prompt: str
    id: str
    cards: tuple[Card, ...]
    total: int
    scale: float
    opening: tuple[TurnView, ...] = ()


@dataclass(frozen=True)
class StepView:
    """The groups shown of one stored tag, of `total` that it holds."""

    title: str
    groups: tuple[GroupView, ...]
    total: int
    why: str = ""


def write_report(
    run_dir: Path,
    max_groups: int = 6,
    max_prompts: int = 12,
    max_samples: int = 16,
    max_bytes: int = 40_000_000,
) -> Path:
    """Write run_dir/report.html from what the folder holds and return its path.

    max_groups: groups shown of a training step; max_samples: samples of a group (the best and the worst).
    max_prompts: prompts in the filmstrip. max_bytes: bound on all inlined pictures together.
    Sections without data are left out; what is broken, missing or leads out of the folder is named and not shown.
    Raises ReportError where the folder is no run's, and WriteError where the report cannot be written.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise ReportError(f"run folder {run_dir} does not exist; give the folder that holds metrics.jsonl")
    reader = RunReader(run_dir)
    rows, summary = reader.rows(), reader.summary()
    main = summary["main_metric"].removeprefix("eval/") if summary else None
    maker = CardMaker(reader.folder, max_bytes)
    evaluations = evaluation_tags(reader)
    offending = reader.tags("offending_")[-3:]
    steps = [_step_view(maker, reader, tag, max_groups, max_samples) for tag in training_tags(reader)]
    steps = [step for step in steps if step.groups]
    broke = [_step_view(maker, reader, tag, max_groups, max_samples) for tag in offending]
    broke = [step for step in broke if step.groups or step.why]
    plan = reader.text("plan.txt")
    if not (rows or summary or evaluations or steps or broke or plan):
        why = f" ({reader.problems[0]})" if reader.problems else ""
        raise ReportError(f"{run_dir} is no run's folder: it has no metrics, samples or plan that can be shown{why}")
    if left_out := not_drawn(rows):
        reader.problems.append(f"metrics.jsonl: {len(left_out)} more metrics are not drawn, first {left_out[0][:80]!r}")
    page = _environment().get_template("report.html.j2")
    html = page.render(
        name=reader.folder.root.name,
        headline=headline(rows, summary),
        facts=facts(rows, summary),
        table=evaluation_table(summary),
        columns=[tag_title(tag) for tag in evaluations],
        strips=filmstrip(maker, reader, evaluations, max_prompts, main),
        prompts_total=len({g["prompt"]["id"] for tag in evaluations for g in reader.index(tag)["groups"]}),
        sections=_chart_sections(rows, summary, main),
        steps=steps,
        offending=broke,
        config=reader.text("config.yaml"),
        plan=plan,
        gallery=maker.gallery,
        finished=summary is not None,
        problems=reader.problems[:MOST_PROBLEMS],
        problems_total=len(reader.problems),
    )
    path = run_dir / "report.html"
    write_atomic(path, html)
    return path


def headline(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None) -> Headline | None:
    """The main metric of the evaluations; without them the training reward, said to be that."""
    name = summary["main_metric"] if summary else ""
    before, after = (summary["eval"]["before"], summary["eval"]["after"]) if summary else ({}, {})
    if name in before or name in after:
        source = "evaluation before and after training"
        return Headline(name.removeprefix("eval/"), source, before.get(name), after.get(name))
    values = [row["reward/mean"] for row in rows if row.get("reward/mean") is not None]
    if not values:
        return None
    return Headline("reward/mean", "training reward, first and last recorded step", values[0], values[-1])


def facts(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """(label, value) pairs under the headline."""
    if summary:
        told: list[tuple[str, str, Callable[[Any], str]]] = [
            ("steps", "steps", "{:,}".format),
            ("wall time", "wall_s", duration),
            ("samples", "samples", "{:,}".format),
            ("actions", "actions", "{:,}".format),
            ("peak memory", "peak_rss_mb", "{:,.0f} MB".format),
            ("seed", "seed", str),
            ("config", "config", str),
        ]
        return [(label, form(summary[key])) for label, key, form in told if summary[key] is not None]
    if not rows:
        return []
    seconds = sum(row.get("time/step") or 0.0 for row in rows)
    return [("steps", f"{rows[-1]['step']:,}")] + ([("wall time", duration(seconds))] if seconds else [])


def evaluation_table(summary: Mapping[str, Any] | None) -> list[Headline]:
    """Every evaluation metric before and after, the main one included."""
    if not summary:
        return []
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    names = dict.fromkeys([*before, *after])
    return [Headline(name.removeprefix("eval/"), "", before.get(name), after.get(name)) for name in names]


def evaluation_tags(reader: RunReader) -> list[str]:
    """eval_before, up to three evaluations in between (evenly spread), eval_after; those with something to show."""
    tags = [tag for tag in reader.tags("eval_") if reader.index(tag)["groups"]]
    ends = {"eval_before", "eval_after"}
    between = spread([tag for tag in tags if tag not in ends], MAX_COLUMNS - 2)
    return [tag for tag in ("eval_before", *between, "eval_after") if tag in tags]


def training_tags(reader: RunReader) -> list[str]:
    """First, middle and last stored training step."""
    return spread(reader.tags("step_"), 3)


def spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, evenly spread, the first and last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def filmstrip(
    maker: CardMaker, reader: RunReader, tags: Sequence[str], max_prompts: int, main: str | None
) -> list[Strip]:
    """The first prompts of the evaluations in their own order, first sample of each, one card a tag.

    main: the reward whose score a card shows, and its change since the first column; see `judged`.
    """
    first_samples = [_first_samples(reader.index(tag), main) for tag in tags]
    prompts = {id_: text for samples in first_samples for id_, (text, _) in samples.items()}
    strips = []
    for id_, text in list(prompts.items())[:max_prompts]:
        records = [samples[id_][1] if id_ in samples else None for samples in first_samples]
        there = [(tag, record) for tag, record in zip(tags, records, strict=True) if record]
        count = shared_opening([record for _, record in there])
        opening = maker.opening(*there[0], count) if count else ()
        cards = [
            maker.card(tag, record, _change(records[0], record) if place else None, count) if record else None
            for place, (tag, record) in enumerate(zip(tags, records, strict=True))
        ]
        frames = tuple(frame for turn in opening for frame in turn.frames)
        strips.append(Strip(_prompt(text), tuple(cards), frames))
    return strips


def judged(record: Mapping[str, Any], main: str | None) -> Mapping[str, Any]:
    """A sample of an evaluation with its score of the main metric as its reward, as evaluations combine no rewards.

    main: the reward of the main metric; before the run has a summary that says it, the first one, which it is.
    """
    scores = record["scores"]
    name = main if main in scores else next(iter(scores), None)
    return record if record["reward"] is not None or name is None else {**record, "reward": scores[name]["value"]}


def tag_title(tag: str) -> str:
    """eval_before -> before, eval_000050 -> step 50, step_000012 -> step 12."""
    kind, _, rest = tag.partition("_")
    if rest.isdecimal():
        return f"{kind if kind == 'offending' else 'step'} {int(rest)}"
    return rest or kind


def _first_samples(index: Mapping[str, Any], main: str | None) -> dict[str, tuple[str, Mapping[str, Any]]]:
    return {
        group["prompt"]["id"]: (
            group["prompt"]["text"],
            judged(min(group["samples"], key=lambda sample: sample["index"]), main),
        )
        for group in index["groups"]
        if group["samples"]
    }


def _change(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> float | None:
    if not before or not now or before["reward"] is None or now["reward"] is None:
        return None
    return now["reward"] - before["reward"]


def _step_view(maker: CardMaker, reader: RunReader, tag: str, max_groups: int, max_samples: int) -> StepView:
    index = reader.index(tag)
    groups = [_group_view(maker, tag, group, max_samples) for group in index["groups"][:max_groups]]
    return StepView(
        tag_title(tag),
        tuple(groups),
        len(index["groups"]),
        clip(str(index["extra"].get("why", "")), MAX_PROMPT),
    )


def _group_view(maker: CardMaker, tag: str, group: Mapping[str, Any], max_samples: int) -> GroupView:
    ranked = by_advantage(group["samples"])
    shown = ranked
    if len(ranked) > max_samples:
        worst = max_samples // 2
        shown = ranked[: max_samples - worst] + ranked[len(ranked) - worst :]
    advantages = [abs(sample["advantage"]) for sample in ranked if sample["advantage"] is not None]
    count = shared_opening(shown)
    return GroupView(
        prompt=_prompt(group["prompt"]["text"]),
        id=group["prompt"]["id"],
        cards=tuple(maker.card(tag, sample, opening=count) for sample in shown),
        total=len(ranked),
        scale=max(advantages, default=0.0),
        opening=maker.opening(tag, shown[0], count) if count else (),
    )


def _prompt(text: str) -> str:
    return clip(text.replace(PLACE, f"{SIGN} "), MAX_PROMPT)


def _chart_sections(
    rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None, main: str | None
) -> list[tuple[str, str, list[Chart]]]:
    sections = [
        ("evaluation-curves", "Evaluation", evaluation_charts(rows, summary, main)),
        ("reward", "Reward while training", reward_charts(rows)),
        ("conversations", "What conversations are like", conversation_charts(rows)),
        ("health", "How the update behaves", health_charts(rows)),
    ]
    return [section for section in sections if section[2]]


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # prompts, answers and reasons are untrusted
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "breakable": breakable, "trusted": Markup}
    return environment
