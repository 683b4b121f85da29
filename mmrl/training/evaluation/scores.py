"""Evaluation on held-out records: sampled as a user would, scored, and told by task, by pass@k, by order of options."""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmrl.config import ConfigError, EvalConfig
from mmrl.data.choices import check_answers, rotations, shuffled, tell_hidden
from mmrl.data.order import cyclic_indices
from mmrl.media import pictures_of
from mmrl.rewarding.run import Abandoned, score_groups, turn
from mmrl.training.evaluation.conversations import conversation_metrics
from mmrl.training.learner import Learner, averaged
from mmrl.training.processes import Processes
from mmrl.training.rollouts.broken import without_broken
from mmrl.training.rollouts.sampling import RewardFailure, refuse_to_go_on
from mmrl.training.run import Run
from mmrl.training.stopping import StopHere
from mmrl.training.wanted import wanted
from mmrl.types import Group, Prompt, Score

MOST_TASKS = 64
METRIC = re.compile(r"invalid|consistent|pass@[0-9]+")  # what stands behind a reward's name, as a task does


@dataclass(frozen=True)
class Question:
    """One way in which a record is asked. record: the prompt as it was read; share: of it that this way stands for."""

    prompt: Prompt
    record: Prompt
    share: float = 1.0


@dataclass
class Table:
    """Weighted sums of scores by name, and counts; parts of several processes add up."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    weights: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, name: str, value: float, weight: float = 1.0) -> None:
        self.sums[name] += value * weight
        self.weights[name] += weight

    def expect(self, name: str) -> None:
        """The name is told even if it gets no score."""
        self.add(name, 0.0, 0.0)

    @classmethod
    def joined(cls, parts: Iterable[Sequence[dict[str, Any]]]) -> Table:
        whole = cls()
        for sums, weights, counts in parts:
            for name in sums:
                whole.sums[name] += sums[name]
                whole.weights[name] += weights[name]
            for name in counts:
                whole.counts[name] += counts[name]
        return whole

    def metrics(self) -> dict[str, float]:
        """Means, NaN for those without a score, and the counts."""
        means = {k: self.sums[k] / self.weights[k] if self.weights[k] else math.nan for k in self.sums}
        return means | {k: float(v) for k, v in self.counts.items()}


Draw = Callable[[Sequence[Prompt], int, int], list[Group]]  # as Adapter.evaluate


def evaluate(
    run: Run, tag: str, learners: Sequence[Learner] = (), must_score: bool = False, draw: Draw | None = None
) -> dict[str, float]:
    """Score the run's held-out prompts with the learners' averaged weights, or the policy as it is; stored as `tag`.

    Returns, over valid scores of all processes, with the options of `eval:` that ask for them:

    eval/<reward>: the mean, every valid score counting the same. eval/<reward>/invalid: invalid scores, where there
    are any.
    eval/<reward>/<task>: the mean of each task. eval/<reward>/pass@<k>: see pass_at.
    eval/<reward>/consistent: share of records with options that are answered right in every rotation of them.
    eval/visual_tokens, eval/turns, eval/env/<name>: see conversation_metrics. eval/visual_tokens/<task>: of each task.
    must_score: whether no score at all raises RewardFailure, with the reasons; elsewhere it is warned of. draw: in the
    place of the adapter's `evaluate`.
    Raises NonFiniteError for weights that are not numbers: their scores would look like bad ones. Raises StopHere where
    a run that was asked to stop would wait too long for a reward.
    """
    options, processes, everything = run.config.eval, run.processes, run.data.eval_prompts
    if not (run.eval_rewards and everything):
        return {}
    for learner in learners:
        learner.refuse_non_finite()
    prompts, draw = chosen(everything, options), draw or run.adapter.evaluate
    check_tasks(prompts, options)
    places, asked = shared_out(questions(prompts, options), prompts, processes)
    run.adapter.wanted = wanted(run.eval_rewards, shown=True)
    with averaged(learners), run.whole():
        kept, groups = without_broken(
            lambda some: draw([asked[i].prompt for i in some], options.samples, options.seed),
            range(len(asked)),
            lambda i: asked[i].prompt.id,
            run.config.data.on_bad_record,
        )
    places, asked = [places[i] for i in kept], [asked[i] for i in kept]
    for place, group in zip(places, groups, strict=True):
        group.index = place
    try:
        with turn(run.stops.waited_long):
            score_groups(groups, run.eval_rewards, run.stops.waited_long)
    except Abandoned as error:
        raise StopHere(str(error)) from None
    for sample in (s for group in groups for s in group.samples):
        sample.latents = {}
    refuse_to_go_on(run, groups, {r.name: run.weights.get(r.name, 1.0) for r in run.eval_rewards})
    mine = table(asked, groups, [r.name for r in run.eval_rewards], options)
    whole = Table.joined(processes.gather([mine.sums, mine.weights, mine.counts]))
    if not any(whole.weights[reward.name] for reward in run.eval_rewards):
        _tell_unscored(run, groups, must_score)
    found = {f"eval/{name}": value for name, value in whole.metrics().items()}
    talks = conversation_metrics([s for g in groups for s in g.samples], processes)
    found |= {f"eval/{k if k in ('visual_tokens', 'turns') else f'env/{k}'}": v for k, v in talks.items()}
    if run.config.report.eval_prompts:
        run.keep(f"eval_{tag}", groups, run.config.report.eval_prompts, found)
    return found


def _tell_unscored(run: Run, groups: Sequence[Group], must_score: bool) -> None:
    told = {s.reason for g in groups for x in g.samples for s in x.scores.values() if s.status != "ok"}
    reasons = sorted({reason for some in run.processes.gather(sorted(told)[:3]) for reason in some})
    message = f"no sample of the evaluation has a score: {'; '.join(reasons[:3])}"
    if must_score:
        raise RewardFailure(f"{message}; mend the rewards of eval, or the held-out prompts")
    if run.processes.is_main:
        warnings.warn(message, stacklevel=3)


def chosen(everything: Sequence[Prompt], options: EvalConfig) -> list[Prompt]:
    """The held-out prompts of every evaluation, `prompts` of them in a seeded order."""
    count = min(options.prompts or len(everything), len(everything))
    return [everything[i] for i in cyclic_indices(0, count, len(everything), options.seed)]


def check_tasks(prompts: Sequence[Prompt], options: EvalConfig) -> None:
    """Raises ConfigError where `by` is no column of the prompts, one that is different almost everywhere, or one whose
    values would be told under the names of other metrics."""
    if options.by is None:
        return
    tasks = {str(p.record[options.by]) for p in prompts if options.by in p.record}
    if not tasks:
        known = ", ".join(sorted({name for p in prompts for name in p.record}))
        raise ConfigError(f"eval.by: no held-out record has a column {options.by!r}; there are {known}")
    if len(tasks) > MOST_TASKS:
        raise ConfigError(
            f"eval.by: the column {options.by!r} has {len(tasks)} different values; name one with {MOST_TASKS} or fewer"
        )
    taken = sorted(task for task in tasks if METRIC.fullmatch(task))
    if taken:
        raise ConfigError(
            f"eval.by: the column {options.by!r} has the value {taken[0]!r}, whose mean would be told by the name of a "
            f"metric, eval/<reward>/{taken[0]}; call it something else in the records"
        )


def questions(prompts: Sequence[Prompt], options: EvalConfig) -> list[Question]:
    """How each record is asked: as it is, its options shuffled, or in all rotations of them.

    Warns of records whose column `choices` the prompt does not show, which are asked as they are.
    """
    if options.choices == "given":
        return [Question(p, p) for p in prompts]
    check_answers(prompts, "eval.choices")
    tell_hidden(prompts, "eval.choices")
    if options.choices == "shuffled":
        return [Question(shuffled(p, options.seed), p) for p in prompts]
    return [Question(way, p, 1 / len(ways)) for p in prompts for ways in [rotations(p)] for way in ways]


def shared_out(
    asked: Sequence[Question], prompts: Sequence[Prompt], processes: Processes
) -> tuple[list[int], list[Question]]:
    """This process's questions behind their places among all; all ways of asking a record are of one process."""
    owner = {id(prompt): number % processes.world for number, prompt in enumerate(prompts)}
    mine = [(place, q) for place, q in enumerate(asked) if owner[id(q.record)] == processes.rank]
    return [place for place, _ in mine], [q for _, q in mine]


