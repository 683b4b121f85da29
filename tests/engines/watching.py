"""What a training in the background learned from, step by step, and servers that come and go while it does."""

from __future__ import annotations

import json
import random
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmrl.training.rollouts.asynchronous import AsynchronousRollouts
from mmrl.types import Group, Sample


class Watch:
    """What each step learned from, noted where it is handed over.

    groups, samples: how many a step and a group have. reward: the name of a score that each sample has.
    """

    def __init__(self, monkeypatch: Any, groups: int, samples: int, reward: str) -> None:
        self.groups, self.samples, self.reward = groups, samples, reward
        self.taken: list[tuple[int, list[Group]]] = []
        self.begun = threading.Event()  # the first step has its groups
        original = AsynchronousRollouts._take

        def take(rollouts: AsynchronousRollouts, step: int, dropped: Any) -> None:
            original(rollouts, step, dropped)
            self.taken.append((step, rollouts._made(step)))
            self.begun.set()

        monkeypatch.setattr(AsynchronousRollouts, "_take", take)

    def check(self, steps: int, staleness: int) -> None:
        """Every step once, in order, with whole groups at its places, and no action too old or of weights to come."""
        assert [step for step, _ in self.taken] == list(range(steps))
        for step, groups in self.taken:
            assert [group.index for group in groups] == list(range(self.groups))
            for group in groups:
                assert [sample.index for sample in group.samples] == list(range(self.samples))
                for sample in group.samples:
                    versions = versions_of(sample)
                    assert len(versions) == len(sample.actions.logp) and versions == sorted(versions)
                    assert sample.version == versions[0] >= step - staleness and versions[-1] <= step
                    assert self.reward in sample.scores and "logp_sampler" in sample.actions.tensors
        prompts = Counter(group.prompt.id for _, groups in self.taken for group in groups)
        assert max(prompts.values()) - min(prompts.get(p, 0) for p in prompts) <= 1  # passes over all prompts

    def all_samples(self) -> list[Sample]:
        return [sample for _, groups in self.taken for group in groups for sample in group.samples]


def versions_of(sample: Sample) -> list[int]:
    """Of the weights that each action was sampled with."""
    return sample.actions.tensors["versions"].tolist()


@contextmanager
def coming_and_going(
    watch: Watch, servers: list[Any], again: Callable[[Any], Any], seed: int, most_up: float, most_down: float
) -> Iterator[None]:
    """Inside, from the first step on, one of `servers` after the other is killed and started anew, at random moments.

    again: starts one in the place of another. most_up, most_down: seconds, at most, until the next is killed, and
    until it is there again.
    """
    over, chance = threading.Event(), random.Random(seed)

    def go() -> None:
        watch.begun.wait()
        while not over.wait(chance.uniform(0.05, most_up)):
            place = chance.randrange(len(servers))
            servers[place].kill()
            over.wait(chance.uniform(0.0, most_down))
            servers[place] = again(servers[place])

    thread = threading.Thread(target=go)
    thread.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            over.set()
            watch.begun.set()
            thread.join()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Metrics of the run `run` in a folder."""
    lines = (folder / "runs" / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
