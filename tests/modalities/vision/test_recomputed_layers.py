"""Every family: prompts that are shared, by layers that are recomputed or tokens by blocks, change no number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmrl.modalities.vision.tiny import KINDS
from mmrl.types import Group

BLOCKS = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"}


def prompts(drawn, ask):
    return [
        ask("What is it?", drawn(1)),
        ask("Which of the two shows more red?", drawn(2, (40, 90)), drawn(3, (70, 30))),
    ]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("paligemma")])
def test_log_probs_and_gradients_are_those_of_whole_rows(adapter, drawn, ask, roll, kind):
    policy = adapter(kind, loud=True, vision="trained", gradient_checkpointing=True)
    samples = roll(policy, prompts(drawn, ask), n=3)
    ways, found = policy._ways, []
    assert policy._way.share or not ways.shared or not policy.family.shares_prompts
    for one in (ways, replace(ways, line=0), replace(ways, line=0, recomputed=False)):
        policy._ways = one
        policy.model.zero_grad()
        logp = policy.logprobs(samples, torch.arange(10)).logp
        logp.square().mean().backward()
        gradient = [p.grad.flatten() for p in policy.trainable_parameters().values() if p.grad is not None]
        found.append((logp.detach(), torch.cat(gradient)))
    for logp, gradient in found[:2]:
        torch.testing.assert_close(logp, found[2][0], rtol=0, atol=1e-4)
        assert (gradient - found[2][1]).norm() <= 1e-4 * found[2][1].norm()


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_go_on_from_pictures(shared, drawn, ask, kind, monkeypatch):
    policy = shared(kind)
    ways = policy._ways
    assert ways.blocks or kind not in BLOCKS
    if not ways.blocks:
        pytest.skip("the library's own forward samples")
    groups = [Group(prompt, i) for i, prompt in enumerate(prompts(drawn, ask))]
    drawings = []
    for blocks in (True, False):
        monkeypatch.setattr(policy, "_ways", replace(ways, blocks=blocks))
        drawings.append([s for g in policy.rollout(groups, 3, 0, 0) for s in g.samples])
    for made, real in zip(*drawings, strict=True):
        assert made.artifact == real.artifact
        torch.testing.assert_close(made.trajectory.logp, real.trajectory.logp, rtol=0, atol=1e-4)
