"""One call of a reward: a group in, one Score for each of its samples out, whatever the reward does."""

from __future__ import annotations

import copy
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmrl.rewarding.limit import Limited, RewardTimeout
from mmrl.rewarding.load import LoadedReward
from mmrl.rewarding.values import one_line, scores_in
from mmrl.types import Group, Score


class StopRun(RuntimeError):
    """Raised by a reward whose failure is to end the run, whatever `max_invalid` allows; a monitor's ends nothing."""


def call(reward: LoadedReward, group: Group) -> list[Score]:
    """The reward's scores of the group's samples; what it raises or returns amiss is invalid, with the reason.

    The reward gets copies: what it assigns to a sample, or takes out of a list, nobody else sees. (Artifacts, tensors
    and the record are not copied.) To be called in a thread of its own: everything that is raised here is taken for the
    reward's, sys.exit included, while the user's Ctrl-C reaches the main thread.
    """
    count = len(group.samples)
    if count == 0:
        return []

    def read(returned: Any) -> list[Score]:
        return scores_in(returned, count)

    lent = _lent(group)
    argument = lent if reward.group else lent.samples
    try:
        if isinstance(reward.call, Limited):
            scores = reward.call(argument, read)
        else:
            scores = read(reward.call(argument))
    except RewardTimeout as error:
        scores = [Score.invalid(str(error))] * count
    except StopRun as error:
        scores = [Score(None, one_line(str(error)), "invalid", {"stop": True})] * count
    except BaseException as error:
        reason = one_line(f"{type(error).__name__}: {_words(error)}")
        return [Score.invalid(f"{reward.name}: {reason} ({_where(error, reward.source)})")] * count
    return [_named(score, reward) for score in scores]


def _lent(group: Group) -> Group:
    lent = copy.copy(group)
    lent.samples = [copy.copy(sample) for sample in group.samples]
    for sample in lent.samples:
        sample.scores = dict(sample.scores)
    return lent


def _named(score: Score, reward: LoadedReward) -> Score:
    if score.status != "invalid":
        return score
    return replace(score, reason=f"{reward.name}: {score.reason} ({reward.source})")


def _words(error: BaseException) -> str:
    try:
        return str(error) or "without a message"
    except BaseException:
        return "its message cannot be shown"


def _where(error: BaseException, source: str) -> str:
    """file:line of the error: the innermost line of the reward's own file, or else where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    for one in (error, error.__cause__):  # a generator's StopIteration is the cause of the error that is seen
        if one is not None and (own := [f for f in traceback.extract_tb(one.__traceback__) if f.filename == source]):
            return f"{Path(source).name}:{own[-1].lineno}"
    return f"{frames[-1].filename}:{frames[-1].lineno}"
