"""Films: their frames, what their records hold, and a policy of two denoisers, each with its own noise levels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from small_pipelines import CORPUS, LORA, PROMPTS, gradients, nudge, roll

from mmrl.media import Clip
from mmrl.modalities import hollow
from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families import family_class
from mmrl.modalities.image.families.asked import Extent
from mmrl.training.check import check_adapter
from mmrl.types import Candidate, Prompt

SIZE, FRAMES = 32, 5


def made(build: dict | None = None, sampling: dict | None = None, family: str = "wan", **model) -> ImageAdapter:
    drawn = {"steps": 4, "size": SIZE, "frames": FRAMES, "noise_level": 0.7, **(sampling or {})}
    parts = {"corpus": CORPUS, "layers": 1, **(build or {})}
    return ImageAdapter(ModelConfig(path="built", family=family, build=parts, sampling=drawn, **model))


@pytest.fixture(scope="module")
def policy() -> ImageAdapter:
    return made()


def film(frames: int, seed: int = 0) -> Clip:
    numbers = np.random.default_rng(seed).integers(0, 255, (frames, 40, 32, 3), dtype=np.uint8)
    return Clip(tuple(map(Image.fromarray, numbers)))


# ---- frames -------------------------------------------------------------------------------------------------------


def test_samples_are_films_and_evaluation_may_draw_longer_ones():
    policy = made(evaluation={"steps": 2, "frames": 9, "size": (32, 48)})
    (sample,) = roll(policy, n=1, prompts=PROMPTS[:1])
    assert isinstance(sample.artifact, Clip) and np.asarray(sample.artifact).shape == (FRAMES, SIZE, SIZE, 3)
    # Two halvings of time behind the first frame, and 8 pixels to a latent.
    assert sample.trajectory.tensors["x"].shape[1:] == (4, 2, 4, 4)
    (group,) = policy.evaluate(PROMPTS[:1], 1, 0)
    assert np.asarray(group.samples[0].artifact).shape == (9, 32, 48, 3)


@pytest.mark.parametrize("halvings", [(True, True), (False, True)])
def test_frames_fit_the_halvings_of_time_and_the_encoders_chunks(halvings):
    family = made({"halvings": halvings}, {"frames": 1}).family
    fits = []
    for count in range(1, 12):
        try:
            family.check_frames(count)
            fits.append(count)
        except ValueError as error:
            assert f"frames {count}: " in str(error) and "model.sampling.frames" in str(error)
    assert fits == [1, 5, 9]
    latents = family.encode_pixels(torch.zeros(1, 3, 9, SIZE, SIZE))
    assert latents.shape == (1, *family.latent_shape(Extent(SIZE, SIZE, 9)))


def test_a_family_of_pictures_draws_no_films():
    with pytest.raises(ValueError, match="frames 5: family sd3 draws pictures; leave `frames` out"):
        made({"grid": 4}, family="sd3")


# ---- schedulers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [4, 20])
def test_it_steps_between_the_noise_levels_of_its_own_solver(policy, steps):
    """Which begins a millionth below 1, and rounds its times down."""
    own = type(policy.family.pipeline.scheduler).from_config(policy.family.pipeline.scheduler.config)
    own.set_timesteps(steps)
    found = policy.family.schedule(steps, policy.train_size)
    assert found.level.tolist() == pytest.approx(own.sigmas.tolist(), abs=2e-6)
    assert found.time.long().tolist()[1:] == own.timesteps.tolist()[1:]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"use_flow_sigmas": False}, "without use_flow_sigmas"),
        ({"use_karras_sigmas": True}, "option use_karras_sigmas"),
        ({"shift_terminal": 0.1}, "option shift_terminal"),
    ],
)
def test_a_solver_with_other_noise_levels_is_refused(option, message):
    pipeline = family_class("wan").build(CORPUS, layers=1)
    pipeline.scheduler.register_to_config(**option)
    with pytest.raises(ValueError, match=message):
        family_class("wan")(pipeline)


# ---- two denoisers ------------------------------------------------------------------------------------------------

TWO = {"boundary_ratio": 0.8}  # of four steps at 1000, 900, 750 and 500, where the shift is 3


def test_each_step_trains_the_denoiser_whose_noise_level_it_has():
    policy = made(TWO)
    nudge(policy)
    samples = roll(policy, n=1)
    reached = []
    for column in range(3):
        found = gradients(policy, policy.logprobs(samples, torch.tensor([column])).logp.sum())
        moved = {name.split(".")[0] for name, gradient in found.items() if float(gradient.abs().max()) > 0}
        reached.append(moved)
    assert reached == [{"denoiser"}, {"denoiser"}, {"denoiser_2"}]
    together = gradients(policy, policy.logprobs(samples, torch.arange(3)).logp.sum())
    assert {name.split(".")[0] for name in together} == {"denoiser", "denoiser_2"}


@pytest.mark.parametrize("train", [LORA, pytest.param({"train": "full"}, marks=pytest.mark.slow)])
def test_the_contract_holds_for_two_denoisers_which_are_saved_and_read_again(train):
    policy = made(TWO, {"steps": 3, "guidance": 3.0}, **train)
    nudge(policy)
    results = check_adapter(policy, PROMPTS, reload=lambda folder: ImageAdapter(policy.config.at(folder)))
    assert [r for r in results if not r.passed] == []


@pytest.mark.parametrize("part", ["boundary", "second"])
def test_a_second_denoiser_and_where_it_takes_over_come_together(part):
    pipeline = family_class("wan").build(CORPUS, layers=1, **({} if part == "boundary" else TWO))
    if part == "boundary":
        pipeline.register_to_config(boundary_ratio=0.5)
    else:
        pipeline.register_to_config(boundary_ratio=None)
    with pytest.raises(ValueError, match=r"a second \(transformer_2\) with boundary_ratio"):
        family_class("wan")(pipeline)


def test_heads_of_an_adversary_are_refused_blocks_of_two_denoisers():
    """Of which a row runs through one, by its noise level."""
    with pytest.raises(Unsupported, match=r"2 denoisers, one for each range .* leave the stage's `adversary` out"):
        made(TWO).block_widths(1)


# ---- records ------------------------------------------------------------------------------------------------------


def test_films_of_records_are_learnt(policy):
    assert policy.record_columns("sft") == ("video",)
    records = [{"id": str(i), "prompt": text, "video": film(FRAMES, i)} for i, text in enumerate(CORPUS)]
    losses = [float(policy.supervised_loss(some, "sft", seed=1).detach()) for some in (records, records, records[::-1])]
    assert losses[0] == losses[1] != losses[2]


def test_films_are_learnt_at_several_sizes():
    """Each of its own latents, with all frames."""
    policy = made(supervised_sizes=[SIZE, [32, 48]])
    record = {"id": "r", "prompt": "x", "video": film(FRAMES)}
    shapes = [tuple(policy._records.latents([record], size).shape[1:]) for size in policy._records.sizes]
    assert shapes == [(4, 2, 4, 4), (4, 2, 4, 6)]
    seeds = {policy._records.size_of(seed): seed for seed in range(9)}
    assert set(seeds) == {Extent(SIZE, SIZE, FRAMES), Extent(32, 48, FRAMES)}
    losses = [float(policy.supervised_loss([record], "sft", seed).detach()) for seed in seeds.values()]
    assert all(map(math.isfinite, losses))


def test_films_of_records_are_samples_of_their_prompts(policy):
    record = {"id": "r", "prompt": "x", "video": film(FRAMES)}
    assert torch.equal(policy.ends(policy.encoded([record])), policy._records.latents([record]))


def test_candidates_of_pairs_are_pictures_and_no_films(policy):
    candidate = Candidate("", (Image.new("RGB", (SIZE, SIZE)),))
    with pytest.raises(Unsupported, match="family wan draws films, and candidates of pairs are single pictures"):
        policy.given(PROMPTS[0], [candidate, candidate])


def test_a_record_whose_grid_does_not_divide_a_film_is_left_out(policy):
    assert policy.usable(Prompt("p", "x", {"grid": [2, 2]})) is None
    assert "multiples of 3 and 1" in policy.usable(Prompt("p", "x", {"grid": [3, 1]}))


def test_a_film_of_another_number_of_frames_is_named(policy):
    record = {"id": "r7", "prompt": "x", "video": film(4)}
    with pytest.raises(ValueError, match=r"record 'r7': a film of 4 frames, and the model draws 5 .*data.video_frames"):
        policy.supervised_loss([record], "sft", seed=1)


def test_an_autoencoder_stage_sets_the_spread_of_each_channel():
    policy = made()
    policy.select(["vae"])
    records = [{"id": str(i), "prompt": "x", "video": film(FRAMES, i)} for i in range(4)]
    loss = policy.supervised_loss(records, "autoencoder", seed=1)
    found = gradients(policy, loss)
    assert len(found) == len(policy.trainable_parameters())
    policy.finish("autoencoder", records)
    latents = policy._records.latents(records)
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(4), atol=1e-3, rtol=0)
    policy.load_state(policy.state())
    assert len(policy.state()["latents_std"]) == 4


# ---- what `mmrl plan` says ----------------------------------------------------------------------------------------


def test_the_plan_tells_frames_latents_and_whose_each_trained_step_is():
    policy = made(TWO, {"frames": 9}, evaluation={"steps": 2, "size": (32, 48)})
    assert policy.plan_lines()[1:] == [
        "a film in training: 9 frames of 32 x 32 pixels, 12 tokens, 192 numbers; 4 steps x 1 = 4 forwards of the "
        "denoiser, 3 of the steps trained",
        "a film in evaluation: 9 frames of 48 x 32 pixels, 18 tokens, 288 numbers; 2 steps x 1 = 2 forwards of the "
        "denoiser",
        "trained steps of the first update: denoiser 0, 1; denoiser_2 2",
    ]


def test_memory_of_two_denoisers_is_estimated_without_weights():
    with hollow.without_weights():
        policy = made(TWO, {"guidance": 3.0})
    sample = policy.blank(PROMPTS[0])
    policy.trial([sample], 2)
    found = policy.logprobs([sample], torch.arange(3))
    assert found.logp.shape == (1, 3)
