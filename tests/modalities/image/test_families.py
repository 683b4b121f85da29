"""Each family samples what its diffusers pipeline samples, from the same noise, and fits the same numbers."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from small_pipelines import blank, encoded, with_levels

import mmrl  # noqa: F401  before diffusers: it hooks the import of torchvision
from mmrl.modalities import hollow
from mmrl.modalities.image import lora
from mmrl.modalities.image.config import LoraConfig, ModelConfig
from mmrl.modalities.image.families import FAMILIES, family_class, family_of
from mmrl.modalities.image.families.asked import Extent
from mmrl.modalities.image.loading import load_family
from mmrl.modalities.image.tiny.parts import word_tokenizers

CORPUS = ["a red circle", "two blue squares above a green triangle"]
TEXTS = ["a red circle", "two blue squares above a green triangle"]  # not of one length
SIZE = (32, 48)  # not square: rows and columns must not be swapped
FRAMES = 5  # of the families that draw films: two latents of them
STEPS = 4

# Name of a case -> family, the builder's options.
CASES = {
    "sd3": ("sd3", {"layers": 2}),
    "flux_dev": ("flux", {}),
    "flux_schnell": ("flux", {"guidance_embeds": False, "dynamic_shifting": False, "shift": 1.0}),
    "flux_linear_shift": ("flux", {"guidance_embeds": False, "dynamic_shifting": True}),
    "sd": ("sd", {}),
    "sd_v": ("sd", {"prediction": "v_prediction"}),
    "sdxl": ("sdxl", {}),
    "sdxl_v": ("sdxl", {"prediction": "v_prediction"}),
    "z_image": ("z_image", {}),
    "qwen_image": ("qwen_image", {}),
    "flux2": ("flux2", {}),
    "flux2_klein": ("flux2_klein", {}),
    "flux_kontext": ("flux_kontext", {}),
    "sana": ("sana", {"timestep_scale": 0.5, "learned_variance": True}),
    "wan": ("wan", {}),
    "wan_two": ("wan", {"boundary_ratio": 0.9, "own_solver": False}),  # of four steps at 1000, 900, 750 and 500
    "wan_5b": ("wan", {"expand_timesteps": True}),
}
GUIDANCE = {"sd3": 3.0, "flux_dev": 3.5, "sd": 5.0, "sd_v": 5.0, "sdxl": 5.0, "sdxl_v": 5.0}
GUIDANCE |= {
    "z_image": 2.0,
    "qwen_image": 4.0,
    "flux2": 4.0,
    "flux2_klein": 4.0,
    "sana": 4.5,
    "flux_kontext": 3.5,
    "wan": 5.0,
    "wan_two": 3.0,
}
FAMILY_CASES = ["sd3", "flux_dev", "sd", "sdxl", "z_image", "qwen_image", "flux2", "flux2_klein", "sana", "wan"]


def build(case: str, **more):
    name, options = CASES[case]
    torch.manual_seed(0)
    return family_class(name)(family_class(name).build(CORPUS, **{**options, **more}), max_sequence_length=None)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    family = build(request.param)
    if request.param == "flux_linear_shift":
        family.pipeline.scheduler.register_to_config(time_shift_type="linear")
    return request.param, family


def extent(family) -> Extent:
    return Extent(*SIZE, FRAMES if family.native_frames > 1 else 1)


def pixel_shape(family) -> tuple[int, ...]:
    return (3, FRAMES, *SIZE) if family.native_frames > 1 else (3, *SIZE)


def noise(family, n: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, *family.latent_shape(extent(family))), generator=generator)


@torch.no_grad()
def draw(family, texts, latents, steps: int = STEPS, guidance: float | None = None) -> torch.Tensor:
    """Pictures [b, 3, H, W], or films, in [0, 1] by Euler steps of the ODE or DDIM with eta 0, written out."""
    size = extent(family)
    condition = encoded(family, texts, size)
    guidance = family.guidance_off if guidance is None else guidance
    empty = blank(family, len(texts), size) if family.is_guided(guidance) else None
    value = guidance if family.guidance == "embedded" else None
    schedule = family.schedule(steps, size)
    for i, time in enumerate(schedule.time.float()):
        times = time.expand(len(texts))
        output = family.predict(latents, times, condition, size, value)
        if empty is not None:
            without = family.predict(latents, times, empty, size)
            output = family.guide(output, without, guidance)
        now, after = schedule.level[i].float(), schedule.level[i + 1].float()
        if family.is_flow:
            latents = latents + (after - now) * output
            continue
        if family.prediction == "epsilon":
            clean, eps = (latents - (1 - now).sqrt() * output) / now.sqrt(), output
        else:
            clean = now.sqrt() * latents - (1 - now).sqrt() * output
            eps = now.sqrt() * output + (1 - now).sqrt() * latents
        latents = after.sqrt() * clean + (1 - after).sqrt() * eps
    return (family.decode(latents, size) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def pipeline_draw(family, texts, latents, guidance: float) -> torch.Tensor:
    """Pictures by the pipeline's own call, with what its users write for this guidance."""
    pipeline, options = family.pipeline, {}
    # Without a length prompts are padded to 256 or more; the tiny tokenizers stop before, which ours respects.
    options |= {"max_sequence_length": family.text_length()} if family.takes_length else {}
    options |= {"guidance_scale": guidance}
    if family.name == "qwen_image":
        options = {**options, "true_cfg_scale": options.pop("guidance_scale")}
        options |= {"negative_prompt": [" "] * len(texts)} if guidance > 1 else {}
    if family.name.startswith("flux2"):  # it packs what it is given
        latents = latents.transpose(1, 2).unflatten(2, family.token_grid(SIZE))
    if family.name == "flux_kontext":
        options |= {"max_area": SIZE[0] * SIZE[1]}
    if family.name == "sana":
        options |= {"use_resolution_binning": False, "sigmas": family.sigmas(STEPS)}
        pipeline.scheduler = family.scheduler  # instead of a multistep solver, whose steps have no log-probability
        pipeline.check_inputs = lambda *_: None  # that sizes fit the published autoencoder's 32 pixels a latent
    own = pipeline.scheduler
    if family.name == "wan":
        options |= {"num_frames": FRAMES}
        pipeline.scheduler = with_levels(family, STEPS, own)
    found = pipeline(
        prompt=list(texts),
        height=SIZE[0],
        width=SIZE[1],
        num_inference_steps=STEPS,
        latents=latents.clone(),
        output_type="pt",
        **options,
    )
    if family.name != "wan":
        return found.images
    pipeline.scheduler = own
    return found.frames.transpose(1, 2)


