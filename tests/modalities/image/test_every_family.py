"""The contract of adapters on every family, and prompts that show pictures."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from small_pipelines import CORPUS, LORA, gradients, nudge, roll

from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families import FAMILIES, family_class
from mmrl.seeds import seed_of
from mmrl.training.check import check_adapter
from mmrl.types import Prompt

SIZE, STEPS = 32, 3
# Guidance that runs two passes where the family has them; options of the builder.
GUIDED = {"z_image": 1.0, "flux": 3.5, "flux2": 4.0}
BUILD = {
    "sd3": {"layers": 1, "heads": 2, "head_dim": 16, "grid": 4},
    "flux2_klein": {"max_length": 48},
}


def picture(width: int, height: int, seed: int) -> Image.Image:
    numbers = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(numbers).resize((width, height))


def made(family: str, guidance: float | None = None, build: dict | None = None, **options) -> ImageAdapter:
    sampling = {"steps": STEPS, "guidance": GUIDED.get(family, 3.0) if guidance is None else guidance, "size": SIZE}
    parts = {"corpus": CORPUS, **BUILD.get(family, {}), **(build or {})}
    config = {"sampling": sampling, "evaluation": {"steps": STEPS}, **options}
    return ImageAdapter(ModelConfig(path="built", family=family, build=parts, **config))


def prompts(family: str) -> list[Prompt]:
    """Of different lengths; where the family takes pictures, of different sizes and numbers."""
    few, many = family_class(family).pictures
    shown = [[picture(64, 80, 0)], [picture(96, 64, 1), picture(64, 64, 2)][: max(many, 1)], []]
    if few:
        shown[2] = [picture(64, 64, 3)]
    texts = [CORPUS[0], CORPUS[1], "two blue squares"]
    return [
        Prompt(f"p{i}", text, {"images": images} if many else {}) for i, (text, images) in enumerate(zip(texts, shown))
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_contract_of_adapters_holds(family, tmp_path):
    policy = made(family, **LORA)
    nudge(policy)
    results = check_adapter(policy, prompts(family), reload=lambda folder: ImageAdapter(policy.config.at(folder)))
    assert [r for r in results if not r.passed] == []


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_replay_reaches_what_is_trained(family, train):
    policy = made(family, **(LORA if train == "lora" else {}))
    nudge(policy)
    samples = roll(policy, n=1, prompts=prompts(family)[:2])
    found = gradients(policy, policy.logprobs(samples, torch.arange(STEPS - 1)).logp.sum())
    moved = [name for name, gradient in found.items() if float(gradient.abs().max()) > 0]
    assert len(moved) > 0.7 * len(policy.trainable_parameters())  # what a last block does to the text is thrown away


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blocks_that_are_named_hold_most_of_the_weights(family):
    policy = made(family).family
    blocks = [m for m in policy.denoiser.modules() if type(m).__name__ in policy.block_names]
    held = {id(p): p.numel() for block in blocks for p in block.parameters()}
    assert sum(held.values()) > 0.3 * sum(p.numel() for p in policy.denoiser.parameters())


# ---- pictures that a prompt shows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["flux2", "flux2_klein"])
def test_each_prompt_of_a_batch_is_drawn_with_its_own_pictures_as_the_pipeline_draws_it(family):
    policy = made(family)
    for prompt, group in zip(prompts(family), policy.evaluate(prompts(family), 1, 3), strict=True):
        shape = policy.family.latent_shape(policy.eval_size)
        start = torch.randn(shape, generator=torch.Generator().manual_seed(seed_of(3, "eval", prompt.id, 0)))
        expected = policy.family.pipeline(
            prompt=[prompt.text],
            image=prompt.record["images"] or None,
            latents=start[None].transpose(1, 2).unflatten(2, policy.family.token_grid(policy.eval_size)),
            num_inference_steps=STEPS,
            guidance_scale=policy.policy.eval_guidance,
            height=SIZE,
            width=SIZE,
            max_sequence_length=policy.family.text_length(),
            output_type="np",
        ).images[0]
        assert np.abs(np.asarray(group.samples[0].artifact) / 255 - expected).max() < 0.6 / 255


def test_pictures_change_what_is_drawn():
    policy = made("flux2")
    records = [{"images": [picture(64, 64, seed)]} for seed in (1, 2)] + [{}]
    drawn = [policy.evaluate([Prompt("p", CORPUS[0], r)], 1, 3)[0].samples[0].artifact.tobytes() for r in records]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"images": [picture(64, 56, 0)]}, "64 x 56 pixels; family flux2 takes sides of 64"),
        ({"images": [picture(64, 64, 0)] * 11}, "shows 11 pictures .* takes 0 to 10"),
        ({"images": [picture(64, 64, 0)]}, None),
    ],
)
def test_pictures_that_do_not_fit_are_named(record, reason):
    found = made("flux2").usable(Prompt("p", "in red", record))
    assert found is None if reason is None else re.search(reason, str(found))


# ---- half precision -----------------------------------------------------------------------------------------------

NEW = [name for name in FAMILIES if name not in ("sd3", "flux", "sd", "sdxl")]


def in_halves(family: str, folder) -> ImageAdapter:
    made(family).family.pipeline.save_pretrained(folder)
    sampling = {"steps": STEPS, "guidance": GUIDED.get(family, 3.0), "size": SIZE}
    options = {"sampling": sampling, "evaluation": {"steps": STEPS}, "dtype": "bfloat16", **LORA}
    return ImageAdapter(ModelConfig(path=str(folder), max_sequence_length=48, **options))


@pytest.mark.parametrize("family", NEW)
def test_in_half_precision_the_picture_is_about_the_same(family, tmp_path):
    """The family is read from the files. An eighth of the spread of brightness is what 8 bits of mantissa leave."""
    policy = in_halves(family, tmp_path)
    assert policy.family.name == family and policy.family.denoiser.dtype == torch.bfloat16
    whole = made(family, max_sequence_length=48)
    ours, exact = (
        np.stack([np.asarray(g.samples[0].artifact, dtype=float) for g in one.evaluate(prompts(family), 1, 3)])
        for one in (policy, whole)
    )
    assert exact.std() > 3
    assert np.abs(ours - exact).mean() < exact.std() / 8


@pytest.mark.slow
@pytest.mark.parametrize("family", NEW)
def test_the_contract_of_adapters_holds_in_half_precision(family, tmp_path):
    policy = in_halves(family, tmp_path)
    nudge(policy)
    assert [r for r in check_adapter(policy, prompts(family)) if not r.passed] == []
