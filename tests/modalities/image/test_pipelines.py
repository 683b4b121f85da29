"""The adapter draws what diffusers' own pipeline draws, with files as the hub has them and every form of guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hub_files import MODELS, SD, write
from PIL import Image
from small_pipelines import BUILD, PROMPTS, adapter

from mmrl.modalities.image import adapter as adapter_file
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families import family_class
from mmrl.modalities.image.guidance import guided
from mmrl.seeds import seed_of

SIZE = (48, 80)  # 3 x 5 tokens of a transformer, 6 x 10 latents
ODD = (40, 56)  # 5 x 7 latents, which a UNet halves
STEPS, SEED = 4, 3

# Name of a case -> what is asked of the adapter, and of the pipeline.
ASKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({"guidance": 1.0}, {"guidance_scale": 1.0}),
    "zero": ({"guidance": 0.0}, {"guidance_scale": 0.0}),
    "guided": ({"guidance": 3.0}, {"guidance_scale": 3.0}),
    "negative": (
        {"guidance": 7.5, "negative_prompt": "a green triangle"},
        {"guidance_scale": 7.5, "negative_prompt": ["a green triangle"] * 2},
    ),
    "empty": ({"guidance": 7.5, "negative_prompt": ""}, {"guidance_scale": 7.5, "negative_prompt": ["", ""]}),
    "rescaled": ({"guidance": 7.5, "guidance_rescale": 0.7}, {"guidance_scale": 7.5, "guidance_rescale": 0.7}),
    "rescaled_negative": (
        {"guidance": 5.0, "guidance_rescale": 1.0, "negative_prompt": "two blue squares"},
        {"guidance_scale": 5.0, "guidance_rescale": 1.0, "negative_prompt": ["two blue squares"] * 2},
    ),
    "true_cfg": ({"guidance": 3.0}, {"true_cfg_scale": 3.0, "negative_prompt": ["", ""]}),
    "beside": (
        {"guidance": 3.0, "true_cfg": 4.0},
        {"guidance_scale": 3.0, "true_cfg_scale": 4.0, "negative_prompt": ["", ""]},
    ),
    "beside_negative": (
        {"guidance": 3.0, "true_cfg": 4.0, "negative_prompt": "a green triangle"},
        {"guidance_scale": 3.0, "true_cfg_scale": 4.0, "negative_prompt": ["a green triangle"] * 2},
    ),
}
OF_FAMILY = {
    "sd": ["none", "zero", "guided", "negative", "empty", "rescaled", "rescaled_negative"],
    "sdxl": ["none", "zero", "guided", "negative", "empty", "rescaled", "rescaled_negative"],
    "sd3": ["none", "zero", "guided", "negative"],
    "flux_dev": ["zero", "none", "guided", "beside", "beside_negative"],
    "flux_schnell": ["none", "true_cfg"],
}
CASES = [
    (name, asked) for name, model in MODELS.items() for asked in OF_FAMILY.get(name, OF_FAMILY.get(model.family, []))
]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory) -> Callable[[str], Any]:
    """Pipelines as `model.path` loads them, by name, each loaded when it is asked for first."""
    loaded: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in loaded:
            folder = write(name, tmp_path_factory.mktemp(name))
            loaded[name] = ImageAdapter(ModelConfig(path=str(folder), **small(name))).family.pipeline
        return loaded[name]

    return load


def small(name: str) -> dict[str, Any]:
    t5 = MODELS[name].family in ("sd3", "flux")
    size = SIZE if t5 else ODD
    return {"sampling": {"size": size}, **({"max_sequence_length": 12} if t5 else {})}


def made(monkeypatch, name: str, pipeline: Any, **sampling: Any) -> ImageAdapter:
    """An adapter of a loaded pipeline."""
    family = family_class(MODELS[name].family)(pipeline, small(name).get("max_sequence_length"))
    monkeypatch.setattr(adapter_file, "load_family", lambda config: family)
    values = small(name)
    values["sampling"] = {**values["sampling"], **sampling}
    return ImageAdapter(ModelConfig(path="here", family=family.name, evaluation={"steps": STEPS}, **values))


def drawn(monkeypatch, policy: ImageAdapter) -> torch.Tensor:
    """Evaluation's pictures of PROMPTS before they are rounded, [2, 3, H, W] in [0, 1]."""
    seen, decode = [], policy.family.decode
    monkeypatch.setattr(policy.family, "decode", lambda *given: seen.append(decode(*given)) or seen[-1])
    policy.evaluate(PROMPTS, 1, SEED)
    return (torch.cat(seen) / 2 + 0.5).clamp(0, 1)


