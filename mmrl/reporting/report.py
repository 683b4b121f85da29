"""report.html: a run folder as one file that opens anywhere, rebuilt from the folder alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmrl.reporting.cards import Card, CardMaker, by_advantage, clip
from mmrl.reporting.curves import Chart, conversation_charts, evaluation_charts, health_charts, reward_charts
from mmrl.reporting.files import write_atomic
from mmrl.reporting.metrics import read_metrics
from mmrl.reporting.progress import duration
from mmrl.reporting.samples import list_tags, read_index
from mmrl.reporting.summary import read_summary
from mmrl.reporting.talks import PLACE, SIGN, Frame, TurnView, shared_opening

TEMPLATES = Path(__file__).parent / "templates"
MAX_COLUMNS = 5
MAX_PROMPT = 600


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
    Sections without data are left out. Raises FileNotFoundError when the folder does not exist.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise FileNotFoundError(f"run folder {run_dir} does not exist; give the folder that holds metrics.jsonl")
    rows, summary = read_metrics(run_dir / "metrics.jsonl"), read_summary(run_dir)
    main = summary["main_metric"].removeprefix("eval/") if summary else None
    maker = CardMaker(run_dir, max_bytes)
    evaluations = evaluation_tags(run_dir)
    page = _environment().get_template("report.html.j2")
    html = page.render(
        name=run_dir.resolve().name,
        headline=headline(rows, summary),
        facts=facts(rows, summary),
        table=evaluation_table(summary),
        columns=[tag_title(tag) for tag in evaluations],
        strips=filmstrip(maker, evaluations, max_prompts),
        prompts_total=_count(run_dir, evaluations),
        sections=_chart_sections(rows, summary, main),
        steps=[_step_view(maker, tag, max_groups, max_samples) for tag in training_tags(run_dir)],
        offending=[_step_view(maker, tag, max_groups, max_samples) for tag in list_tags(run_dir, "offending_")[-3:]],
        config=_text(run_dir / "config.yaml"),
        plan=_text(run_dir / "plan.txt"),
        gallery=maker.gallery,
        finished=summary is not None,
    )
    path = run_dir / "report.html"
    write_atomic(path, html)
    return path


def headline(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None) -> Headline | None:
    """The main metric of the evaluations; without them the training reward, said to be that."""
    if summary and (summary["eval"]["before"] or summary["eval"]["after"]):
        name, evaluations = summary["main_metric"], summary["eval"]
        return Headline(
            name.removeprefix("eval/"),
            "evaluation before and after training",
            evaluations["before"].get(name),
            evaluations["after"].get(name),
        )
    values = [row["reward/mean"] for row in rows if row.get("reward/mean") is not None]
    if not values:
        return None
    return Headline("reward/mean", "training reward, first and last recorded step", values[0], values[-1])


def facts(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """(label, value) pairs under the headline."""
    if summary:
        return [
            ("steps", f"{summary['steps']:,}"),
            ("wall time", duration(summary["wall_s"])),
            ("samples", f"{summary['samples']:,}"),
            ("actions", f"{summary['actions']:,}"),
            ("peak memory", f"{summary['peak_rss_mb']:,.0f} MB"),
            ("seed", str(summary["seed"])),
            ("config", summary["config"]),
        ]
    if not rows:
        return []
    seconds = sum(row.get("time/step") or 0.0 for row in rows)
    return [("steps", f"{rows[-1]['step']:,}")] + ([("wall time", duration(seconds))] if seconds else [])


def evaluation_table(summary: Mapping[str, Any] | None) -> list[Headline]:
    """Every evaluation metric before and after, the main one included."""
    if not summary:
        return []
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    return [Headline(name, "", before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])]


def evaluation_tags(run_dir: Path) -> list[str]:
    """eval_before, up to three evaluations in between (evenly spread), eval_after; those that exist."""
    tags = list_tags(run_dir, "eval_")
    ends = {"eval_before", "eval_after"}
    between = spread([tag for tag in tags if tag not in ends], MAX_COLUMNS - 2)
    return [tag for tag in ("eval_before", *between, "eval_after") if tag in tags]


def training_tags(run_dir: Path) -> list[str]:
    """First, middle and last stored training step."""
    return spread(list_tags(run_dir, "step_"), 3)


def spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, evenly spread, the first and last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def filmstrip(maker: CardMaker, tags: Sequence[str], max_prompts: int) -> list[Strip]:
    """The first prompts of the evaluations in their own order, first sample of each, one card a tag."""
    first_samples = [_first_samples(read_index(maker.run_dir, tag)) for tag in tags]
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


def tag_title(tag: str) -> str:
    """eval_before -> before, eval_000050 -> step 50, step_000012 -> step 12."""
    kind, _, rest = tag.partition("_")
    if rest.isdecimal():
        return f"{kind if kind == 'offending' else 'step'} {int(rest)}"
    return rest or kind


def _first_samples(index: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    return {
        group["prompt"]["id"]: (group["prompt"]["text"], min(group["samples"], key=lambda s: s["index"]))
        for group in index["groups"]
        if group["samples"]
    }


def _change(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> float | None:
    if not before or not now or before["reward"] is None or now["reward"] is None:
        return None
    return now["reward"] - before["reward"]


def _count(run_dir: Path, tags: Sequence[str]) -> int:
    return len({g["prompt"]["id"] for tag in tags for g in read_index(run_dir, tag)["groups"]})


def _step_view(maker: CardMaker, tag: str, max_groups: int, max_samples: int) -> StepView:
    index = read_index(maker.run_dir, tag)
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


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # prompts, answers and reasons are untrusted
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "trusted": Markup}
    return environment


def number(value: float | None) -> str:
    """Three decimals, or three significant digits when that would say too little or too much; – for None."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size == 0 or 0.01 <= size < 1000:
        text = f"{size:.3f}"
    else:
        text = f"{size:,.0f}" if 1000 <= size < 1e6 else f"{size:.2e}"
    return f"−{text}" if value < 0 else text


def signed(value: float | None) -> str:
    """`number` with its sign, a true minus."""
    if value is None or not math.isfinite(value):
        return "–"
    return number(value) if value < 0 else "+" + number(value)
