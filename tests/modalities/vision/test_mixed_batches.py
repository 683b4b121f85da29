"""Batches with and without pictures together, a trained tower among them (trap T14)."""

from __future__ import annotations

import pytest
import torch

from mmrl.modalities.vision.tiny import KINDS


def gradients(policy, samples):
    columns = torch.arange(max(len(s.trajectory.mask) for s in samples))
    loss = policy.logprobs(samples, columns).logp.sum()
    return torch.autograd.grad(loss, list(policy.trainable_parameters().values()), allow_unused=True)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_with_and_without_pictures_do_not_touch_one_another(adapter, drawn, ask, roll, kind):
    policy = adapter(kind, vision="trained", loud=True)
    prompts = [ask("12+30="), ask("What?", drawn(1)), ask("Which is it?", drawn(2, (40, 72)), drawn(3)), ask("a")]
    samples = roll(policy, prompts, n=2)
    towers = {id(p) for tower in policy.family.towers(policy.model) for p in tower.parameters()}
    trained = list(policy.trainable_parameters().values())
    assert towers <= {id(p) for p in trained}

    named = policy.trainable_parameters()
    # LLaVA-OneVision takes what stands before its tower's last norm.
    unused = {id(p) for n, p in named.items() if kind == "llava_onevision" and "vision_tower.post_layernorm" in n}
    whole = gradients(policy, samples)
    apart = [gradients(policy, [s]) for s in samples]
    for parameter, made, parts in zip(trained, whole, zip(*apart)):
        if id(parameter) in unused:
            assert made is None
            continue
        wanted = sum(p for p in parts if p is not None)
        assert isinstance(wanted, torch.Tensor), "each number of the tower and of the decoder is reached by some row"
        torch.testing.assert_close(made, wanted, rtol=2e-3, atol=2e-4 * float(wanted.abs().max().clamp(min=1)))
        if id(parameter) in towers:
            assert all((p is None) == (not s.media) for p, s in zip(parts, samples))


def test_a_batch_of_texts_leaves_the_tower_alone(adapter, ask, roll):
    """No dummy picture: gradients that no process has are left out of the sum over processes, others are zeros."""
    policy = adapter(vision="trained")
    seen = []
    policy.model.model.visual.register_forward_hook(lambda *_: seen.append(1))
    samples = roll(policy, [ask("12+30="), ask("a")])
    found = dict(zip(policy.trainable_parameters(), gradients(policy, samples)))
    assert not seen
    assert all((g is None) == (".visual." in name) for name, g in found.items())