# ---- the same picture as the pipeline's own -------------------------------------------------------------


def test_without_guidance_the_picture_is_the_pipelines(case):
    _, family = case
    start = noise(family, len(TEXTS))
    ours = draw(family, TEXTS, start)
    theirs = pipeline_draw(family, TEXTS, start, guidance=family.guidance_off)
    assert ours.shape == (2, *pixel_shape(family))
    assert ours.std() > 0.01, "a flat picture would prove nothing"
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", GUIDANCE, indirect=True)
def test_with_guidance_the_picture_is_the_pipelines(case):
    name, family = case
    start = noise(family, len(TEXTS))
    ours = draw(family, TEXTS, start, guidance=GUIDANCE[name])
    theirs = pipeline_draw(family, TEXTS, start, guidance=GUIDANCE[name])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    unguided = draw(family, TEXTS, start)
    assert (ours - unguided).abs().max() > 1e-3, "guidance must matter for the comparison to mean anything"


def test_sdxl_without_forced_zeros_encodes_the_empty_prompt_as_the_pipeline_does():
    family = build("sdxl")
    none = blank(family, 1, SIZE)
    assert none["embeds"].abs().max() == 0 and none["pooled"].abs().max() == 0
    assert encoded(family, [""], SIZE)["embeds"].abs().max() > 0  # a prompt that is empty is a prompt
    family.pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    assert torch.equal(blank(family, 1, SIZE)["embeds"], encoded(family, [""], SIZE)["embeds"])
    start = noise(family, 2)
    ours = draw(family, TEXTS, start, guidance=5.0)
    torch.testing.assert_close(ours, pipeline_draw(family, TEXTS, start, 5.0), atol=1e-4, rtol=0)


