"""The contract of adapters on every family, and prompts that show pictures."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_pipelines import CORPUS, LORA, gradients, nudge, roll, with_levels

from mmrl import api
from mmrl.config import load
from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families import FAMILIES, family_class
from mmrl.seeds import seed_of
from mmrl.training.check import check_adapter
from mmrl.types import Prompt

SIZE, WIDE, STEPS = 32, (32, 64), 3
# Guidance that runs two passes where the family has them; options of the builder.
GUIDED = {"z_image": 1.0, "flux": 3.5, "flux2": 4.0, "flux_kontext": 3.5}
# Shown pictures stay small: their area, where the family would make a megapixel of it.
SOURCE = {"flux_kontext": 96 * 96, "qwen_image_edit_plus": 64 * 64, "qwen_image_21": 64 * 64}
FIRST = ("sd3", "flux", "sd", "sdxl")  # of which other tests ask the same
ALIKE = ("flux2", "qwen_image_edit_plus")  # near to flux2_klein and qwen_image, which are asked
BUILD = {
    "sd3": {"layers": 1, "heads": 2, "head_dim": 16, "grid": 4},
    "flux2_klein": {"max_length": 48},
}


def picture(width: int, height: int, seed: int) -> Image.Image:
    numbers = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(numbers).resize((width, height))


def made(family: str, guidance: float | None = None, build: dict | None = None, **options) -> ImageAdapter:
    parts = {"corpus": CORPUS, **BUILD.get(family, {}), **(build or {})}
    return ImageAdapter(ModelConfig(path="built", family=family, build=parts, **(numbers(family, guidance) | options)))


def numbers(family: str, guidance: float | None = None) -> dict:
    sampling = {"steps": STEPS, "guidance": GUIDED.get(family, 3.0) if guidance is None else guidance, "size": SIZE}
    sampling["frames"] = 5 if family_class(family).native_frames > 1 else None
    return {"sampling": sampling, "evaluation": {"steps": STEPS, "size": WIDE}, "source_pixels": SOURCE.get(family)}


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


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.slow if f in (*FIRST, *ALIKE) else []) for f in FAMILIES]
)
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


@pytest.mark.parametrize("branch", ["conditional", "both"])
@pytest.mark.parametrize("family", [name for name in FAMILIES if family_class(name).true_cfg])
def test_true_cfg_is_replayed_as_it_was_sampled(family, branch):
    """Two forwards a step, of which the second is stored where it gets no gradient."""
    sampling = numbers(family)["sampling"] | {"true_cfg": 3.0, "guidance_gradient": branch}
    policy = made(family, sampling=sampling, **LORA)
    nudge(policy)
    calls: list[bool] = []
    policy.family.denoiser.register_forward_hook(lambda m, a, out: calls.append(out[0].requires_grad))
    samples = roll(policy, prompts=prompts(family)[2:])
    assert calls == [False] * 2 * STEPS
    calls.clear()
    found = policy.logprobs(samples, torch.arange(STEPS - 1)).logp
    torch.testing.assert_close(found, torch.stack([s.trajectory.logp for s in samples]), atol=1e-5, rtol=0)
    assert calls == ([True] if branch == "conditional" else [True, True])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blocks_that_are_named_hold_most_of_the_weights(family):
    policy = made(family).family
    blocks = [m for m in policy.denoiser.modules() if type(m).__name__ in policy.block_names]
    held = {id(p): p.numel() for block in blocks for p in block.parameters()}
    assert sum(held.values()) > 0.3 * sum(p.numel() for p in policy.denoiser.parameters())


FLOWS = [name for name in FAMILIES if family_class(name).is_flow]


@pytest.mark.parametrize("family", FLOWS)
def test_the_noise_of_the_first_step_is_bounded_by_its_level(family):
    """Flow-SDE's g^2 is a^2 t / (1 - t), with the second sigma for t where that is at, or near to, pure noise: its
    variance is then a^2 t (t - t') / (1 - t'), at most a^2. SANA's own levels begin at 0.9997."""
    policy = made(family, guidance=family_class(family).guidance_off)
    x = torch.ones(1, *policy.family.latent_shape(policy.train_size))
    for steps in (3, 20):
        schedule = policy.family.schedule(steps, policy.train_size)
        first = policy.policy.transition(x, x, schedule, torch.tensor([0]))
        assert 0 < float(first.std) <= policy.policy.level + 1e-6
        assert float(first.mean.abs().max()) <= 2.0


