"""The sampler of benchmarks/effects_reward.py that is wrong about its own tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmrl.importing import import_file

wrong_engine = import_file(Path(__file__).parents[3] / "benchmarks" / "wrong_engine.py")


@pytest.fixture
def wrong(adapter):
    """wrong(**options) -> (the text adapter, the same with a wrong sampler)."""

    def make(**options):
        right = adapter()
        return right, wrong_engine.WrongEngine(wrong_engine.WrongEngineConfig(**right.config.model_dump(), **options))

    return make


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_a_share_of_the_trained_tokens_is_lowered_by_what_was_asked(share):
    logp, mask = torch.full((20_000,), -0.5), torch.arange(20_000) % 2 == 0
    found = wrong_engine.too_low(logp, mask, share, (8.0, 15.0), seed=3)
    moved = logp - found
    hit = moved != 0
    assert not (hit & ~mask).any()
    assert moved[hit].min() >= 8 and moved[hit].max() <= 15 if share else not hit.any()
    wanted, spread = 10_000 * share, (10_000 * share * (1 - share)) ** 0.5
    assert abs(int(hit.sum()) - wanted) <= 5 * spread
    assert found.equal(wrong_engine.too_low(logp, mask, share, (8.0, 15.0), seed=3))


def test_the_first_step_is_right_and_later_ones_tell_other_log_probs_of_the_same_tokens(wrong, roll):
    right, tried = wrong(wrong_share=0.5, wrong_nats=(8.0, 15.0))
    for step in (0, 1, 2):
        for told, true in zip(roll(tried, step=step), roll(right, step=step), strict=True):
            assert told.artifact == true.artifact
            assert told.actions.tensors["ids"].equal(true.actions.tensors["ids"])
            lowered = true.actions.logp - told.actions.logp
            hit = lowered > 1
            assert torch.all((lowered[hit] > 7.9) & (lowered[hit] < 15.1)) and torch.all(lowered[~hit] == 0)
            assert hit.any() == (step > 0)  # of twelve tokens, half
