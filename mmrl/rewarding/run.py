"""Running rewards over groups: a Score per sample and reward; a failure is a Score too, never a 0."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmrl.rewarding.limit import RewardTimeout
from mmrl.rewarding.load import LoadedReward
from mmrl.types import Group, Sample, Score


def score_groups(groups: Sequence[Group], rewards: Sequence[LoadedReward]) -> None:
    """Write `sample.scores[reward.name]` for every sample and reward.

    A reward is called once per group, so that a score depends neither on what else is in the step nor on
    the number of processes. What it raises or returns amiss makes the samples of that call invalid,
    with the reason.
    """
    _check_names(rewards)
    for reward in rewards:
        _write(groups, reward.name, _scores(groups, reward))


def invalid_share(groups: Sequence[Group]) -> float:
    """Share of the samples that have at least one invalid score, in [0, 1]; 0 when there are no samples."""
    samples = _samples(groups)
    bad = sum(any(score.status == "invalid" for score in s.scores.values()) for s in samples)
    return bad / len(samples) if samples else 0.0


def table(groups: Sequence[Group], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scores as arrays, samples in order of their groups: (scores, valid, applicable), each [N, F].

    scores: float64, NaN where there is no number. valid: False where the score is invalid.
    applicable: False where the reward does not apply. A number is where both are True.
    Raises ValueError where a sample has no score of that name.
    """
    samples = _samples(groups)
    scores = np.full((len(samples), len(names)), np.nan)
    valid = np.ones(scores.shape, dtype=bool)
    applicable = np.ones(scores.shape, dtype=bool)
    for row, sample in enumerate(samples):
        for column, name in enumerate(names):
            score = sample.scores.get(name)
            if score is None:
                where = f"sample {sample.index} of prompt {sample.prompt.id!r}"
                raise ValueError(f"{where} has no score {name!r}; it has {', '.join(sample.scores) or 'none'}")
            valid[row, column] = score.status != "invalid"
            applicable[row, column] = score.status != "na"
            if score.ok:
                scores[row, column] = score.value
    return scores, valid, applicable


@dataclass(frozen=True)
class _Result:
    scores: list[list[Score]]  # one list per group
    seconds: float


class RewardRunner:
    """Runs rewards in threads while the next rollout samples.

    `submit` starts on a batch of groups; `gather` waits for the oldest batch, writes its scores and
    returns it. Batches come back in the order of submission, with the scores that `score_groups` would give.
    A reward is never run twice at a time, so it needs no locks, unless it allows several groups at once; `workers` is
    how many different rewards may run together.
    """

    def __init__(self, rewards: Sequence[LoadedReward], workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; a RewardRunner needs at least 1")
        _check_names(rewards)
        self.rewards = list(rewards)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="reward")
        self._batches: deque[tuple[list[Group], list[Future[_Result]]]] = deque()
        self._last: list[Future[_Result] | None] = [None] * len(self.rewards)
        self.timings: dict[str, float] = {}  # seconds of each reward over the batch that was gathered last

    @property
    def pending(self) -> int:
        """Batches that were submitted and not gathered."""
        return len(self._batches)

    def submit(self, groups: Sequence[Group]) -> None:
        """Start scoring `groups`; leave them alone until `gather` returns them."""
        groups = list(groups)
        futures = []
        for place, reward in enumerate(self.rewards):
            # The pool starts jobs in order, so the batch before is running or done: waiting cannot lock up.
            future = self._pool.submit(_timed, groups, reward, self._last[place])
            self._last[place] = future
            futures.append(future)
        self._batches.append((groups, futures))

    def gather(self) -> list[Group]:
        """The oldest batch, scored. Raises RuntimeError when nothing was submitted."""
        if not self._batches:
            raise RuntimeError("gather() without a batch; call submit(groups) first")
        groups, futures = self._batches.popleft()
        results = [future.result() for future in futures]
        for reward, result in zip(self.rewards, results, strict=True):
            _write(groups, reward.name, result.scores)
            self.timings[reward.name] = result.seconds
        return groups

    def close(self) -> None:
        """Let running rewards finish and drop those that have not started."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> RewardRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _timed(groups: list[Group], reward: LoadedReward, before: Future[_Result] | None) -> _Result:
    if before is not None:
        wait([before])
    start = time.perf_counter()
    scores = _scores(groups, reward)
    return _Result(scores, time.perf_counter() - start)


def _scores(groups: Sequence[Group], reward: LoadedReward) -> list[list[Score]]:
    if reward.at_once == 1 or len(groups) < 2:
        return [_call(group, reward) for group in groups]
    with ThreadPoolExecutor(min(reward.at_once, len(groups))) as pool:
        return list(pool.map(lambda group: _call(group, reward), groups))


def _call(group: Group, reward: LoadedReward) -> list[Score]:
    count = len(group.samples)
    if count == 0:
        return []
    try:
        values = list(reward.call(group if reward.group else list(group.samples)))
    except RewardTimeout as error:
        return [Score.invalid(f"{reward.name}: {error} ({reward.source})")] * count
    except Exception as error:
        reason = f"{reward.name}: {type(error).__name__}: {error} ({_where(error, reward.source)})"
        return [Score.invalid(reason)] * count
    if len(values) != count:
        reason = f"{reward.name}: returned {len(values)} scores for {count} samples ({reward.source})"
        return [Score.invalid(reason)] * count
    return [_checked(value, reward) for value in values]


def _checked(value: Any, reward: LoadedReward) -> Score:
    if isinstance(value, str):
        score = Score.invalid(f"returned the text {value!r}, expected a number or None")
    else:
        score = Score.of(value)
    if score.ok:
        # A Score that the reward built itself was never checked.
        number = Score.of(score.value)
        score = number if not number.ok else Score(number.value, score.reason, details=score.details)
        if number.status == "na":
            score = Score.invalid("returned a Score without a value that is not marked as not applicable")
    if score.status == "invalid":
        return Score(None, f"{reward.name}: {score.reason} ({reward.source})", "invalid", score.details)
    return score


def _where(error: Exception, source: str) -> str:
    """file:line of the error: the innermost line of the reward's own file, or else where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == source]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name if own else frame.filename}:{frame.lineno}"


def _write(groups: Sequence[Group], name: str, scores: list[list[Score]]) -> None:
    for group, of_group in zip(groups, scores, strict=True):
        for sample, score in zip(group.samples, of_group, strict=True):
            sample.scores[name] = score


def _samples(groups: Sequence[Group]) -> list[Sample]:
    return [sample for group in groups for sample in group.samples]


def _check_names(rewards: Sequence[LoadedReward]) -> None:
    names = [reward.name for reward in rewards]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"rewards named twice: {', '.join(twice)}; their scores would overwrite each other: give one an alias"
        )