def table(asked: Sequence[Question], groups: Sequence[Group], rewards: Sequence[str], options: EvalConfig) -> Table:
    """The scores of the groups, one for each question, as sums by name (see `evaluate`, without "eval/")."""
    made = Table()
    for name in rewards:
        made.expect(name)
        right: dict[int, list[bool | None]] = defaultdict(list)
        for question, group in zip(asked, groups, strict=True):
            scores = [sample.scores[name] for sample in group.samples]
            valid = [score.value for score in scores if score.value is not None]
            task = _task(question, options)
            for value in valid:
                made.add(name, value, question.share)
                if task is not None:
                    made.add(f"{name}/{task}", value, question.share)
            invalid = sum(score.status == "invalid" for score in scores)
            if invalid:
                made.counts[f"{name}/invalid"] += invalid
            correct = sum(value >= options.correct_at for value in valid)
            for k in options.pass_at:
                if len(valid) >= k:
                    made.add(f"{name}/pass@{k}", pass_at(len(valid), correct, k), question.share)
            if question.share < 1:
                right[id(question.record)].append(_all_right(scores, options.correct_at))
        for of_record in right.values():
            if None not in of_record:
                made.add(f"{name}/consistent", float(all(of_record)))
    for question, group in zip(asked, groups, strict=True):
        task = _task(question, options)
        for sample in group.samples if task is not None else ():
            if seen := pictures_of(sample.media):
                made.add(f"visual_tokens/{task}", sum(media.tokens for media in seen), question.share)
    return made


def _task(question: Question, options: EvalConfig) -> Any:
    return question.record.record.get(options.by) if options.by else None


def pass_at(n: int, correct: int, k: int) -> float:
    """1 - C(n - correct, k) / C(n, k): the chance that of k answers, drawn from n without putting back, one is right.

    The unbiased estimate of pass@k from n samples (Chen et al., 2021). Raises ValueError unless 1 <= k <= n and
    0 <= correct <= n.
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"pass@{k} of {correct} right answers in {n}: needs 1 <= k <= n and 0 <= right <= n")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def _all_right(scores: Sequence[Score], correct_at: float) -> bool | None:
    """Whether all samples are right; None where one has no number."""
    values = [score.value for score in scores]
    return None if None in values else all(value >= correct_at for value in values if value is not None)