def expected(policy: ImageAdapter, **options: Any) -> torch.Tensor:
    """What the pipeline draws from the same noise, by DDIM where its own scheduler is another discrete one."""
    from diffusers import DDIMScheduler

    pipeline, own = policy.family.pipeline, policy.family.pipeline.scheduler
    size = policy.eval_size
    start = [
        torch.randn(policy.family.latent_shape(size), generator=torch.Generator().manual_seed(seed))
        for seed in (seed_of(SEED, "eval", prompt.id, 0) for prompt in PROMPTS)
    ]
    if not policy.family.is_flow:
        pipeline.scheduler = DDIMScheduler.from_config(own.config)
    elif policy.family.max_sequence_length:
        options["max_sequence_length"] = policy.family.max_sequence_length
    try:
        return pipeline(
            [prompt.text for prompt in PROMPTS],
            latents=torch.stack(start),
            num_inference_steps=STEPS,
            height=size[0],
            width=size[1],
            output_type="pt",
            **options,
        ).images
    finally:
        pipeline.scheduler = own


@pytest.mark.parametrize(("name", "asked"), CASES)
def test_evaluation_draws_the_pipelines_pictures(pipelines, monkeypatch, name, asked):
    sampling, options = ASKED[asked]
    policy = made(monkeypatch, name, pipelines(name), **sampling)
    ours = drawn(monkeypatch, policy)
    assert ours.shape == (2, 3, *policy.eval_size[:2]) and ours.std() > 0.01
    torch.testing.assert_close(ours, expected(policy, **options), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux_dev"])
def test_every_form_of_guidance_draws_other_pictures(pipelines, monkeypatch, name):
    """Without this the equalities above would prove little. Below 1 there is no guidance, but where it is embedded."""
    forms = OF_FAMILY.get(name, OF_FAMILY.get(MODELS[name].family))
    pictures = {
        asked: drawn(monkeypatch, made(monkeypatch, name, pipelines(name), **ASKED[asked][0])) for asked in forms
    }
    embedded = name == "flux_dev"
    assert torch.equal(pictures["none"], pictures["zero"]) != embedded
    others = [pictures[asked] for asked in forms if asked != "zero" or embedded]
    for i, one in enumerate(others):
        assert all((one - other).abs().max() > 1e-3 for other in others[:i])


def test_sd3_with_dynamic_shifting_has_other_noise_levels_at_other_sizes(pipelines, monkeypatch):
    policy = made(monkeypatch, "sd3_dynamic", pipelines("sd3_dynamic"))
    # 16 pixels a token: mu is 0.5 at 256 x 256 (256 tokens) and 1.15 at 1024 x 1024 (4096).
    for size, mu in (((256, 256), 0.5), ((1024, 1024), 1.15), ((544, 1024), 0.825)):
        assert policy.family.log_shift(size) == pytest.approx(mu)
    small_one, large = (policy.family.schedule(STEPS, size).level for size in ((256, 256), (1024, 1024)))
    assert bool((large[1:-1] > small_one[1:-1]).all())


# ---- latents ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", BUILD)
def test_after_an_autoencoder_stage_the_pipeline_reads_the_latents_as_the_policy_does(monkeypatch, family):
    policy = adapter(family, components=["vae"], sampling={"guidance": 1.0}, evaluation={"steps": STEPS})
    pictures = [Image.effect_mandelbrot((32, 32), (-2 + i, -1, 1, 1), 20).convert("RGB") for i in range(3)]
    before = policy.state()
    records = [{"prompt": "a", "image": picture} for picture in pictures]
    policy.finish("autoencoder", records)
    assert policy.state() != before
    latents = policy._records.latents(records)
    assert float(latents.std()) == pytest.approx(1, abs=0.05)
    length = {"max_sequence_length": 12} if policy.family.is_flow else {}
    theirs = expected(policy, guidance_scale=1.0, **length)
    torch.testing.assert_close(drawn(monkeypatch, policy), theirs, atol=1e-4, rtol=0)
    # And what a checkpoint holds makes another policy of these weights read them so, too.
    again = adapter(family, components=["vae"], sampling={"guidance": 1.0}, evaluation={"steps": STEPS})
    again.load_state(policy.state())
    assert again.state() == policy.state()


# ---- guidance as a function ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rescale", "output"), [(0.0, [2.0, 6.0]), (0.5, [1.5, 4.5]), (1.0, [1.0, 3.0])])
def test_rescaled_guidance_by_hand(rescale, output):
    """Guidance of 2 from 0 doubles (1, 3), and with it its spread, of which the half is that of (1, 3)."""
    conditional = torch.tensor([[1.0, 3.0], [10.0, 30.0]])
    found = guided(conditional, torch.zeros(2, 2), 2.0, rescale)
    torch.testing.assert_close(found, torch.tensor([output, [10 * value for value in output]]))


# ---- schedulers that draw other pictures than the policy would ----------------------------------------------------

UNET = [
    *(
        ("EulerDiscreteScheduler", {option: True}, f"{option} true")
        for option in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    ),
    ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}, "final_sigmas_type sigma_min"),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type continuous"),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, "use_lu_lambdas true"),
    ("DPMSolverMultistepScheduler", {"thresholding": True}, "thresholding true"),
    ("DDIMScheduler", {"clip_sample": True}, "clip_sample true"),
    ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, "prediction_type flow_prediction"),
]


