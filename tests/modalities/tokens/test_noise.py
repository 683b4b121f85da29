"""Noise comes from (seed, step, key of the group, number of the sample): a prompt that comes twice is drawn twice."""

from __future__ import annotations

import pytest
import torch

import mmrl.engines.load
from mmrl.engines.base import Completion
from mmrl.environments.base import Context, Reply
from mmrl.types import Group, Prompt

SAME = Prompt("p", "12+3=")


class Again:
    answers_cut = True

    def open(self, episode):
        return Context([{"role": "user", "content": episode.prompt.text}])

    def respond(self, episode):
        return Reply("Again!") if len(episode.said) < 3 else None


class Elsewhere:
    """An engine that keeps what it is asked, and says what depends on the seed alone."""

    lora, max_model_len = False, 2**31

    def __init__(self):
        self.seeds = []

    def sync(self, weights, version, once):
        pass

    def generate(self, rows, n, sampling, seeds):
        self.seeds += [seed for own in seeds for seed in own]
        return [[self._said(seed) for seed in own] for own in seeds]

    def _said(self, seed):
        ids = torch.randint(3, 250, (4,), generator=torch.Generator().manual_seed(seed))
        return Completion(ids, -torch.ones(4), "length")

    def verify(self, completions, low, high, tolerance):
        pass

    def rest(self):
        pass

    def close(self):
        pass


@pytest.fixture(params=["transformers", "vllm"])
def policy(request, adapter, monkeypatch):
    engine = Elsewhere()
    monkeypatch.setattr(mmrl.engines.load, "load_engine", lambda *args: engine)
    return adapter(engine={"name": request.param})


def said(policy, groups, n=2, step=0, seed=0):
    return [
        [s.trajectory.tensors["ids"].tolist() for s in group.samples] for group in policy.rollout(groups, n, step, seed)
    ]


@pytest.mark.parametrize("environment", [None, Again()], ids=["once", "conversation"])
def test_a_prompt_twice_in_a_rollout_has_other_samples(policy, environment):
    policy.environment = environment
    rows = said(policy, [Group(SAME, 0), Group(SAME, 1, draw=1), Group(SAME, 2, draw=2)])
    assert len({tuple(ids) for group in rows for ids in group}) == 6
    # Where it is drawn first, another draw beside it changes nothing; nor do the group's place and the others.
    assert said(policy, [Group(Prompt("q", "Why?"), 0), Group(SAME, 5)])[1] == rows[0]
    assert said(policy, [Group(SAME, 0, draw=1)])[0] == rows[1]
    assert said(policy, [Group(SAME, 0)], step=1)[0] != rows[0] != said(policy, [Group(SAME, 0)], seed=1)[0]


def test_filled_groups_are_the_groups_that_were_asked_for(policy):
    asked = [Group(SAME, 3), Group(SAME, 8, draw=1)]
    filled = policy.rollout(asked, 1, 0, 0)
    assert [(g.prompt, g.index, g.key) for g in filled] == [(g.prompt, g.index, g.key) for g in asked]


def test_every_turn_of_every_conversation_has_a_seed_of_its_own(adapter, monkeypatch):
    engine = Elsewhere()
    monkeypatch.setattr(mmrl.engines.load, "load_engine", lambda *args: engine)
    policy = adapter(engine={"name": "vllm"})
    policy.environment = Again()
    policy.rollout([Group(SAME, 0), Group(SAME, 1, draw=1)], 2, 0, 0)
    assert len(engine.seeds) == len(set(engine.seeds)) == 2 * 2 * 3


def test_next_steps_draw_from_the_seeds_that_they_are_given(adapter):
    policy = adapter()

    def steps(*seeds):
        made = policy.next_steps([(SAME, ())] * len(seeds), seeds, greedy=False, end="\n", max_tokens=6)
        return [[step.ids.tolist() for step in own] for own in made]

    first, second = steps([1, 2], [3, 4])
    assert len({tuple(ids) for ids in first + second}) == 4
    assert steps([3, 4], [1, 2]) == [second, first]
    assert policy.next_steps([(SAME, ())], [[7]], True, "\n", 6)[0][0].ids.tolist() == (
        policy.next_steps([(SAME, ())], [[8]], True, "\n", 6)[0][0].ids.tolist()  # greedy ones from none
    )