def test_flux_without_a_guidance_value_uses_one():
    family = build("flux_dev")
    condition = encoded(family, TEXTS, SIZE)
    latents, time = noise(family, 2), torch.tensor([500.0, 900.0])
    with torch.no_grad():
        left_out = family.predict(latents, time, condition, SIZE)
        one = family.predict(latents, time, condition, SIZE, 1.0)
        four = family.predict(latents, time, condition, SIZE, 4.0)
    assert torch.equal(left_out, one)
    assert (four - one).abs().max() > 1e-4


# ---- the tiny pipelines are reproducible ----------------------------------------------------------------


def test_one_corpus_always_gives_one_tokenizer():
    clip, t5 = word_tokenizers(CORPUS, max_length=12)
    for _ in range(4):  # hash order changes from one training to the next
        clip_again, t5_again = word_tokenizers(CORPUS, max_length=12)
        assert clip_again.get_vocab() == clip.get_vocab()
        assert t5_again.get_vocab() == t5.get_vocab()
    # Start, one token a word, end; and a word of no corpus is spelt.
    assert len(clip("two blue squares above").input_ids) == 2 + 4
    assert clip.decode(clip("zebra").input_ids, skip_special_tokens=True).strip() == "zebra"


# ---- rows of a batch are independent --------------------------------------------------------------------


def test_a_row_does_not_depend_on_its_batch(case):
    _, family = case
    size = extent(family)
    together, alone = encoded(family, TEXTS, size), encoded(family, TEXTS[1:], size)
    latents, time = noise(family, 2), torch.tensor([800.0, 300.0])
    with torch.no_grad():
        both = family.predict(latents, time, together, size)
        second = family.predict(latents[1:], time[1:], alone, size)
        other = family.predict(latents, time, encoded(family, TEXTS[::-1], size), size)
    assert both.shape == latents.shape
    torch.testing.assert_close(both[1:], second, atol=1e-5, rtol=1e-4)
    assert (other - both).flatten(1).abs().amax(1).min() > 1e-4, "each row is to hear its prompt"


# ---- schedules ------------------------------------------------------------------------------------------


def test_schedules_go_from_noise_to_picture(case):
    _, family = case
    schedule = family.schedule(7, SIZE)
    assert len(schedule) == 7 and schedule.level.shape == (8,)
    assert schedule.time.is_floating_point() and (schedule.time.diff() < 0).all()
    steps = schedule.level.diff()
    assert (steps < 0).all() if family.is_flow else (steps > 0).all()


def test_ddim_levels_are_cumulative_products_of_the_training_noise():
    """Betas written out here: squares of 1000 even steps between the roots of 0.00085 and 0.012."""
    roots = [math.sqrt(0.00085) + i / 999 * (math.sqrt(0.012) - math.sqrt(0.00085)) for i in range(1000)]
    cumulative, product = [], 1.0
    for root in roots:
        product *= 1 - root**2
        cumulative.append(product)
    family = build("sd")
    schedule = family.schedule(5, SIZE)
    # "leading" spacing: multiples of 1000 / 5, plus the offset 1; the last step lands on timestep 0's alpha.
    assert schedule.time.tolist() == [801.0, 601.0, 401.0, 201.0, 1.0]
    expected = [cumulative[t] for t in (801, 601, 401, 201, 1, 0)]
    assert schedule.level.tolist() == pytest.approx(expected, rel=1e-4)
    assert family.alphas_cumprod().tolist() == pytest.approx(cumulative, rel=1e-4)


