"""Training at one size and evaluation at another: noise levels of each, its pictures, and sizes that are refused."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from small_pipelines import PROMPTS, adapter

from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families import FAMILIES, family_class
from mmrl.modalities.image.families.asked import Extent
from mmrl.types import Group, Prompt

FLOW = [name for name in FAMILIES if family_class(name).is_flow]
# What mu grows by from 512 x 512 to 1024 x 1024 pixels, 1024 and 4096 tokens of 16 pixels a side: 0.65 of the way from
# 256 to 4096 tokens; of FLUX.2, in 10 steps, 8.73809524e-05 a token.
GROWTH = dict.fromkeys(FLOW, 0.65 * 3072 / 3840) | dict.fromkeys(("flux2", "flux2_klein"), 8.73809524e-05 * 3072)
STEPS = 10


def bare(name: str, **options):
    """The family around a scheduler alone: all that noise levels are made of. Tokens are of 16 pixels."""
    patch = (1, 2, 2) if family_class(name).native_frames > 1 else 2
    config = SimpleNamespace(patch_size=patch, guidance_embeds=True, in_channels=16)
    pipeline = SimpleNamespace(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, **options),
        transformer=SimpleNamespace(config=config),
        config=SimpleNamespace(is_distilled=False, sample_sigmas=None, boundary_ratio=None),
        set_progress_bar_config=lambda **_: None,
    )
    family = family_class(name)(pipeline)
    pipeline.vae_scale_factor = pipeline.vae_scale_factor_spatial = 16 // family.patch
    return family


def logit(levels: torch.Tensor) -> torch.Tensor:
    inside = levels[1:-1]
    return torch.log(inside / (1 - inside))


@pytest.mark.parametrize("name", FLOW)
def test_noise_levels_are_those_of_the_size_where_the_model_shifts_them_with_it(name):
    """sigma = e^mu s / (e^mu s + 1 - s), so that the logits of all levels of two sizes are mu's difference apart."""
    family = bare(name, use_dynamic_shifting=True)
    small, large = (family.schedule(STEPS, Extent(side, side)).level for side in (512, 1024))
    expected = torch.full((STEPS - 1,), GROWTH[name], dtype=torch.float64)
    torch.testing.assert_close(logit(large) - logit(small), expected, atol=1e-4, rtol=0)
    wide = family.schedule(STEPS, Extent(256, 1024)).level  # as many tokens as 512 x 512
    assert torch.equal(wide, small)


@pytest.mark.parametrize("name", FLOW)
def test_noise_levels_are_the_same_where_the_model_has_one_shift(name):
    family = bare(name)
    small, large = (family.schedule(STEPS, Extent(side, side)).level for side in (512, 1024))
    assert torch.equal(small, large)


def test_the_rollout_goes_by_the_levels_of_its_size_and_the_evaluation_by_its_own(monkeypatch):
    policy = adapter("flux", sampling={"size": 32}, evaluation={"steps": 4, "size": (64, 96)})
    asked = []
    levels = policy.family.schedule
    monkeypatch.setattr(policy.family, "schedule", lambda *how: asked.append(how) or levels(*how))
    policy._sampler.schedule.cache_clear()
    drawn = policy.rollout([Group(PROMPTS[0], 0)], 2, step=0, seed=0)
    shown = policy.evaluate(PROMPTS[:1], 1, seed=0)
    assert asked == [(4, Extent(32, 32)), (4, Extent(64, 96))]
    # What rewards see: width x height of the size that was drawn.
    assert [s.artifact.size for s in drawn[0].samples] == [(32, 32)] * 2
    assert [s.artifact.size for s in shown[0].samples] == [(96, 64)]
    replayed = policy.logprobs(drawn[0].samples, torch.arange(3)).logp
    torch.testing.assert_close(replayed, torch.stack([s.actions.logp for s in drawn[0].samples]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("section", ["sampling", "evaluation"])
@pytest.mark.parametrize(("family", "size", "step"), [("flux", 40, 16), ("sd", (32, 36), 8)])
def test_a_size_that_autoencoder_or_patch_does_not_divide_is_refused_with_what_does(section, family, size, step):
    sizes = {"sampling": {"size": 32}, "evaluation": {"steps": 2, "size": 32}}
    with pytest.raises(ValueError, match=f"multiple of {step} pixels"):
        adapter(family, **sizes | {section: {"steps": 2, "size": size}})


@pytest.mark.parametrize(
    ("grid", "sampling", "evaluation", "named"),
    [
        ([2, 2], 32, 64, None),
        ([3, 1], 48, 64, "model.evaluation.size"),
        ([3, 1], 32, 48, "model.sampling.size"),
        ([3, 1], 32, None, "model.evaluation.size"),  # the same
        (None, 32, 64, None),
        ("2x2", 32, 64, None),  # rewards of grids say so
    ],
)
def test_a_record_whose_grid_does_not_divide_a_size_is_left_out(grid, sampling, evaluation, named):
    policy = adapter(sampling={"size": sampling}, evaluation={"steps": 2, "size": evaluation})
    found = policy.usable(Prompt("p", "a red circle", {"grid": grid}))
    if named is None:
        assert found is None
    else:
        assert named in found
        assert "multiples of 3 and 1" in found


def test_the_plan_says_both_sizes():
    for size, words in ((None, "both at the model's own size"), (512, "at 512 x 512, evaluation at 512 x 512")):
        told = ModelConfig(path="x", sampling={"size": size}).describe()
        assert any(words in line for line in told)
    told = "\n".join(ModelConfig(path="x", sampling={"size": 512}, evaluation={"size": [1024, 768]}).describe())
    assert "training at 512 x 512, evaluation at 1024 x 768 (height x width)" in told
    assert "0.33 of its pixels" in told
    told = "\n".join(ModelConfig(path="x", evaluation={"size": 1024}).describe())
    assert "training at the model's own size, evaluation at 1024 x 1024" in told


def test_a_picture_of_another_size_shares_no_latents_with_the_same_one(tmp_path):
    """Supervised training at several sizes: each has its own latents, and the size is drawn with the seed."""
    policy = adapter(sampling={"size": 32}, supervised_sizes=[32, 64])
    record = {"id": "r", "prompt": "a red circle", "image": Image.effect_noise((64, 64), 90)}
    shapes = {tuple(policy._records.latents([record], Extent(side, side)).shape[1:]) for side in (32, 64, 32)}
    assert shapes == {(8, 4, 4), (8, 8, 8)}
    drawn = [policy._records.size_of(seed) for seed in range(40)]
    assert set(drawn) == {Extent(32, 32), Extent(64, 64)}
    assert drawn == [policy._records.size_of(seed) for seed in range(40)]
    losses = {policy._records.size_of(seed): policy.supervised_loss([record], "sft", seed).item() for seed in range(6)}
    assert all(math.isfinite(loss) for loss in losses.values())
    with pytest.raises(ValueError, match="multiple of 8 pixels"):
        adapter(sampling={"size": 32}, supervised_sizes=[32, 36])
