"""Paths of searched trees with the values of their steps: what a process reward model learns from (PROPA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.config import FilterStage
from mmrl.environments import tree_search as tree
from mmrl.training.cursor import Cursor
from mmrl.training.rollouts.branching import REWARD, searched, unasked
from mmrl.training.rollouts.broken import without_broken
from mmrl.training.run import Run
from mmrl.types import Group, Prompt, Sample, Score


def labelled(
    run: Run,
    options: FilterStage,
    weights: Mapping[str, float],
    questions: Sequence[Group],
    step: int,
    seed: int,
    cursor: Cursor,
) -> list[Group]:
    """A group a question, a sample for each of `tree_search.labelled_paths` of its tree.

    sample.scores["tree"] is the path's reward, or does not apply to one that is not finished; its details are `steps`
    and `values`. Nothing can be trained on these samples: they have no trajectory. weights: of the rewards that judge
    finished paths. Questions whose pictures are broken have no group. Raises RewardFailure, see branching.branched.
    """

    def roll(some: list[Group]) -> list[Group]:
        assert options.tree is not None
        prompts, roots = searched(run, options.tree, weights, some, step, seed, cursor)
        return [_paths(run, *one, cursor.step) for one in zip(some, prompts, roots, strict=True)]

    _, made = without_broken(roll, questions, lambda question: question.prompt.id, run.config.data.on_bad_record)
    return made


def _paths(run: Run, question: Group, prompt: Prompt, root: tree.Node, version: int) -> Group:
    """prompt: the question's as it was shown, with what was drawn for it."""

    def words(step: Any) -> str:
        return str(run.adapter.stepped(prompt, (), (step,)).artifact)

    group = Group(question.prompt, question.index)
    for index, path in enumerate(tree.labelled_paths(root, words)):
        sample: Sample = run.adapter.stepped(prompt, (), path.path)
        sample.prompt, sample.index, sample.version, sample.trajectory = question.prompt, index, version, None
        details = {"steps": list(path.steps), "values": list(path.values)}
        reason, status = ("", "ok") if path.reward is not None else ("is not finished", "na")
        sample.scores = {**unasked(run), REWARD: Score(path.reward, reason, status, details)}
        group.samples.append(sample)
    return group


def record_of(sample: Sample) -> dict[str, Any]:
    """{"steps", "values"} of a sample of `labelled`."""
    details = sample.scores[REWARD].details
    return {"steps": list(details["steps"]), "values": list(details["values"])}