def test_the_final_alpha_is_one_where_the_scheduler_says_so():
    family = build("sd")
    family.pipeline.scheduler.register_to_config(set_alpha_to_one=True)
    assert family.schedule(5, SIZE).level[-1] == 1.0


def test_the_schedule_does_not_depend_on_which_scheduler_carries_the_config():
    from diffusers import EulerDiscreteScheduler, PNDMScheduler

    family = build("sd")
    expected = family.schedule(5, SIZE)
    for other in (PNDMScheduler, EulerDiscreteScheduler):
        family.pipeline.scheduler = other.from_config(family.pipeline.scheduler.config)
        found = family.schedule(5, SIZE)
        assert torch.equal(found.time, expected.time) and torch.equal(found.level, expected.level)


def test_a_last_step_that_does_not_move_is_refused():
    family = build("sdxl")
    family.pipeline.scheduler.register_to_config(steps_offset=0)
    with pytest.raises(ValueError, match="set steps_offset 1"):
        family.schedule(5, SIZE)


def test_flux_shift_is_linear_in_the_number_of_tokens():
    family = build("flux_dev")
    # 16 pixels a token: 256 x 256 is 256 tokens, 1024 x 1024 is 4096, halfway (2176) is 544 x 1024.
    assert family.log_shift((256, 256)) == pytest.approx(0.5)
    assert family.log_shift((1024, 1024)) == pytest.approx(1.15)
    assert family.log_shift((544, 1024)) == pytest.approx(0.825)
    e = math.exp(1.15)
    shifted = [e / (e + 1 / s - 1) for s in (1, 0.75, 0.5, 0.25)]
    assert family.schedule(4, (1024, 1024)).level.tolist() == pytest.approx([*shifted, 0.0], abs=1e-6)
    assert family.shift() == pytest.approx(e)


def test_flux2_shifts_by_the_number_of_tokens_and_of_steps():
    family = build("flux2_klein", text_layers=1)
    # 1024 x 1024 is 4096 tokens: 4096 x 0.0000873809524 + 1.89833333 for 10 steps, 4096 x 0.00016927 + 0.45666666 for
    # 200, and on the line between the two for 105. More than 4300 tokens, and steps do not matter.
    few, many = 2.25624571, 1.14999658
    for steps, mu in ((10, few), (200, many), (105, (few + many) / 2)):
        assert family.log_shift((1024, 1024), steps) == pytest.approx(mu)
    assert family.log_shift((1152, 1152), 10) == family.log_shift((1152, 1152), 200) == pytest.approx(1.33416234)


@pytest.mark.parametrize("steps", [4, 20])
def test_sana_steps_between_the_noise_levels_of_its_own_solver(steps):
    from diffusers import DPMSolverMultistepScheduler

    family = family_class("sana")(family_class("sana").build(CORPUS, shift=3.0))
    own = DPMSolverMultistepScheduler.from_config(family.pipeline.scheduler.config)
    own.set_timesteps(steps)
    assert family.schedule(steps, SIZE).level.tolist() == pytest.approx(own.sigmas.tolist(), abs=1e-6)
    family.pipeline.scheduler.register_to_config(use_flow_sigmas=False)
    with pytest.raises(ValueError, match="without use_flow_sigmas"):
        family_class("sana")(family.pipeline)


def test_flux_schnell_has_evenly_spaced_sigmas():
    family = build("flux_schnell")
    schedule = family.schedule(4, SIZE)
    assert schedule.level.tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert schedule.time.tolist() == pytest.approx([1000.0, 750.0, 500.0, 250.0])
    assert family.shift() == 1.0


# ---- sizes, pixels and latents --------------------------------------------------------------------------