@pytest.mark.parametrize(("scheduler", "options", "named"), UNET)
def test_options_that_ddim_has_not_are_refused_by_name(scheduler, options, named):
    import diffusers

    pipeline = family_class("sdxl").build(["a red circle"])
    pipeline.scheduler = getattr(diffusers, scheduler).from_config({**SD, **options})
    with pytest.raises(ValueError, match=f"{scheduler} with {named}.*scheduler_config.json"):
        family_class("sdxl")(pipeline)


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize(
    ("scheduler", "options", "named"),
    [
        ("FlowMatchHeunDiscreteScheduler", {}, "scheduler FlowMatchHeunDiscreteScheduler"),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "scheduler option stochastic_sampling"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "scheduler option invert_sigmas"),
    ],
)
def test_flow_schedulers_that_are_no_euler_steps_are_refused_by_name(family, scheduler, options, named):
    import diffusers

    pipeline = family_class(family).build(["a red circle"])
    pipeline.scheduler = getattr(diffusers, scheduler)(**options)
    with pytest.raises(ValueError, match=f"{named}.*scheduler_config.json"):
        family_class(family)(pipeline)


def test_an_epsilon_prediction_of_pure_noise_is_refused_before_anything_is_sampled(monkeypatch):
    from diffusers import DDIMScheduler

    pipeline = family_class("sdxl").build(["a red circle"])
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    pipeline.scheduler = DDIMScheduler.from_config({**SD, **options})
    with pytest.raises(ValueError, match="rescale_betas_zero_snr"):
        made(monkeypatch, "sdxl", pipeline)


@pytest.mark.parametrize(
    ("family", "sampling", "message"),
    [
        ("sd3", {"guidance_rescale": 0.7}, "guidance_rescale is of the pipelines of sd and sdxl"),
        ("flux", {"guidance_rescale": 0.7}, "guidance_rescale is of the pipelines of sd and sdxl"),
        ("flux", {"negative_prompt": "blurred"}, "negative_prompt: this model of family flux"),
    ],
)
def test_guidance_that_a_model_has_not_is_refused(family, sampling, message):
    with pytest.raises(ValueError, match=message):
        adapter(family, sampling=sampling)
