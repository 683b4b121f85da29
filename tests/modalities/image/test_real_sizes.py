"""`mmrl plan` at the size of the models that are published, of whose files none is here: from their configs alone."""

from __future__ import annotations

import math

import pytest
import torch
from test_every_family import SHOWING, made, picture

from mmrl.config import load
from mmrl.modalities import hollow
from mmrl.modalities.image.families.asked import Asked, Source
from mmrl.modalities.image.families.published import MODELS, published_skeleton
from mmrl.share import share
from mmrl.training.assemble import load_adapter
from mmrl.training.dry_run import estimates

# Billions of weights that the model cards tell of denoiser and text encoders. Of Qwen-Image-2.1 by hand: 32 blocks of
# 4 x 4096^2 (attention) and 3 x 4096 x 12288 (MLP), and Qwen3-VL-8B's 8.8.
BILLIONS = {
    "black-forest-labs/FLUX.1-dev": (11.9, 4.9),
    "black-forest-labs/FLUX.1-Kontext-dev": (11.9, 4.9),
    "black-forest-labs/FLUX.2-dev": (32.2, 24.0),
    "black-forest-labs/FLUX.2-klein-4B": (3.9, 4.0),
    "black-forest-labs/FLUX.2-klein-base-4B": (3.9, 4.0),
    "black-forest-labs/FLUX.2-klein-9B": (9.1, 8.2),
    "black-forest-labs/FLUX.2-klein-base-9B": (9.1, 8.2),
    "Qwen/Qwen-Image": (20.4, 8.3),
    "Qwen/Qwen-Image-2512": (20.4, 8.3),
    "Qwen/Qwen-Image-Edit-2509": (20.4, 8.3),
    "Qwen/Qwen-Image-2.1": (7.0, 8.8),
    "Tongyi-MAI/Z-Image": (6.15, 4.0),
    "Tongyi-MAI/Z-Image-Turbo": (6.15, 4.0),
    "Efficient-Large-Model/Sana_1600M_512px_diffusers": (1.6, 2.6),
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": (1.6, 2.6),
    # Of 3-medium the paper's 2 B, of 3.5 the card's 2.5 B but for 384^2 x 1536 of its table of positions; SDXL's paper
    # (table 1) tells of 2.6 B and 817 M, and 860 M of 1.5. CLIP L with its projection 124 M, bigG 695 M, T5 4.76 B.
    "stabilityai/stable-diffusion-3-medium-diffusers": (2.03, 5.58),
    "stabilityai/stable-diffusion-3.5-medium": (2.24, 5.58),
    "stabilityai/stable-diffusion-xl-base-1.0": (2.57, 0.817),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (0.860, 0.123),
    # Called 1.3B; its weights are 5.68 GB in float32.
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": (1.42, 5.68),
}
# Of a shipped config, by hand: tokens of a picture in training and evaluation, forwards of the denoiser for it. 512
# pixels are 32 x 32 tokens of 16 pixels, 384 are 24 x 24, of SANA 16 x 16 of 32; guidance of two passes doubles.
PICTURES = {
    "qwen_image": ((1024, 20), (1024, 100)),
    "qwen_image_edit_plus": ((576, 20), (4096, 80)),
    "qwen_image_21": ((576, 10), (4096, 40)),
    "z_image": ((1024, 20), (4096, 80)),
    "z_image_turbo": ((1024, 6), (1024, 10)),
    "flux2_klein": ((576, 16), (4096, 56)),
    "flux2_dev": ((1024, 8), (4096, 28)),
    "flux_kontext": ((576, 10), (1024, 20)),
    "sana": ((256, 10), (256, 40)),
    "flux_dev_pickscore": ((1024, 6), (1024, 28)),
}
QUICK = ("flux2_klein", "sana")  # the others are deeper, and take seconds to be made