@pytest.mark.parametrize("part", ["sampling", "evaluation"])
@pytest.mark.parametrize("family", [name for name in FLOWS if name.startswith("qwen")])
def test_one_step_of_stretched_noise_levels_is_refused(family, part):
    given = numbers(family)
    given[part] = {**given[part], "steps": 1}
    if part == "sampling":
        given[part] |= {"plan": {"name": "untrained"}}
    with pytest.raises(ValueError, match=r"shift_terminal 0.02.*sample in 2 steps or more"):
        made(family, **given)


# ---- pictures that a prompt shows ---------------------------------------------------------------------------------


SHOWING = [name for name in FAMILIES if family_class(name).pictures[1]]


def pipelines_own(policy: ImageAdapter, prompt: Prompt) -> torch.Tensor:
    """[3, H, W], of films [3, F, H, W], in [0, 1]: what the pipeline draws of a prompt from the noise of seed 3."""
    family, images, scale = policy.family, prompt.record.get("images") or None, policy.policy.eval_scales.guidance
    start = torch.randn(
        family.latent_shape(policy.eval_size),
        generator=torch.Generator().manual_seed(seed_of(3, "eval", prompt.id, 0)),
    )[None].to(family.denoiser.dtype)
    options: dict = {"guidance_scale": scale} | ({"image": images} if family.pictures[1] else {})
    options |= {"max_sequence_length": family.text_length()} if family.takes_length else {}
    if family.name.startswith("flux2"):
        start = start.transpose(1, 2).unflatten(2, family.token_grid(WIDE))
    if family.name == "flux_kontext":
        options |= {"image": images and images[0], "max_area": WIDE[0] * WIDE[1], "_auto_resize": False}
    if family.name.startswith("qwen"):
        options |= {"true_cfg_scale": options.pop("guidance_scale"), "negative_prompt": [" "]}
    if family.name == "qwen_image_21":
        options |= {"output_resolution": 64, "use_kv_cache": False}
    if family.name == "sana":  # not its multistep solver, and sizes that the published autoencoder would not fit
        options |= {"use_resolution_binning": False, "sigmas": family.sigmas(STEPS)}
        family.pipeline.check_inputs = lambda *_: None
    own, family.pipeline.scheduler = family.pipeline.scheduler, getattr(family, "scheduler", family.pipeline.scheduler)
    if family.name == "wan":
        options |= {"num_frames": policy.eval_size.frames}
        family.pipeline.scheduler = with_levels(family, STEPS, own)
    found = family.pipeline(
        prompt=[prompt.text],
        latents=start,
        num_inference_steps=STEPS,
        height=WIDE[0],
        width=WIDE[1],
        output_type="pt",
        **options,
    )
    found = found.frames[0].transpose(0, 1) if family.name == "wan" else found.images[0]
    family.pipeline.scheduler, found = own, found.float()
    return found if len(found) == 3 else found[:3] * found[3:] + 1 - found[3:]  # on white


def show_small(monkeypatch) -> None:
    """The pipeline that has no option for it shows pictures as small as SOURCE has them."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit

    monkeypatch.setattr(edit, "VAE_IMAGE_SIZE", SOURCE["qwen_image_edit_plus"])


def drawn(policy: ImageAdapter, asked: list[Prompt], monkeypatch) -> torch.Tensor:
    """[prompts, 3, H, W] in [0, 1]: evaluation's pictures from the noise of seed 3, before they are rounded."""
    seen, decode = [], policy.family.decode
    monkeypatch.setattr(policy.family, "decode", lambda *given: seen.append(decode(*given)) or seen[-1])
    policy.evaluate(asked, 1, 3)
    return (torch.cat(seen) / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("family", SHOWING)
def test_each_prompt_of_a_batch_is_drawn_with_its_own_pictures_as_the_pipeline_draws_it(family, monkeypatch):
    show_small(monkeypatch)
    policy = made(family)
    ours = drawn(policy, prompts(family), monkeypatch)
    assert ours.std() > 0.01
    for mine, prompt in zip(ours, prompts(family), strict=True):
        torch.testing.assert_close(mine, pipelines_own(policy, prompt), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", SHOWING)
def test_pictures_change_what_is_drawn(family):
    policy = made(family)
    records = [{"images": [picture(64, 64, seed)]} for seed in (1, 2)]
    drawn = [policy.evaluate([Prompt("p", CORPUS[0], r)], 1, 3)[0].samples[0].artifact.tobytes() for r in records]
    assert len(set(drawn)) == 2


@pytest.mark.parametrize("family", SHOWING)
def test_records_are_learnt_with_the_pictures_that_they_show(family):
    policy = made(family, caption_dropout=0.5)  # of which seed 1 drops one of the two captions
    records = [{"prompt": text, "image": picture(32, 32, 0), "images": [picture(64, 64, 1)]} for text in CORPUS]
    other = [{**record, "images": [picture(64, 64, 2)]} for record in records]
    losses = [float(policy.supervised_loss(some, "sft", seed=1).detach()) for some in (records, records, other)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"images": [picture(64, 56, 0)]}, "64 x 56 pixels; family flux2 takes sides of 64"),
        ({"images": [picture(64, 64, 0)] * 11}, "shows 11 pictures .* takes 0 to 10"),
        ({"images": [{"frames": [picture(64, 64, 0)]}]}, "shows a video"),
        ({"images": [picture(64, 64, 0)]}, None),
    ],
)
def test_pictures_that_do_not_fit_are_named(record, reason):
    found = made("flux2").usable(Prompt("p", "in red", record))
    assert found is None if reason is None else re.search(reason, str(found))


