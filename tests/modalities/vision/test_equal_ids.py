"""Prompts are told apart by what they show: a record's id is no key of a cache, and no noise by itself."""

from __future__ import annotations

import torch

from mmrl.types import Group


def test_equal_ids_with_other_pictures_do_not_mix(adapter, drawn, ask, roll):
    """Training and held-out data may have a record of the same id."""
    train, held = ask("What?", drawn(1), id="7"), ask("What?", drawn(2), id="7")

    def read(policy, prompt):
        sample = policy.given(prompt, ["the left one"])[0]
        return policy.logprobs([sample], torch.arange(3)).logp.detach()

    first, second = read(adapter(loud=True), train), read(adapter(loud=True), held)
    assert not torch.equal(first, second)
    policy = adapter(loud=True)
    for _ in range(2):
        assert torch.equal(read(policy, train), first) and torch.equal(read(policy, held), second)
    both = [policy.given(prompt, ["the left one"])[0] for prompt in (train, held)]
    torch.testing.assert_close(policy.logprobs(both, torch.arange(3)).logp, torch.cat([first, second]))


def test_a_prompt_twice_in_a_rollout_has_other_samples(adapter, drawn, ask):
    policy, prompt = adapter(), ask("What?", drawn(1))
    groups = policy.rollout([Group(prompt, 0), Group(prompt, 1, draw=1)], 2, 0, 0)
    assert len({tuple(s.trajectory.tensors["ids"].tolist()) for g in groups for s in g.samples}) == 4
    assert policy.shelf.processed == 1
