"""model.keep_graph: the first update goes back through the rollout's own forwards, and gets the same numbers."""

from __future__ import annotations

import pytest
import torch
from small_pipelines import adapter, all_columns, nudge, old_logp, roll
from test_every_family import made, prompts

from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.families import FAMILIES


def forwards(policy) -> list[bool]:
    """One entry for each forward of a denoiser from now on."""
    found: list[bool] = []
    for module in policy.family.denoisers.values():
        module.register_forward_hook(lambda *_: found.append(torch.is_grad_enabled()))
    return found


def through(policy, samples, budget=2) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(log-probs, gradient) of a loss in which each action counts differently, over micro-batches."""
    parameters = policy.trainable_parameters()
    logp = torch.zeros(len(samples), len(samples[0].trajectory.logp))
    factor = torch.linspace(-1, 2, logp.numel()).view_as(logp)
    for part in policy.slices(samples, budget):
        found = policy.logprobs([samples[r] for r in part.rows], part.columns).logp
        where = (part.rows[:, None], part.columns[None, :])
        logp[where] = found.detach()
        (found * factor[where]).sum().backward()
    got = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for p in parameters.values():
        p.grad = None
    return logp, got


def close(found, expected, within: float = 2e-6) -> None:
    assert found.keys() == expected.keys() and len(found) > 0
    scale = max(float(g.abs().max()) for g in expected.values())
    assert scale > 0
    assert max(float((found[k] - expected[k]).abs().max()) for k in expected) < within * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_the_gradient_of_a_replay_without_a_forward(family):
    policy, plain = (made(family, keep_graph=kept) for kept in (True, False))
    assert policy.trainable_parameters().keys() == plain.trainable_parameters().keys()
    asked = prompts(family)[:2]
    samples, others = roll(policy, prompts=asked, n=1), roll(plain, prompts=asked, n=1)
    assert torch.equal(old_logp(samples), old_logp(others))
    calls = forwards(policy)
    logp, found = through(policy, samples)
    assert calls == []
    assert torch.equal(logp, old_logp(samples))  # it is the very same number, and the first ratio 1
    close(found, through(plain, others)[1])


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": {"guidance_gradient": "both"}},
        {"sampling": {"kernel": "cps", "plan": {"name": "random_window", "size": 2}}},
        {"sampling": {"ratio_norm": True}},
        {"sampling": {"storage": "bfloat16"}},
        {"gradient_checkpointing": True},
        {"train": "lora", "lora": {"rank": 2, "alpha": 4}},
        {"rollout_batch": 3},
        {"dtype": "bfloat16"},
    ],
    ids=["both", "window", "ratio_norm", "storage", "recomputed", "lora", "batches", "16 bits"],
)
def test_whatever_else_the_config_says(options):
    policy, plain = (adapter(keep_graph=kept, **options) for kept in (True, False))
    nudge(policy)
    with torch.no_grad():  # LoRA's matrices are drawn anew
        for name, parameter in plain.trainable_parameters().items():
            parameter.copy_(policy.trainable_parameters()[name])
    samples, others = roll(policy), roll(plain)
    calls = forwards(policy)
    logp, found = through(policy, samples)
    assert calls == [] and torch.equal(logp, old_logp(samples)) and torch.equal(logp, old_logp(others))
    expected = through(plain, others)[1]
    close(found, expected, 0.05 if "dtype" in options else 2e-6)  # in 16 bits a sum depends on the cut


def test_a_second_pass_replays_and_other_weights_are_never_taken_for_these():
    policy = adapter(keep_graph=True)
    samples, calls = roll(policy), forwards(policy)
    first = through(policy, samples)[1]
    assert calls == []
    close(through(policy, samples)[1], first)
    assert len(calls) > 0
    samples = roll(policy, step=1)
    nudge(policy)
    calls.clear()
    moved, found = through(policy, samples)
    assert len(calls) > 0 and not torch.allclose(moved, old_logp(samples))
    for s in samples:
        s.trajectory.tensors.pop("batch")
    close(found, through(policy, samples)[1])


def test_looking_without_a_gradient_leaves_the_graphs():
    policy = adapter(keep_graph=True)
    samples = roll(policy)
    with torch.no_grad():
        policy.logprobs(samples, all_columns(samples))
    calls = forwards(policy)
    through(policy, samples)
    assert calls == []


def test_some_rows_and_columns_in_any_order_are_their_own():
    policy = adapter(keep_graph=True)
    samples = roll(policy)
    calls = forwards(policy)
    logp = policy.logprobs([samples[3], samples[0], samples[2]], torch.tensor([2, 0])).logp
    assert calls == [] and torch.equal(logp, old_logp(samples)[[3, 0, 2]][:, [2, 0]])


def test_half_of_a_batch_is_replayed_as_a_backward_would_go_through_all_of_it():
    policy = adapter(keep_graph=True)
    samples = roll(policy)
    calls = forwards(policy)
    logp = policy.logprobs(samples[:2], torch.tensor([1])).logp
    assert len(calls) > 0
    torch.testing.assert_close(logp, old_logp(samples)[:2, 1:2], atol=1e-6, rtol=0)
    assert len(policy._sampler.graphs._kept) == 2  # of the other steps


def test_the_cut_keeps_what_was_denoised_together_and_does_not_ask_whether_graphs_are_there():
    """A run that goes on in the middle of an update has the trajectories alone."""
    policy = adapter(keep_graph=True, rollout_batch=3)
    samples = roll(policy, n=4)  # batches of 3, 3 and 2 rows
    chosen = [samples[i] for i in (7, 0, 4, 1, 5)]  # of batches 2, 0, 1, 0, 1
    found = [(part.rows.tolist(), part.columns.tolist()) for part in policy.slices(chosen, 2)]
    assert found == [
        ([0], [0, 1]),
        ([0], [2]),
        *(([1, 3], [column]) for column in range(3)),
        *(([2, 4], [column]) for column in range(3)),
    ]
    through(policy, samples)
    assert [(part.rows.tolist(), part.columns.tolist()) for part in policy.slices(chosen, 2)] == found


def test_graphs_of_older_weights_do_not_stay():
    policy = adapter(keep_graph=True)
    kept = policy._sampler.graphs._kept
    samples = roll(policy)
    assert len(kept) == 3
    roll(policy, step=1)
    assert len(kept) == 6  # of the same weights, both may be trained on
    nudge(policy)
    roll(policy, step=2)
    assert len(kept) == 3
    policy.logprobs(samples, all_columns(samples))
    assert len(kept) == 3
    policy.evaluate([s.prompt for s in samples], 1, 0)
    assert len(kept) == 3


def test_trained_text_encoders_are_refused():
    with pytest.raises(Unsupported, match="keep_graph"):
        adapter(keep_graph=True).select(["denoiser", "text_encoders"])