@pytest.mark.parametrize("family", SHOWING)
def test_pictures_that_the_family_would_leave_out_of_a_record_are_named(family):
    """A record is not dropped as a prompt is, and what it shows is never learnt without."""
    many = family_class(family).pictures[1] + 1
    record = {"id": "r1", "prompt": "in red", "image": picture(32, 32, 0), "images": [picture(64, 64, 1)] * many}
    with pytest.raises(ValueError, match=f"record 'r1' shows {many} pictures"):
        made(family).supervised_loss([record], "sft", seed=1)


def test_a_record_that_shows_pictures_to_a_family_that_reads_none_is_named():
    record = {"id": "r1", "prompt": "<image> in red", "image": picture(32, 32, 0), "images": [picture(64, 64, 1)]}
    with pytest.raises(ValueError, match="record 'r1' shows pictures, which family sd3 does not read"):
        made("sd3").supervised_loss([record], "sft", seed=1)


def test_pictures_of_prompts_that_a_family_does_not_read_are_told_of_once(recwarn):
    policy = made("sd3")
    plain, shown = Prompt("p", "in red"), Prompt("q", "in red", {"images": [picture(64, 64, 1)]})
    assert [policy.usable(prompt) for prompt in (plain, shown, shown)] == [None] * 3
    assert [str(one.message)[:47] for one in recwarn if "images" in str(one.message)] == [
        "prompt 'q', and maybe others, has pictures (col"
    ]


@pytest.mark.parametrize(
    ("family", "size", "area"),
    [
        ("qwen_image_edit_plus", (8 * 300, 8), 1024 * 1024),  # 300 to 1: 147,456 pixels leave a side of 22, 32 x 6656
        ("qwen_image_edit_plus", (8 * 600, 8), 1024 * 1024),  # a side of 15.7 becomes 0
        ("qwen_image_edit_plus", (64, 64), 200),  # 14 x 14
        ("qwen_image_21", (8, 8 * 700), 1024 * 1024),  # 38.7 x 27,095: 32 x 27,104
        ("qwen_image_21", (64, 64), 200),
        ("flux2", (64, 256), 1000),  # 15.8 x 63
        ("flux_kontext", (64, 64), 1),  # one token of 16 x 16 is always shown
    ],
)
def test_a_picture_of_which_no_side_is_left_is_named(family, size, area):
    shown = Image.new("RGB", size)
    found = made(family, source_pixels=area).usable(Prompt("p", "in red", {"images": [shown]}))
    if family == "flux_kontext":
        assert found is None and made(family, source_pixels=area).family.shown_size(size) == (16, 16)
    else:
        assert f"{size[0]} x {size[1]} pixels" in str(found) and "source_pixels" in str(found)
    assert made(family, source_pixels=4096).usable(Prompt("p", "in red", {"images": [picture(64, 80, 0)]})) is None


