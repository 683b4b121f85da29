"""From verdicts to scores: by task, overall, and by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.bench.geneval.reading import Task
from mmrl.bench.shares import Row, Share

OVERALL, PICTURES, PROMPTS = "overall", "all pictures", "prompts with a right picture"


def rows(tasks: Sequence[Task], lines: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The table of an evaluation, as the released summary_scores.py has it. lines: of `id` and `right`.

    `overall` is the mean of the tasks that there are, each once; a task is the share of its pictures that are right.
    """
    tags = {task.id: task.tag for task in tasks}
    by_tag: dict[str, Share] = {}
    by_prompt: dict[str, bool] = {}
    for line in lines:
        tag, said = tags[line["id"]], bool(line["right"])
        by_tag[tag] = by_tag.get(tag, Share()) + Share(int(said), 1, 1)
        by_prompt[line["id"]] = by_prompt.get(line["id"], False) or said
    some = Share(sum(by_prompt.values()), len(by_prompt), len(by_prompt))
    return [
        Row.mean(OVERALL, by_tag.values()),
        *(Row.of(tag, share) for tag, share in by_tag.items()),
        Row.of(PICTURES, sum(by_tag.values(), Share())),
        Row.of(PROMPTS, some),
    ]
