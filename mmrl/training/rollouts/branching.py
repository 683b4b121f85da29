"""Groups from tree search (PROPA): the branchings of a question's tree, with rewards from what its paths came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmrl.config import GrpoStage, TreeConfig
from mmrl.environments import tree_search as tree
from mmrl.rewarding.run import score_groups, total
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.rollouts.broken import without_broken
from mmrl.training.rollouts.sampling import RewardFailure
from mmrl.training.run import Run
from mmrl.types import Group, Prompt, Sample, Score

REWARD = "tree"


@contextmanager
def failing_alike(run: Run) -> Iterator[None]:
    """Around trees that are searched by all processes: a RewardFailure of one is one on all, as all of them save."""
    failed = ""
    try:
        yield
    except RewardFailure as error:
        failed = str(error)
    reasons = [reason for reason in run.processes.gather(failed) if reason]
    if reasons:
        raise RewardFailure(reasons[0]) from None


def branched(
    run: Run, options: GrpoStage, questions: Sequence[Group], step: int, seed: int, cursor: Cursor
) -> list[Group]:
    """The branchings of one tree a question as groups; sample.scores["tree"] is a step's reward.

    The run's rewards judge finished paths: those that the policy ends. On the steps themselves they do not apply. A
    group's index is (number of the branching) * options.groups + index of its question. They come in that order, as
    from a checkpoint, so that sums are the same to the last bit. Questions whose pictures are broken have none.
    Raises RewardFailure where a finished path has no reward, for a value without it would be a guess.
    """
    _, made = without_broken(
        lambda some: _branched(run, options, some, step, seed, cursor),
        questions,
        lambda question: question.prompt.id,
        run.config.data.on_bad_record,
    )
    return made


def _branched(
    run: Run, options: GrpoStage, questions: Sequence[Group], step: int, seed: int, cursor: Cursor
) -> list[Group]:
    assert options.tree is not None
    prompts, roots = searched(run, options.tree, run.weights, questions, step, seed, cursor)
    make, found = _sample(run, cursor.step), []
    for question, prompt, root in zip(questions, prompts, roots):
        for number, group in enumerate(tree.groups([prompt], [root], make, options.tree.least_spread)):
            group.index = number * options.groups + question.index
            found.append(group)
    return sorted(found, key=lambda group: group.index)


def searched(
    run: Run,
    section: TreeConfig,
    weights: Mapping[str, float],
    questions: Sequence[Group],
    step: int,
    seed: int,
    cursor: Cursor,
) -> tuple[list[Prompt], list[tree.Node]]:
    """(the questions as they were shown, a searched tree for each). weights: of the rewards that judge finished paths.

    Raises RewardFailure, see `branched`.
    """
    adapter = run.adapter
    # One draw for a tree: its steps are compared, so they stand behind one opening.
    prompts = [adapter.drawn(q.prompt, seed_of(seed, step, q.key, "tree"), cursor.step) for q in questions]
    grown: Counter[int] = Counter()  # branchings of each tree: what others do does not change its noise

    def grow(items: Sequence[tuple[int, tree.Path]], n: int, greedy: bool) -> Sequence[Sequence[Any]]:
        if not greedy:
            grown.update(i for i, _ in items)
        seeds = [[seed_of(seed, step, questions[i].key, grown[i], k) for k in range(n)] for i, _ in items]
        asked = [(prompts[i], path) for i, path in items]
        return adapter.next_steps(asked, seeds, greedy=greedy, end=section.step_end, max_tokens=section.step_tokens)

    def judge(place: int, path: tree.Path) -> float | None:
        if path[-1].stop != "eos":
            return None
        sample = adapter.stepped(prompts[place], (), path)
        score_groups([Group(prompts[place], 0, [sample])], run.rewards)
        return _value(sample, weights)

    return prompts, tree.search(len(prompts), grow, judge, section)


def _value(sample: Sample, weights: Mapping[str, float]) -> float:
    """The reward of a finished path."""
    value = total(sample, weights)
    if value is None:
        reasons = "; ".join(sorted({s.reason for s in sample.scores.values() if not s.ok}))
        raise RewardFailure(f"tree: a finished path of prompt {sample.prompt.id!r} has no reward: {reasons}")
    return value


def unasked(run: Run) -> dict[str, Score]:
    """The scores of steps by the run's rewards, which judge finished paths."""
    return {reward.name: Score(None, "judges finished paths", "na") for reward in run.rewards}


def _sample(run: Run, version: int) -> Callable[[Prompt, tree.Path, Any], Sample]:
    def make(prompt: Prompt, path: tree.Path, step: Any) -> Sample:
        sample = run.adapter.stepped(prompt, path, (step,))
        sample.scores = unasked(run)
        sample.version = version
        return sample

    return make
