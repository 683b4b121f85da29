"""Collecting a step: which prompts, their samples and scores, refills, hints, trees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from mmrl.config import ConfigError, GrpoStage, HintsConfig, SampledStage
from mmrl.core.algorithm import Algorithm
from mmrl.data.choices import shuffled
from mmrl.data.held import names_of
from mmrl.modalities.adapter import Adapter
from mmrl.rewarding.run import total
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.fitting import Fitting, Look
from mmrl.training.rollouts.branching import branched, failing_alike
from mmrl.training.rollouts.curriculum import AllRetired, Curriculum
from mmrl.training.rollouts.deciding import looked_at
from mmrl.training.rollouts.difficulty import difficulties
from mmrl.training.rollouts.hints import climb, plain
from mmrl.training.rollouts.refilling import refill
from mmrl.training.rollouts.replaying import SAMPLER, replay_old
from mmrl.training.rollouts.sampling import refuse_invalid, sampled
from mmrl.training.run import Run
from mmrl.types import Group, Prompt, Sample, Score

KL = "kl"  # the score of a sample's KL to the reference, where it comes off the reward


class Collector:
    """Makes the rollouts of a stage, one step at a time, and tells the curriculum how they were answered."""

    def __init__(
        self, run: Run, options: SampledStage, algorithm: Algorithm, prompts: Sequence[Prompt], cursor: Cursor
    ) -> None:
        self.run, self.options, self.algorithm, self.cursor = run, options, algorithm, cursor
        self.prompts = prompts
        self.seed = seed_of(run.seed, options.name)
        self.curriculum = made_curriculum(self.prompts, options)
        self._fitting = None  # all were looked at
        if prompts is run.data.prompts and run.data.known < len(prompts):
            look = Look(run.adapter, prompts, run.config.data.on_bad_record, run.rewards if options.rewarded else ())
            self._fitting = Fitting(look, run.data.known, run.processes)
        # One update right behind its rollout has the replay for nothing: it is what it differentiates.
        once = options.updates * options.epochs == 1 and options.ahead == 0 and algorithm.correction is None
        self._replays = options.replays_old(run.adapter.precision != torch.float32) and not once
        if options.flowing and algorithm.correction is not None:  # from the servers' log-probs to the trainer's
            self._replays = True

    def collect(self, step: int) -> list[Group]:
        """This process's groups for a step, sampled with the weights as they are, and scored.

        Groups without signal are replaced by new prompts as `refill` says (dynamic sampling, DAPO), groups that are all
        wrong by their hinted prompt as `hints` says (GHPO); with `tree` the groups are the branchings of trees, with
        `branches` the samples that part at a step. What comes next depends on the seed and on the results, not on the
        number of processes. Where it fails, the curriculum is as it was. Where divided weights are not gathered
        meanwhile (Adapter.samples_divided), `finish` has to follow.
        """
        with self._ending_where_none_is_left(), self.curriculum.kept_on_failure():
            groups = self._groups(step)
        if not self.run.adapter.samples_divided:
            self.finish(groups)
        return groups

    def finish(self, groups: Sequence[Group]) -> None:
        """What collected groups need of the policy's own forward. Every process calls."""
        with self.run.whole():
            self.score_kl(groups)
            if self._replays:
                replay_old(self.run.adapter, groups, self.options.micro_batch)

    def asked(self, step: int) -> list[Group]:
        """This process's groups of a step, without samples, with the next prompts of the curriculum; `take` is told of
        them when they are whole. Raises AllRetired, the curriculum being as it was."""
        with self._ending_where_none_is_left(), self.curriculum.kept_on_failure():
            return self._mine(self._next(step, range(self.options.groups), Counter()))

    def take(self, groups: Sequence[Group]) -> None:
        """Whole groups of the step at hand, sampled elsewhere: ratios are measured against what their samplers noted,
        or the policy's own replay. Every process calls. Raises RewardFailure as `collect`."""
        if self.options.rewarded:
            refuse_invalid(self.run, self.cursor, groups, self.options.max_invalid, self.run.weights)
        self._record(groups)
        self.score_kl(groups)
        if self._replays:
            replay_old(self.run.adapter, groups, self.options.micro_batch)
        for sample in (s for group in groups for s in group.samples):
            sample.actions.tensors.setdefault(SAMPLER, sample.actions.logp.clone())

    def score_missing_kl(self, groups: Sequence[Group]) -> None:
        """Of groups some of which have theirs."""
        self.score_kl([group for group in groups if any(KL not in s.scores for s in group.samples)])

    def score_kl(self, groups: Sequence[Group]) -> None:
        """The KL that comes off the rewards, where the algorithm has one."""
        if self.algorithm.kl_coef > 0 and self.algorithm.kl_place == "reward":
            score_kl(self.run.adapter, groups, self.options.micro_batch)

    def _groups(self, step: int) -> list[Group]:
        if self.options.searched:
            return self._trees(step)
        return self._answers(step) if self.options.parted is None else self._parted(step, self.options.parted)

    def _parted(self, step: int, width: int) -> list[Group]:
        """Groups of samples that part at one step each; a group's index is (number of the step) * options.groups +
        index of its question."""
        run, options = self.run, self.options
        mine = self._mine(self._next(step, range(options.groups), Counter()))
        chunk, shown = options.rollout_chunk, self._shown(step)
        made = sampled(run, self.cursor, mine, options.samples, step, self.seed, chunk, shown=shown, width=width)
        refuse_invalid(run, self.cursor, made, options.max_invalid, run.weights)
        count = run.adapter.branch_steps
        of_one = [made[i : i + count] for i in range(0, len(made), count)]
        self._record([Group(some[0].prompt, some[0].index, [s for g in some for s in g.samples]) for some in of_one])
        for some in of_one:
            for number, group in enumerate(some):
                group.index += number * options.groups
        return sorted(made, key=lambda group: group.index)

    def _trees(self, step: int) -> list[Group]:
        questions = self._next(step, range(self.options.groups), Counter())
        groups: list[Group] = []
        assert isinstance(self.options, GrpoStage)  # no other searches
        with failing_alike(self.run), self.run.whole():  # the policy itself searches
            groups = branched(self.run, self.options, self._mine(questions), step, self.seed, self.cursor)
        return groups

    def _answers(self, step: int) -> list[Group]:
        options, run = self.options, self.run
        draws: Counter[str] = Counter()
        seen: list[Group] = []  # all of the step so far: a refill is no step of its own
        groups = self._sampled(self._mine(self._next(step, range(options.groups), draws)), step, seen)
        self._record(groups)
        for rounds in range(1, options.refill):
            silent = self._silent(groups)
            if self.curriculum.exhausted or not refill(
                options.groups, options.groups - len(silent), rounds, options.refill
            ):
                break
            mine = {group.index for group in groups}
            try:
                again = [group for group in self._next(step, silent, draws) if group.index in mine]
            except AllRetired:  # none of those that are left can be used
                break
            made = self._sampled(again, step, seen)
            self._record(made)
            groups = _replaced(groups, made)
        if options.hints:
            while run.processes.any(bool(again := _hinted(run.adapter, options.hints, groups))):
                groups = _replaced(groups, self._sampled(again, step, seen))
        return groups

    def _next(self, step: int, places: Sequence[int], draws: Counter[str]) -> list[Group]:
        """Empty groups at these places of the step, of all processes, with the next prompts of the curriculum.

        draws: how often each prompt was asked in this step already; counted on.
        """
        found = []
        for place, number in zip(places, self._drawn(step, len(places))):
            prompt = self.prompts[number]
            draw = draws[prompt.id]
            if self.run.config.data.shuffle_options:
                prompt = shuffled(prompt, seed_of(self.seed, step, draw))
            found.append(Group(prompt, place, draw=draw))
            draws[prompt.id] += 1
        return found

    def _drawn(self, step: int, count: int) -> list[int]:
        """The next prompts of the curriculum that can be used."""
        if self._fitting is None:
            return self.curriculum.order(step, count, self.seed)
        found: list[int] = []
        passed_over = 0
        try:
            while len(found) < count:
                drawn = self.curriculum.order(step, count - len(found), self.seed)
                fit = self._fitting.fit(drawn)
                for number in dict.fromkeys(drawn):
                    if number not in fit:
                        self.curriculum.pass_over(number)
                        passed_over += 1
                found += fit
        finally:
            if passed_over:
                self.cursor.sums.count("rollout/passed_over", passed_over)
        return found

    @contextmanager
    def _ending_where_none_is_left(self) -> Iterator[None]:
        """Where the block finds none to ask, those that are left cannot be used, and leave: the stage can end."""
        try:
            yield
        except AllRetired:
            for number in np.flatnonzero(self.curriculum.levels.alive).tolist():
                self.curriculum.pass_over(number)
            raise

    def _mine(self, groups: Sequence[Group]) -> list[Group]:
        return list(groups[self.run.processes.rank :: self.run.processes.world])

    def _shown(self, step: int) -> bool:
        """Whether the samples of a step of the stage are stored for the report."""
        return self.run.shows(self.cursor.total_steps + 1 + step - self.cursor.step)

    def _sampled(self, groups: Sequence[Group], step: int, seen: list[Group]) -> list[Group]:
        options, rewards = self.options, self.run.rewards if self.options.rewarded else ()
        chunk, shown = options.rollout_chunk, self._shown(step)
        made = sampled(self.run, self.cursor, groups, options.samples, step, self.seed, chunk, rewards, shown)
        seen += made
        if options.rewarded:
            refuse_invalid(self.run, self.cursor, seen, options.max_invalid, self.run.weights)
        return made

    def _record(self, groups: Sequence[Group]) -> None:
        """Tell the curriculum the pass rates of the groups of all processes, in the order of their indices."""
        if not self.options.rewarded:
            return
        options, place = self.options, self.curriculum.ids.place
        weights = looked_at(self.run.weights, options.curriculum.reward)
        rates, known = (torch.zeros(options.groups, dtype=torch.float64) for _ in range(2))
        numbers = torch.full((options.groups,), -1.0, dtype=torch.float64)
        for group in groups:
            values = _totals(group, weights)
            if values:
                rates[group.index] = sum(v >= options.curriculum.correct_at for v in values) / len(values)
                known[group.index] = 1
                numbers[group.index] = place(plain(group.prompt).id)
        reduce = self.run.processes.reduce
        rates, known, numbers = reduce(rates, "sum"), reduce(known, "sum"), reduce(numbers, "max")
        for rate, count, number in zip(rates.tolist(), known.tolist(), numbers.tolist()):
            if count:
                self.curriculum.record(self.prompts[int(number)].id, rate)

    def _silent(self, groups: Sequence[Group]) -> list[int]:
        """Indices, over all processes, of the groups whose samples all have the same reward."""
        flags = torch.zeros(self.options.groups)
        for group in groups:
            values = _totals(group, self.run.weights)
            flags[group.index] = float(not values or max(values) == min(values))
        return [int(i) for i in torch.nonzero(self.run.processes.reduce(flags, "max")).flatten()]


