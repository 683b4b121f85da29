"""Groups from tree search (PROPA): the branchings of a question's tree, with rewards from what its paths came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmrl.environments import tree_search as tree
from mmrl.rewarding.run import score_groups
from mmrl.seeds import seed_of
from mmrl.types import Group, Prompt, Sample, Score

if TYPE_CHECKING:
    from mmrl.config import GrpoStage
    from mmrl.training.trainer import Trainer

REWARD = "tree"


def places(stage: GrpoStage) -> int:
    """Groups that a step can have, over all processes: every iteration of a tree branches once at most."""
    return stage.groups * (stage.tree.iterations if stage.tree else 1)


def branched(trainer: Trainer, stage: GrpoStage, questions: Sequence[Group], step: int) -> list[Group]:
    """The branchings of one tree a question as groups; sample.scores["tree"] is a step's reward.

    The run's rewards judge finished paths: those that the policy ends. On the steps themselves they do not apply. A
    group's index is (number of the branching) * stage.groups + index of its question.
    Raises ValueError where a finished path has an invalid reward, for a value without it would be a guess.
    """
    assert stage.tree is not None
    options, adapter = stage.tree, trainer.adapter
    if not hasattr(adapter, "next_steps"):
        raise ValueError(f"tree: {type(adapter).__name__} makes no single steps (next_steps); leave `tree` out")
    seed = seed_of(trainer.config.seed, stage.name, step)
    prompts = [group.prompt for group in questions]
    calls = 0

    def grow(items: Sequence[tuple[int, tree.Path]], n: int, greedy: bool) -> Sequence[Sequence[Any]]:
        nonlocal calls
        calls += 1
        seeds = [[seed_of(seed, prompts[i].id, calls, k) for k in range(n)] for i, _ in items]
        asked = [(prompts[i], path) for i, path in items]
        return adapter.next_steps(asked, seeds, greedy=greedy, end=options.step_end, max_tokens=options.step_tokens)

    def judge(place: int, path: tree.Path) -> float | None:
        if path[-1].stop != "eos":
            return None
        sample = adapter.stepped(prompts[place], (), path)
        score_groups([Group(prompts[place], 0, [sample])], trainer.rewards)
        return _value(trainer, sample)

    roots = tree.search(len(prompts), grow, judge, options)
    found = []
    for question, root in zip(questions, roots):
        for number, group in enumerate(tree.groups([question.prompt], [root], _sample(trainer), options.least_spread)):
            group.index = number * stage.groups + question.index
            found.append(group)
    return found


def _value(trainer: Trainer, sample: Sample) -> float:
    """Weighted sum of the rewards of a finished path."""
    total = 0.0
    for reward, section in zip(trainer.rewards, trainer.config.rewards):
        score = sample.scores[reward.name]
        if score.status == "invalid":
            raise ValueError(f"tree: a finished path of prompt {sample.prompt.id!r} has no reward: {score.reason}")
        total += section.weight * score.value if score.value is not None else 0.0
    return total


def _sample(trainer: Trainer):
    def make(prompt: Prompt, path: tree.Path, step: Any) -> Sample:
        sample = trainer.adapter.stepped(prompt, path, (step,))
        sample.scores = {r.name: Score(None, "judges finished paths", "na") for r in trainer.rewards}
        sample.version = trainer.cursor.step
        return sample

    return make
