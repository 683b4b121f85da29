"""A simulation as a table and words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmrl.training.simulation.advice import GOAL, Simulated
from mmrl.training.simulation.hardware import Hardware

_HEAD = ("GPUs", "shards", "prompts", "s a step", "sampling", "waiting", "rewards", "update", "sent", "efficiency")


def table(rows: Sequence[Simulated]) -> Iterator[str]:
    """A line for each number of GPUs; below GOAL, what limits it and what would help."""
    cells = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_HEAD))]
    for line in cells:
        yield "  " + "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
    for row in rows:
        if row.efficiency < GOAL:
            yield f"{row.layout.gpus} GPUs: {row.efficiency:.0%}, most is lost to {row.limit}; {_helps(row)}"


def _cells(row: Simulated) -> tuple[str, ...]:
    took = row.seconds
    sent = took["gathering"] + took["whole"] + took["transfer"]
    shown = (row.total, took["sampling"], took["longest"] + took["engines"], took["rewards"], took["update"], sent)
    return (
        str(row.layout.gpus),
        str(row.layout.shards),
        str(row.work.groups),
        *(f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in shown),
        f"{row.efficiency:.0%}",
    )


def _helps(row: Simulated) -> str:
    if not row.advice:
        return "nothing that a config can change helps: fewer GPUs"
    told = ", then ".join(f"{words} ({reached:.0%})" for words, reached in row.advice)
    return f"what helps: {told}"


def assumptions(hard: Hardware, name: str) -> Iterator[str]:
    """Every number that was taken, for the reader."""
    yield f"simulated, not measured, on {name}; numbers that were taken (a YAML file as --hardware changes them):"
    for key, field in Hardware.model_fields.items():
        yield f"  {key} {getattr(hard, key):g}: {field.description}"
    yield (
        "  sampling and updates alternate unless engines sample; a ring for every sum, no tree; efficiency: GPU "
        "seconds of one GPU with memory for all, over those of all"
    )