def test_pixels_become_latents_of_the_stated_shape_and_pictures_again(case):
    _, family = case
    pixels = torch.rand((2, *pixel_shape(family)), generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        latents = family.encode_pixels(pixels)
        picture = family.decode(latents, extent(family))
    assert latents.shape == (2, *family.latent_shape(extent(family))) and latents.dtype == torch.float32
    assert picture.shape == pixels.shape and picture.dtype == torch.float32


def test_scaling_and_shift_of_latents_cancel(case):
    """decode(encode_pixels(x)) is the VAE's own reconstruction, whatever its scale and shift."""
    _, family = case
    pixels = torch.rand((1, *pixel_shape(family)), generator=torch.Generator().manual_seed(3)) * 2 - 1
    family.vae.register_to_config(scaling_factor=0.36, shift_factor=0.11)
    with torch.no_grad():
        plain = family.reconstruct(family.vae_latents(pixels))
        round_trip = family.decode(family.encode_pixels(pixels), extent(family))
    family.vae.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    torch.testing.assert_close(round_trip, plain, atol=1e-5, rtol=1e-4)


def test_a_flux_token_is_a_block_of_two_by_two_latents():
    family = build("flux_dev")
    assert family.latent_shape(SIZE) == (6, 16)  # 32 x 48 pixels, 16 a token: 2 x 3 tokens; 4 channels x 4
    pixels = torch.rand((1, 3, *SIZE)) * 2 - 1
    with torch.no_grad():
        packed = family.encode_pixels(pixels)
        grid = family.vae.encode(pixels).latent_dist.mode()
    row, column, channel = 1, 2, 3
    block = grid[0, channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    assert torch.equal(packed[0, row * 3 + column, 4 * channel : 4 * channel + 4], block.flatten())


@pytest.mark.parametrize("name, native", [("sd3", 40), ("flux_dev", 1024), ("sd", 48), ("sdxl", 48)])
def test_native_size_is_the_pipelines_default(name, native):
    assert build(name).native_size() == (native, native)


def test_a_native_size_may_be_a_pair():
    family = build("sd")
    family.denoiser.register_to_config(sample_size=(5, 7))
    assert family.native_size() == (40, 56)


@pytest.mark.parametrize("name, good, bad", [("flux_dev", (16, 48), (24, 48)), ("sd", (24, 40), (20, 40))])
def test_sizes_off_the_grid_are_refused(name, good, bad):
    family = build(name)
    family.check_size(good)
    with pytest.raises(ValueError, match="multiple of"):
        family.check_size(bad)


# ---- precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upcast, expected", [(True, torch.float32), (False, torch.float16)])
def test_the_sdxl_vae_is_kept_in_float32_where_it_must_be(upcast, expected):
    pipeline = family_class("sdxl").build(CORPUS)
    pipeline.vae.register_to_config(force_upcast=upcast)
    family = family_class("sdxl")(pipeline.to(torch.float16))
    assert family.vae.dtype == expected
    assert family.denoiser.dtype == torch.float16
    if upcast:
        with torch.no_grad():
            latents = family.encode_pixels(torch.zeros((1, 3, *SIZE)))
            assert family.decode(latents.half(), SIZE).dtype == torch.float32


# ---- training and disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_the_family_of_a_pipeline(name):
    family = build(name)
    assert family_of(type(family.pipeline).__name__) == family.name == CASES[name][0]


def test_every_stated_pipeline_class_exists_and_has_one_family():
    import diffusers

    classes = [c for name in FAMILIES for c in family_class(name).pipeline_classes]
    assert len(set(classes)) == len(classes)
    assert all(issubclass(getattr(diffusers, c), diffusers.DiffusionPipeline) for c in classes)
    with pytest.raises(ValueError, match="sd3, flux, sd, sdxl, z_image"):
        family_of("AudioLDMPipeline")


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_a_saved_pipeline_draws_the_same_picture(name, tmp_path):
    from diffusers import DiffusionPipeline

    family = build(name)
    family.pipeline.save_pretrained(tmp_path, safe_serialization=True)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, use_safetensors=True)
    again = family_class(family_of(type(loaded).__name__))(loaded)
    start = noise(family, 2)
    torch.testing.assert_close(draw(again, TEXTS, start), draw(family, TEXTS, start), atol=0, rtol=0)


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_saved_lora_is_loaded_by_the_pipeline(name, tmp_path):
    from diffusers import DiffusionPipeline

    family = build(name)
    family.pipeline.save_pretrained(tmp_path / "base")
    plain = draw(family, TEXTS, noise(family, 2))
    torch.manual_seed(4)
    lora.add(family, LoraConfig(rank=2, alpha=6))
    with torch.no_grad():
        for key, parameter in family.denoiser.named_parameters():
            if lora.is_lora(key):
                parameter.normal_(std=0.2)
    trained = draw(family, TEXTS, noise(family, 2))
    assert (trained - plain).abs().max() > 1e-3
    lora.save(family, tmp_path / "lora")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "base")
    loaded.load_lora_weights(tmp_path / "lora")
    again = family_class(family.name)(loaded)
    torch.testing.assert_close(draw(again, TEXTS, noise(family, 2)), trained, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_gradient_reaches_the_denoiser_and_through_the_latents(name):
    family = build(name)
    latents = noise(family, 1).requires_grad_()
    condition = encoded(family, TEXTS[:1], extent(family))
    family.predict(latents, torch.tensor([500.0]), condition, extent(family)).square().sum().backward()
    assert latents.grad.abs().sum() > 0
    targets = tuple(f"{target}.weight" for target in family.lora_targets)
    grads = [p.grad for key, p in family.denoiser.named_parameters() if key.endswith(targets)]
    assert grads and any(g is not None and g.abs().sum() > 0 for g in grads)


# ---- checkpoints that do not fit ------------------------------------------------------------------------


def test_a_scheduler_without_discrete_noise_levels_is_refused():
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipeline = family_class("sd").build(CORPUS)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match=r"FlowMatchEulerDiscreteScheduler has no beta_start.*DDPM-type"):
        family_class("sd")(pipeline)


