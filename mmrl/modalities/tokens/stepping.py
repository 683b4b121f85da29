"""Single reasoning steps for tree search: sampled behind a path of steps, and as samples that train them alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmrl.engines.base import Completion, Engine, Sampling
from mmrl.engines.decoder import Row
from mmrl.modalities.tokens.reading import Reader
from mmrl.types import Prompt, Sample, Trajectory, Turn


def next_steps(
    reader: Reader,
    engine: Engine,
    items: Sequence[tuple[Prompt, Sequence[Completion]]],
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
    end: str,
) -> list[list[Completion]]:
    """For each (prompt, path of steps so far) as many next steps as it has seeds; every item has equally many.

    A step ends behind the first `end` in its text (stop "step"), with an end token ("eos") or with its budget.
    """
    if not items:
        return []
    rows = [reader.opened(prompt, reader.context(prompt)).row.then(_joined(path)) for prompt, path in items]
    made = engine.generate(rows, len(seeds[0]), sampling, seeds)
    return [[_cut(reader, step, end) for step in steps] for steps in made]


def stepped(reader: Reader, prompt: Prompt, path: Sequence[Completion], steps: Sequence[Completion]) -> Sample:
    """The sample of steps behind a path: only the steps are trained."""
    opened, rest = reader.opened(prompt, reader.context(prompt)), _joined(steps)
    tensors = {"prompt": opened.row.then(_joined(path)).ids, "ids": rest.ids}
    logp = torch.cat([step.logp for step in steps])
    trajectory = Trajectory(logp, torch.ones(len(logp), dtype=torch.bool), tensors)
    said = reader.text(rest.ids)
    before = [Turn("assistant", reader.text(_joined(path).ids))] if path else []
    turns = (*opened.turns, *before, Turn("assistant", said, trained=True))
    stop, words = steps[-1].stop, reader.words(rest.ids)
    return Sample(
        prompt,
        0,
        said,
        trajectory,
        stop,
        words=words,
        turns=turns,
        media=tuple(opened.media),
        info=reader.info(prompt),
    )


def _cut(reader: Reader, step: Completion, end: str) -> Completion:
    """The step up to the id with which its text has `end`."""
    if end not in reader.text(step.ids):
        return step
    count = next(k for k in range(1, len(step.ids) + 1) if end in reader.text(step.ids[:k]))
    stop = step.stop if count == len(step.ids) and step.stop == "eos" else "step"
    return Completion(step.ids[:count], step.logp[:count], stop)


def _joined(steps: Sequence[Completion]) -> Row:
    return Row(torch.cat([torch.zeros(0, dtype=torch.int64), *(step.ids for step in steps)]))