def made_curriculum(prompts: Sequence[Prompt], options: SampledStage) -> Curriculum:
    """The stage's order of prompts, at its beginning."""
    section = options.curriculum
    return Curriculum(
        names_of(prompts),
        difficulties(prompts, section.column) if section.column else None,
        order=section.order,
        first=section.first,
        buckets=section.buckets,
        advance=section.advance,
        advance_at=section.advance_at,
        window=section.window,
        advance_every=section.advance_every,
        reestimate=section.reestimate,
        retire_at=section.retire_at,
        steps=options.steps,
    )


@torch.no_grad()
def score_kl(adapter: Adapter, groups: Sequence[Group], micro_batch: int) -> None:
    """Put each sample's k1 estimate of the KL to the reference, summed over trained actions, into scores["kl"]."""
    samples = [s for g in groups for s in g.samples]
    sums = torch.zeros(len(samples), dtype=torch.float64)
    for part in adapter.slices(samples, micro_batch):
        some = [samples[r] for r in part.rows]
        replay = adapter.logprobs(some, part.columns, reference=True)
        if replay.logp_reference is None:
            name = type(adapter).__name__
            raise ConfigError(
                f"kl_place='reward' needs `logp_reference`, which {name}.logprobs did not return though asked with "
                "reference=True; set kl_coef=0, or give the adapter a reference"
            )
        gap = (replay.logp - replay.logp_reference).double().cpu()
        sums[part.rows] += torch.where(_trained(some, part.columns), gap, 0.0).sum(1)
    for sample, value in zip(samples, sums.tolist()):
        sample.scores[KL] = Score.of(value)


def _totals(group: Group, weights: Mapping[str, float]) -> list[float]:
    """The reward of every sample that has one."""
    return [value for sample in group.samples if (value := total(sample, weights)) is not None]


def _trained(samples: Sequence[Sample], columns: Tensor) -> Tensor:
    """[b, t] bool: whether the action is there and trained."""
    mask = torch.zeros(len(samples), int(columns.max()) + 1, dtype=torch.bool)
    for row, sample in zip(mask, samples):
        if sample.trajectory is not None:
            length = min(len(sample.trajectory.mask), len(row))
            row[:length] = sample.trajectory.mask[:length]
    return mask[:, columns]


def _replaced(groups: Sequence[Group], new: Sequence[Group]) -> list[Group]:
    by_index = {group.index: group for group in new}
    return [by_index.get(group.index, group) for group in groups]


def _hinted(adapter: Adapter, hints: HintsConfig, groups: Sequence[Group]) -> list[Group]:
    """The next rung of the ladder, without prompts that a hint makes too long."""
    again = climb(groups, hints.reward, hints.threshold, hints.fractions, hints.sentence)
    return [group for group in again if adapter.usable(group.prompt) is None]
