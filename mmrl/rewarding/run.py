"""Running rewards over groups, in threads; and what a sample's scores come to."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mmrl.rewarding.call import call
from mmrl.rewarding.load import LoadedReward
from mmrl.rewarding.threads import Threads
from mmrl.types import Group, Sample, Score

_POLL = 0.1  # seconds between two questions whether to stop


class Abandoned(RuntimeError):
    """Scores are not waited for any longer, as a stop was asked for; names the rewards that were still running."""


def score_groups(
    groups: Sequence[Group], rewards: Sequence[LoadedReward], should_stop: Callable[[], bool] | None = None
) -> None:
    """Write `sample.scores[reward.name]` for every sample and reward.

    A reward is called once per group, so that a score depends neither on what else is in the step nor on
    the number of processes. What it raises or returns amiss makes the samples of that call invalid,
    with the reason. should_stop: as in RewardRunner.gather.
    """
    with RewardRunner(rewards) as runner:
        runner.submit(groups)
        runner.gather(should_stop)


_scoring = threading.Lock()


@contextmanager
def turn(should_stop: Callable[[], bool] | None = None) -> Iterator[None]:
    """Around `score_groups` where another thread of the run scores, too: one at a time, as a reward is never called
    twice at once. Raises Abandoned. Not for a reward that scores by others: its turn is on."""
    while not _scoring.acquire(timeout=0.2):
        if should_stop is not None and should_stop():
            raise Abandoned("others were being scored when it was asked to stop")
    try:
        yield
    finally:
        _scoring.release()


def total(sample: Sample, weights: Mapping[str, float]) -> float | None:
    """The weighted sum of a sample's scores: the one reward that it has for the policy.

    weights: by the name of the reward. One of weight 0 is a monitor and not asked, as is a score without a weight; one
    that does not apply counts nothing. None where a weighted score is invalid, where none is a number, and where the
    sum is not finite. Raises ValueError where the sample lacks a weighted score.
    """
    scores = [(weight, score_of(sample, name)) for name, weight in weights.items() if weight != 0]
    if any(score.status == "invalid" for _, score in scores):
        return None
    parts = [weight * score.value for weight, score in scores if score.value is not None]
    value = sum(parts)
    return value if parts and math.isfinite(value) else None


def known_share(groups: Sequence[Group], weights: Mapping[str, float]) -> tuple[int, int]:
    """(samples that have a `total`, all samples): without one that has, there is nothing to learn from."""
    samples = _samples(groups)
    return sum(total(sample, weights) is not None for sample in samples), len(samples)


def invalid_share(groups: Sequence[Group], weights: Mapping[str, float]) -> float:
    """Share of the samples with an invalid score of a weight other than 0, in [0, 1]; 0 when there are no samples."""
    samples, weighted = _samples(groups), [name for name, weight in weights.items() if weight != 0]
    bad = sum(any(score_of(sample, name).status == "invalid" for name in weighted) for sample in samples)
    return bad / len(samples) if samples else 0.0


def monitor_invalid(groups: Sequence[Group], weights: Mapping[str, float]) -> dict[str, int]:
    """How many samples each monitor (a reward of weight 0) failed on, by name: counted, and of no other effect."""
    monitors = [name for name, weight in weights.items() if weight == 0]
    samples = _samples(groups)
    return {name: sum(score_of(sample, name).status == "invalid" for sample in samples) for name in monitors}


def stop_reasons(groups: Sequence[Group], weights: Mapping[str, float]) -> list[str]:
    """Why rewards asked for the end of the run (StopRun), each reason once; a monitor is not asked."""
    samples, weighted = _samples(groups), [name for name, weight in weights.items() if weight != 0]
    scores = [score_of(sample, name) for sample in samples for name in weighted]
    return list(dict.fromkeys(score.reason for score in scores if score.details.get("stop") is True))


def score_of(sample: Sample, name: str) -> Score:
    """The sample's score of that name. Raises ValueError where there is none."""
    score = sample.scores.get(name)
    if score is None:
        where = f"sample {sample.index} of prompt {sample.prompt.id!r}"
        raise ValueError(f"{where} has no score {name!r}; it has {', '.join(sample.scores) or 'none'}")
    return score


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
            score = score_of(sample, name)
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
    how many different rewards may run together. Python cannot stop a thread, but these keep nobody: a process may end
    while a reward hangs. As a context manager it is abandoned where its body raises, and closed elsewhere.
    """

    def __init__(self, rewards: Sequence[LoadedReward], workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; a RewardRunner needs at least 1")
        _check_names(rewards)
        self.rewards = list(rewards)
        self._threads = Threads(workers, "reward runner")
        self._batches: deque[tuple[list[Group], list[Future[_Result]]]] = deque()
        self._last: list[Future[_Result] | None] = [None] * len(self.rewards)
        self._left = threading.Event()  # set: nobody wants the scores any more
        self.timings: dict[str, float] = {}  # seconds of each reward over the batch that was gathered last

    @property
    def pending(self) -> int:
        """Batches that were submitted and not gathered."""
        return len(self._batches)

    def submit(self, groups: Sequence[Group]) -> None:
        """Start scoring `groups`; leave them alone until `gather` returns them. Raises RuntimeError once closed."""
        groups = list(groups)
        futures = []
        for place, reward in enumerate(self.rewards):
            # The threads start jobs in order, so the batch before is running or done: waiting cannot lock up.
            future = self._threads.submit(_timed, groups, reward, self._last[place], self._left)
            self._last[place] = future
            futures.append(future)
        self._batches.append((groups, futures))

    def gather(self, should_stop: Callable[[], bool] | None = None) -> list[Group]:
        """The oldest batch, scored. Handlers of signals run, and may raise, while it waits in the main thread.

        should_stop: asked ten times a second while scores are missing; where it says True, the runner is abandoned and
        Abandoned raised. Raises RuntimeError when nothing was submitted.
        """
        if not self._batches:
            raise RuntimeError("gather() without a batch; call submit(groups) first")
        groups, futures = self._batches[0]
        while wait(futures, timeout=_POLL if should_stop else None).not_done:
            if should_stop is not None and should_stop():
                running = [f"{r.name} ({r.source})" for r, future in zip(self.rewards, futures) if not future.done()]
                self.abandon()
                raise Abandoned(f"asked to stop while {', '.join(running)} was still running")
        self._batches.popleft()
        for reward, future in zip(self.rewards, futures, strict=True):
            result = future.result()
            _write(groups, reward.name, result.scores)
            self.timings[reward.name] = result.seconds
        return groups

    def close(self) -> None:
        """Let running rewards finish and drop those that have not started."""
        self._threads.close()
        wait([future for _, futures in self._batches for future in futures])

    def abandon(self) -> None:
        """Wait for nothing: a call that runs is left to itself, and no other follows it. No scores are written."""
        self._left.set()
        self._threads.close()
        self._batches.clear()

    def __enter__(self) -> RewardRunner:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()


def _timed(groups: list[Group], reward: LoadedReward, before: Future[_Result] | None, left: threading.Event) -> _Result:
    if before is not None:
        wait([before])
    start = time.perf_counter()

    def scores(group: Group) -> list[Score]:
        return [] if left.is_set() else call(reward, group)

    with reward.present():
        if reward.at_once == 1 or len(groups) < 2:
            found = [scores(group) for group in groups]
        else:
            found = Threads(min(reward.at_once, len(groups)), f"reward {reward.name}").map(scores, groups)
    return _Result(found, time.perf_counter() - start)


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