def test_a_consistency_distilled_unet_is_refused():
    pipeline = family_class("sd").build(CORPUS)
    pipeline.unet.register_to_config(time_cond_proj_dim=16)
    with pytest.raises(ValueError, match="time_cond_proj_dim"):
        family_class("sd")(pipeline)


@pytest.mark.parametrize("planned", [False, True])
def test_a_safety_checker_is_neither_read_nor_written(tmp_path, planned):
    """Its weights are taken away: what would read them fails. The rest of the pipeline is whole."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    eye = {**sizes, "image_size": 8, "patch_size": 4}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=eye, text_config=sizes, projection_dim=8))
    pipeline = family_class("sd").build(CORPUS)
    pipeline.register_modules(safety_checker=checker, feature_extractor=CLIPImageProcessor())
    pipeline.register_to_config(requires_safety_checker=True)
    pipeline.save_pretrained(tmp_path / "whole", safe_serialization=True)
    assert "StableDiffusionSafetyChecker" in (tmp_path / "whole" / "model_index.json").read_text()
    (weights,) = (tmp_path / "whole" / "safety_checker").glob("*.safetensors")
    weights.unlink()
    with hollow.without_weights() if planned else contextlib.nullcontext():
        loaded = load_family(ModelConfig(path=str(tmp_path / "whole"))).pipeline
    assert loaded.safety_checker is None
    assert sum(p.numel() for p in loaded.unet.parameters()) == sum(p.numel() for p in pipeline.unet.parameters())
    if not planned:
        loaded.save_pretrained(tmp_path / "saved", safe_serialization=True)
        assert not (tmp_path / "saved" / "safety_checker").exists()
        again = type(pipeline).from_pretrained(tmp_path / "saved")
        assert again.safety_checker is None and not again.config.requires_safety_checker