def test_a_picture_is_shown_at_the_size_of_the_list_whose_ratio_is_nearest_or_shrunk_to_an_area():
    family = made("flux_kontext", source_pixels=None).family
    assert family.shown_size((640, 480)) == (1184, 880)  # 1.333: 1184 / 880 is 1.345, 1104 / 944 is 1.169
    assert family.shown_size((100, 100)) == (1024, 1024)
    assert family.shown_size((90, 64)) == (
        1104,
        944,
    )  # of 80 x 64, as the pipeline cuts it: 1.25, and 1104 / 944 is 1.17
    family.source_pixels = 256 * 256
    assert family.shown_size((640, 480)) == (288, 208)  # times 0.462: 295.6 and 221.7, in whole tokens of 16
    assert family.shown_size((90, 64)) == (80, 64)  # never made larger


def test_no_row_of_qwen_image_21_feels_the_length_of_another():
    """Padding would move the place of what is drawn: in the pipeline's own batches it does."""
    policy = made("qwen_image_21", guidance=1.0)
    alone, both = (
        [Prompt("p", CORPUS[0])],
        [Prompt("p", CORPUS[0]), Prompt("q", "two blue squares above a green triangle " * 3)],
    )
    pictures = [np.asarray(policy.evaluate(some, 1, 3)[0].samples[0].artifact, dtype=int) for some in (alone, both)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


@pytest.mark.parametrize("marked", [True, False])
def test_a_step_on_records_of_a_file_that_show_pictures(tmp_path, marked):
    picture(64, 64, 0).save(tmp_path / "a.png")
    picture(80, 64, 1).save(tmp_path / "b.png")
    said = "<image>in blue" if marked else "in blue"
    rows = [{"id": name, "prompt": said, "images": [f"{name}.png"]} for name in "ab"]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build = {"corpus": CORPUS}
    sampling = {"steps": STEPS, "size": SIZE, "guidance": 2.0, "noise_level": 0.7}
    model = {"path": "built", "family": "flux_kontext", "build": build, "source_pixels": 4096, "sampling": sampling}
    stage = {"kind": "grpo", "steps": 1, "groups": 2, "samples": 2, "micro_batch": 8}
    config = load(
        {
            "modality": "image",
            "model": {**model, **LORA},
            "data": {"prompts": str(tmp_path / "edits.jsonl")},
            "rewards": [{"name": "jpeg.incompressible"}],
            "stages": [stage],
            "out": str(tmp_path / "run"),
            "device": "cpu",
            "threads": 1,
        }
    )
    summary = api.trainer(config, quiet=True).train()
    assert summary["steps"] == 1 and summary["samples"] == 4 and summary["actions"] == 8


@pytest.mark.parametrize("family", FLOWS)
@torch.no_grad()
def test_frozen_blocks_show_a_picture_alike_whoever_else_is_shown(family):
    """Beside a prompt of many more words, whose tokens no head is to count with those of the picture."""
    policy = made(family)
    nudge(policy)
    first, *_ = prompts(family)
    other = replace(first, id="other", text=f"{first.text} {' '.join(['a red circle'] * 20)}")
    samples = roll(policy, n=1, prompts=[first, other])
    clean = torch.randn(2, *policy.family.latent_shape(policy.train_size), generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.5, 0.5])
    [both] = policy.block_features(samples, times, [0, 1], clean, 1)
    [alone] = policy.block_features(samples[:1], times[:1], [0], clean[:1], 1)
    torch.testing.assert_close(both[:1], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FLOWS)
def test_frozen_blocks_show_the_picture_and_lead_back_to_it(family):
    """Tokens of what is drawn alone, of the width that heads are made for; another picture gives others, and has a
    gradient through them."""
    policy = made(family)
    nudge(policy)
    samples = roll(policy, n=1, prompts=prompts(family)[:1])
    clean = torch.zeros(1, *policy.family.latent_shape(policy.train_size), requires_grad=True)
    times = torch.tensor([0.5])
    found = policy.block_features(samples, times, [0], clean, 1)
    assert [features.shape[-1] for features in found] == policy.block_widths(1)
    [gradient] = torch.autograd.grad(found[0].square().sum(), [clean])
    assert float(gradient.abs().min()) > 0
    others = policy.block_features(samples, times, [0], clean.detach() + 1, 1)
    assert not torch.equal(found[0], others[0]) and found[0].shape == others[0].shape
    count, drawn = len(policy.family.blocks), policy.family.tokens(policy.train_size)
    every = policy.block_features(samples, times, [0], clean, count)
    assert [features.shape[1] for features in every] == [drawn] * count
    with pytest.raises(Unsupported, match="ask for fewer"):
        policy.block_features(samples, times, [0], clean, 99)
