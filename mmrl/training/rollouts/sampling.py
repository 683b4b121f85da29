"""Groups filled and scored, the rewards of one chunk running beside the rollout of the next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from mmrl.rewarding.load import LoadedReward
from mmrl.rewarding.run import Abandoned, RewardRunner, invalid_share, known_share, score_groups, stop_reasons
from mmrl.training.cursor import Cursor
from mmrl.training.rollouts.broken import without_broken
from mmrl.training.run import Run
from mmrl.training.stopping import StopHere
from mmrl.training.wanted import wanted
from mmrl.types import Group


class RewardFailure(RuntimeError):
    """Too many invalid rewards, or none at all; names the reasons and where the samples were saved."""


def sampled(
    run: Run,
    cursor: Cursor,
    groups: Sequence[Group],
    n: int,
    step: int,
    seed: int,
    chunk: int | None = None,
    rewards: Sequence[LoadedReward] | None = None,
    shown: bool = True,
    width: int | None = None,
) -> list[Group]:
    """The groups with n scored samples each; those whose pictures are broken are left out, or end the run.

    step: which step the rollout is for; with the seed and the group's key it decides the noise. chunk: groups that are
    rolled out together; None: all. rewards: None: the run's. shown: whether samples are stored for the report, so that
    artifacts are made even where no reward looks at them. width: of Adapter.branches, whose groups have their
    question's index and draw; None: `rollout`.
    """

    def roll(some: Sequence[Group]) -> list[list[Group]]:
        if width is not None:
            return run.adapter.branches(some, n, width, step, seed)
        return [[group] for group in run.adapter.rollout(some, n, step, seed)]

    size = chunk or max(1, len(groups))
    done: list[Group] = []
    rewards = run.rewards if rewards is None else rewards
    run.adapter.wanted = wanted(rewards, shown)
    with RewardRunner(rewards) as runner:
        for start in range(0, len(groups), size):
            clock = time.monotonic()
            asked, made = without_broken(
                roll,
                groups[start : start + size],
                lambda group: group.prompt.id,
                run.config.data.on_bad_record,
            )
            for of_one, of in zip(made, asked, strict=True):
                for group in of_one:
                    group.draw = of.draw  # an adapter that makes new groups may have left it out, and a hint asks again
            runner.submit([group for of_one in made for group in of_one])
            cursor.sums.count("time/rollout", time.monotonic() - clock)
        clock = time.monotonic()
        while runner.pending:
            try:
                done += runner.gather(run.stops.waited_long)
            except Abandoned as error:  # the step is sampled anew on a resume
                raise StopHere(str(error)) from None
        cursor.sums.count("time/reward", time.monotonic() - clock)
    for sample in (s for group in done for s in group.samples):
        sample.version = cursor.step
        sample.latents = {}  # nobody looks at them any more
    return done


def score_new(run: Run, groups: Sequence[Group]) -> None:
    """Score waiting groups by rewards that the run did not have when they were sampled (`--allow rewards`)."""
    had = {name for group in groups for sample in group.samples for name in sample.scores}
    new = [reward for reward in run.rewards if reward.name not in had]
    if groups and new:
        score_groups(groups, new, run.stops.waited_long)


def refuse_to_go_on(run: Run, groups: Sequence[Group], weights: Mapping[str, float]) -> None:
    """Stop where a weighted reward asked for it. Every process calls. Raises RewardFailure on every process."""
    reasons = sorted({reason for some in run.processes.gather(stop_reasons(groups, weights)) for reason in some})
    if reasons:
        raise RewardFailure(f"{'; '.join(reasons[:3])}; go on with --resume")


def refuse_invalid(
    run: Run, cursor: Cursor, groups: Sequence[Group], max_invalid: float, weights: Mapping[str, float]
) -> None:
    """Stop where more samples than `max_invalid` have an invalid reward, none has a reward at all, or a reward says so.

    weights: of the rewards by name; one of weight 0 does not count. Every process calls. The samples are stored; the
    loop saves the run, which goes on from before this step. Raises RewardFailure on every process.
    """
    processes = run.processes
    refuse_to_go_on(run, groups, weights)
    of_mine, mine = known_share(groups, weights)
    bad, known, everyone = (processes.total(n) for n in (invalid_share(groups, weights) * mine, of_mine, mine))
    if not everyone or (bad <= max_invalid * everyone and known):
        return
    told = {s.reason for g in groups for x in g.samples for s in x.scores.values() if s.status != "ok"}
    reasons = sorted({reason for some in processes.gather(sorted(told)[:5]) for reason in some})
    where = run.keep_offending(groups, "; ".join(reasons[:5])) if told else None
    places = sorted({place for place in processes.gather(where) if place})
    what = (
        f"{bad / everyone:.0%} of the samples of step {cursor.total_steps + 1} have an invalid reward (max_invalid is "
        f"{max_invalid:.0%})"
        if bad > max_invalid * everyone
        else f"no sample of step {cursor.total_steps + 1} has a reward"
    )
    raise RewardFailure(
        f"{what}: {'; '.join(reasons[:3])}. The samples are {', '.join(places)}; mend the reward and go on "
        "with --resume"
    )
