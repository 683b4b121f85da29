"""Two ranks whose groups are sampled in the background: they go on, get servers back, stop and fail together."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from answers import Answers, make, ranks

from mmrl.engines.http_client import Lost
from mmrl.training.rollouts import asynchronous
from mmrl.training.stopping import Stopped, Stops
from mmrl.types import Prompt

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i)) for i in range(12)]


class Sky:
    """Servers that both ranks see. at: the step for which a group of rank 1 hangs until weights are sent to servers
    that are back (`dies`: or fails)."""

    def __init__(self, at=2, dies=False):
        self.at, self.dies = at, dies
        self.hangs, self.revived = threading.Event(), threading.Event()
        self.pushes = []


class InSky:
    """See mmrl.modalities.apart."""

    wanted = frozenset({"artifact"})

    def __init__(self, adapter, sky, rank):
        self.adapter, self.sky, self.rank, self.step = adapter, sky, rank, 0
        self.copy = copy.deepcopy(adapter)

    def push(self, step, once):
        def send():
            self.sky.pushes.append(step)
            if self.sky.pushes.count(self.sky.at) > 1:  # once more than at the beginning of the step
                self.sky.revived.set()

        once(send)
        self.step = step
        self.copy.table.data.copy_(self.adapter.table.data)

    def rollout(self, group, n, step, seed):
        version = self.step
        if self.rank == 1 and step == self.sky.at:
            self.sky.hangs.set()
            if self.sky.dies:
                raise Lost("no server is left")
            self.sky.revived.wait(100)
        [made] = self.copy.rollout([group], n, step, seed)
        for sample in made.samples:
            sample.version = version
            sample.actions.tensors["versions"] = torch.full((len(sample.actions.logp),), version)
        return made

    def own(self, samples):
        pass

    def returned(self):
        """Seen by rank 0 alone, which has no group that hangs."""
        return self.rank == 0 and self.sky.at in self.sky.pushes and not self.sky.revived.is_set()

    def counts(self):
        return {}

    def close(self):
        pass


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train(sky, processes) -> the rows of a training of 5 steps."""
    monkeypatch.setattr(asynchronous, "BACK_S", 0.0)
    (tmp_path / "letters.py").write_text("def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n")

    importing = threading.Lock()  # ranks that are threads share the interpreter's caches of modules

    def run(sky, processes):
        stage = {"kind": "grpo", "steps": 5, "groups": 4, "samples": 3, "micro_batch": 20, "asynchronous": {}}
        values = {
            "name": "run",
            "out": str(tmp_path),
            "data": {"prompts": "unused.txt"},
            "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}],
            "stages": [{**stage, "optim": {"lr": 0.05}}],
            "report": {"samples_every": 0},
        }
        adapter, rows = Answers(Answers.Config()), []
        adapter.apart = lambda: InSky(adapter, sky, processes.rank)
        with importing:
            trainer = make(values, PROMPTS, adapter=adapter, processes=processes)
        trainer._log = rows.append
        trainer.train()
        return rows

    return run


def test_a_server_that_one_rank_sees_back_gets_weights_while_another_rank_waits(train):
    sky = Sky()
    for rows in ranks(lambda processes: train(sky, processes)):
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
        assert all(row["rollout/age_max"] <= 1 for row in rows)
    assert sky.hangs.is_set() and sky.revived.is_set() and sky.pushes.count(sky.at) == 2


def test_a_rank_that_has_no_server_left_ends_the_other_one(train):
    with pytest.raises(Lost, match="no server is left"):
        ranks(lambda processes: train(Sky(dies=True), processes))


def test_ranks_that_wait_are_stopped_together_and_save(train, monkeypatch):
    """One is asked to, long ago, while it waits for groups of the other."""
    sky, stopped = Sky(at=3), []
    monkeypatch.setattr(InSky, "returned", lambda self: False)

    def work(processes):
        monkeypatch.setattr(Stops, "asked_long", property(lambda s: s.processes.rank == 0 and sky.hangs.is_set()))
        with pytest.raises(Stopped) as error:
            train(sky, processes)
        stopped.append(error.value.checkpoint)

    ranks(work)
    sky.revived.set()
    assert len(stopped) == 2 and stopped[0] == stopped[1] and stopped[0].is_dir()