def test_sizes_of_all_models_that_configs_name_are_known():
    assert BILLIONS.keys() == MODELS.keys()
    models = [load(f"image/{p.stem}").model for p in share("configs", "image").glob("*.yaml")]
    named = {m.path for m in models if m.build is None and "://" not in m.path}
    assert named <= set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_published_model_has_the_weights_that_its_card_tells_of(name):
    with hollow.without_weights():
        parts = published_skeleton(name, {"default": torch.bfloat16}).components
    counts = {key: sum(p.numel() for p in m.parameters()) / 1e9 for key, m in parts.items() if hasattr(m, "parameters")}
    encoders = sum(count for key, count in counts.items() if key.startswith("text_encoder"))
    denoiser = "transformer" if "transformer" in parts else "unet"
    assert (counts[denoiser], encoders) == pytest.approx(BILLIONS[name], rel=0.03)
    assert all(p.dtype == torch.bfloat16 for p in parts[denoiser].parameters())


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in PICTURES])
def test_a_plan_tells_what_a_picture_of_the_real_model_is_and_costs(name):
    lines = load_adapter(load(f"image/{name}"), weights=False).plan_lines()
    assert "(of its published config; its files are not here)" in lines[0]
    for line, (tokens, forwards) in zip(lines[1:], PICTURES[name], strict=True):
        assert f"{tokens:,} tokens" in line and f" = {forwards} forwards of the denoiser" in line


# LoRA in float32, by hand. Rank 64 on 60 blocks of width 3072: eight projections of 3072 to 3072 and, of picture and
# text, two of 3072 to 12288. Rank 32 on 20 blocks: eight projections of 2240 to 2240.
@pytest.mark.parametrize(
    ("name", "told", "matrices"),
    [
        ("sana", "denoiser 1.6 B in 3.2 GB, text encoders 2.6 B in 5.2 GB", 20 * 32 * 8 * (2240 + 2240)),
        pytest.param(
            "qwen_image",
            "denoiser 20.4 B in 40.9 GB, text encoders 8.3 B in 16.6 GB, autoencoder 126.9 M in 254 MB",
            60 * 64 * (8 * (3072 + 3072) + 4 * (3072 + 12288)),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_plan_tells_weights_by_part_and_lora(name, told, matrices):
    (line, *_) = load_adapter(load(f"image/{name}"), weights=False).plan_lines()
    size = f"{4 * matrices / 1e9:.1f} GB" if 4 * matrices >= 1e9 else f"{4 * matrices / 1e6:.0f} MB"
    assert told in line and f"LoRA {matrices / 1e6:.1f} M in {size}" in line


@pytest.mark.parametrize("family", SHOWING)
def test_the_tokens_of_shown_pictures_that_a_plan_counts_are_those_that_the_denoiser_sees(family):
    policy = made(family).family
    for width, height in ((64, 80), (96, 64), (160, 72)):
        shown = policy.shown_size((width, height))
        (row,) = policy.encode([Asked("in red", (Source("a", picture(width, height, 0)),))], (32, 32))
        assert len(row["source"]) == policy.tokens(shown[::-1]) == math.prod(policy.token_grid(shown[::-1])) > 0


OTHERS = ("sd35_medium_ocr", "sdxl_ddpo", "wan_t2v_1b", "flash_dmd_sd3", "tdm_r1_sd35")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PICTURES, *OTHERS])
def test_memory_of_the_real_model_is_estimated(name):
    """Some 10 seconds a model: operations of some of its blocks are traced, forward and backward."""
    config = load(f"image/{name}")
    ((_, found),) = estimates(config)
    billions, sizes = sum(BILLIONS[config.model.path]), found.sizes
    lora = sizes.trained
    # 16 bit, and beside them the autoencoder, tables of positions and the LoRA.
    assert 2e9 * billions * 0.97 < sizes.weights - lora < 2e9 * billions * 1.1 + 0.7e9
    assert 0 < lora < 0.1 * sizes.weights
    # Fake score and surrogate are trained as the policy is; heads are a hundredth of it.
    copies = {"flash_dmd_sd3": 2, "tdm_r1_sd35": 3}.get(name, 1)
    assert sizes.moments == pytest.approx(2 * copies * lora, rel=0.03)
    assert sizes.sampling > 0 and sizes.update > lora
