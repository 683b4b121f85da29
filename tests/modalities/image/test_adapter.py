"""The image adapter against hand-written transitions, the pipelines' own samplers, and closed-form losses."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small_pipelines import (
    BUILD,
    CORPUS,
    GUIDANCE,
    LATENT,
    LEVEL,
    PROMPTS,
    SIZE,
    STEPS,
    adapter,
    all_columns,
    encoded,
    gradients,
    nudge,
    old_logp,
    roll,
    stored,
)
from torch import Tensor

from mmrl.modalities.image import sampling as image_sampling
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.supervised import denoising_loss, flow_matching_loss, logit_normal_times
from mmrl.seeds import seed_of
from mmrl.types import Group, Prompt, Sample

# ---- the SD3 step written out, straight on the pipeline ----------------------------------------------------


def hand_means(policy: ImageAdapter, samples: list[Sample], detach: bool) -> tuple[Tensor, Tensor]:
    """Means [B, T, ...] and standard deviations [T] of the Flow-SDE steps, one step and one forward at a time."""
    pipeline = policy.family.pipeline
    pipeline.scheduler.set_timesteps(STEPS)
    sigmas, times = pipeline.scheduler.sigmas, pipeline.scheduler.timesteps
    texts = [s.prompt.text for s in samples]
    embeds, empty, pooled, empty_pooled = pipeline.encode_prompt(
        texts, None, None, negative_prompt=[""] * len(texts), max_sequence_length=12
    )
    means, stds = [], []
    for column, step in enumerate(stored(samples, "step")[0].tolist()):
        x = stored(samples, "x")[:, column]
        call = {"hidden_states": x, "timestep": times[step].expand(len(x)), "return_dict": False}
        with_text = pipeline.transformer(encoder_hidden_states=embeds, pooled_projections=pooled, **call)[0]
        without = pipeline.transformer(encoder_hidden_states=empty, pooled_projections=empty_pooled, **call)[0]
        without = without.detach() if detach else without
        v = without + GUIDANCE * (with_text - without)
        s, dt = sigmas[step], sigmas[step + 1] - sigmas[step]
        g2 = LEVEL**2 * s / (1 - (sigmas[1] if step == 0 else s))
        # drift v - g^2/2 score, score = -(x + (1 - s) v) / s
        means.append(x + (v + g2 / (2 * s) * (x + (1 - s) * v)) * dt)
        stds.append((g2 * -dt).sqrt())
    return torch.stack(means, 1), torch.stack(stds)


def hand_logp(after: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    std = stds.view(1, -1, 1, 1, 1)
    return torch.distributions.Normal(means, std).log_prob(after).mean((2, 3, 4))


# ---- rollout and evaluation --------------------------------------------------------------------------------


def test_a_rollout_fills_groups_with_pictures_and_chained_steps():
    policy = adapter(rollout_batch=4)
    groups = policy.rollout([Group(PROMPTS[1], 5), Group(PROMPTS[0], 2)], 3, 0, 7)
    assert [(g.prompt.id, g.index, len(g.samples)) for g in groups] == [("p1", 5, 3), ("p0", 2, 3)]
    for group in groups:
        assert [s.index for s in group.samples] == [0, 1, 2]
        for sample in group.samples:
            t = sample.trajectory
            assert sample.prompt is group.prompt and sample.artifact.size == (SIZE, SIZE)
            assert t.logp.shape == t.mask.shape == (STEPS - 1,) and bool(t.mask.all()) and t.logp.dtype == torch.float32
            assert t.tensors["step"].tolist() == [0, 1, 2]
            assert t.tensors["x"].shape == t.tensors["x_next"].shape == (STEPS - 1, *LATENT)
            assert torch.equal(t.tensors["x"][1:], t.tensors["x_next"][:-1])
            assert not t.logp.requires_grad


def test_stored_log_probs_are_those_of_the_hand_written_gaussian():
    policy = adapter()
    samples = roll(policy)
    with torch.no_grad():
        means, stds = hand_means(policy, samples, detach=True)
    torch.testing.assert_close(old_logp(samples), hand_logp(stored(samples, "x_next"), means, stds), atol=2e-5, rtol=0)


def test_a_sample_depends_on_seed_step_prompt_and_index_only():
    policy = adapter()
    samples, again = roll(policy), roll(policy)
    assert torch.equal(stored(samples, "x_next"), stored(again, "x_next"))
    starts = stored(samples, "x")[:, 0].flatten(1)
    assert len({tuple(row.tolist()) for row in starts}) == len(samples)
    alone = roll(policy, n=3, prompts=PROMPTS[1:])  # another batch, another group size
    assert torch.equal(stored(alone, "x")[:2, 0], stored(samples, "x")[2:, 0])
    torch.testing.assert_close(stored(alone, "x_next")[:2], stored(samples, "x_next")[2:], atol=1e-5, rtol=0)
    for other in (roll(policy, step=1), roll(policy, seed=8)):
        assert not torch.equal(stored(other, "x")[:, 0], stored(samples, "x")[:, 0])


def test_evaluation_draws_what_the_pipeline_draws():
    policy = adapter(evaluation={"steps": 3, "guidance": 2.0, "size": (32, 48)})
    groups = policy.evaluate(PROMPTS, 2, seed=3)
    assert [len(g.samples) for g in groups] == [2, 2] and all(s.trajectory is None for g in groups for s in g.samples)
    for prompt, group in zip(PROMPTS, groups):
        start = [
            torch.randn((8, 4, 6), generator=torch.Generator().manual_seed(seed_of(3, "eval", prompt.id, i)))
            for i in range(2)
        ]
        expected = policy.family.pipeline(
            [prompt.text] * 2,
            latents=torch.stack(start),
            num_inference_steps=3,
            guidance_scale=2.0,
            height=32,
            width=48,
            max_sequence_length=12,
            output_type="np",
        ).images
        for sample, image in zip(group.samples, expected):
            assert sample.artifact.size == (48, 32)
            assert np.abs(np.asarray(sample.artifact) / 255 - image).max() < 0.6 / 255


def test_evaluation_is_repeatable_and_seeded():
    policy = adapter()
    first, again, other = (np.asarray(policy.evaluate(PROMPTS, 1, s)[0].samples[0].artifact) for s in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_teacher_draws_as_an_evaluation_of_its_own_steps_and_guidance():
    """What a distill stage shows beside its policy."""
    few, many = adapter(evaluation={"steps": 2}), adapter(evaluation={"steps": 5, "guidance": 2.0})
    [wanted] = many.evaluate(PROMPTS[:1], 1, 3)
    [found] = few.evaluate_in(PROMPTS[:1], 1, 3, 5, 2.0)
    assert np.array_equal(found.samples[0].artifact, wanted.samples[0].artifact)
    [own] = few.evaluate_in(PROMPTS[:1], 1, 3, 2, None)
    assert np.array_equal(own.samples[0].artifact, few.evaluate(PROMPTS[:1], 1, 3)[0].samples[0].artifact)


def test_same_noise_starts_a_group_from_one_latent_and_goes_apart():
    samples = roll(adapter(sampling={"same_noise": True}), n=3)
    starts, ends = stored(samples, "x")[:, 0], stored(samples, "x_next")[:, 0]
    assert torch.equal(starts[0], starts[1]) and torch.equal(starts[0], starts[2])
    assert not torch.equal(starts[0], starts[3])
    assert not torch.equal(ends[0], ends[1])


@pytest.mark.parametrize("same_noise", [False, True])
def test_the_same_prompt_twice_in_a_step_gives_other_pictures(same_noise, monkeypatch):
    policy, draws, move = adapter(sampling={"same_noise": same_noise}), [], image_sampling.sample
    monkeypatch.setattr(image_sampling, "sample", lambda step, draw, to: (draws.append(draw), move(step, draw, to))[1])
    groups = [Group(PROMPTS[0], 0), Group(PROMPTS[0], 1, draw=1), Group(PROMPTS[1], 2)]
    filled = policy.rollout(groups, 2, 0, 7)
    assert [g.draw for g in filled] == [0, 1, 0]
    samples = [s for g in filled for s in g.samples]
    assert len({s.artifact.tobytes() for s in samples}) == len(samples)
    assert len(torch.cat(draws).flatten(1).unique(dim=0)) == len(draws) * len(samples)  # of every step, too
    starts = stored(samples, "x")[:, 0].flatten(1)
    assert len({tuple(row.tolist()) for row in starts}) == (3 if same_noise else 6)
    again = policy.rollout(groups[1:2], 2, 0, 7)[0]  # alone, as another process would sample it
    assert torch.equal(stored(again.samples, "x")[:, 0], stored(filled[1].samples, "x")[:, 0])


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("family", ["sd3", "sd", "sdxl"])
def test_guidance_of_one_or_less_is_the_conditional_output_as_in_diffusers(family, guidance):
    policy = adapter(family, sampling={"guidance": guidance}, evaluation={"steps": 3})
    calls = []
    policy.family.denoiser.register_forward_hook(lambda *_: calls.append(1))
    drawn = policy.evaluate(PROMPTS[:1], 1, seed=3)[0].samples[0].artifact
    assert len(calls) == 3  # one forward a step
    start = torch.randn(
        (1, *policy.family.latent_shape((SIZE, SIZE))),
        generator=torch.Generator().manual_seed(seed_of(3, "eval", PROMPTS[0].id, 0)),
    )
    length = {"max_sequence_length": 12} if family == "sd3" else {}
    expected = policy.family.pipeline(
        [PROMPTS[0].text],
        latents=start,
        num_inference_steps=3,
        guidance_scale=guidance,
        height=SIZE,
        width=SIZE,
        output_type="np",
        **length,
    ).images[0]
    assert np.abs(np.asarray(drawn) / 255 - expected).max() < 0.6 / 255
    other = policy.evaluate([Prompt(PROMPTS[0].id, "two blue squares")], 1, seed=3)[0].samples[0].artifact
    assert drawn.tobytes() != other.tobytes()  # the prompt is heard
    samples = roll(policy, n=1)
    assert "unconditional" not in samples[0].trajectory.tensors


def test_an_embedded_guidance_of_zero_is_a_value():
    pictures = {
        guidance: adapter("flux", sampling={"guidance": guidance}).evaluate(PROMPTS[:1], 1, 3)[0].samples[0].artifact
        for guidance in (0.0, 1.0)
    }
    assert pictures[0.0].tobytes() != pictures[1.0].tobytes()


def test_a_window_stores_and_draws_noise_for_its_own_steps_only():
    plan = {"name": "explicit", "steps": [1, 2]}
    policy = adapter(sampling={"plan": plan})
    samples = roll(policy)
    assert all(s.trajectory.tensors["step"].tolist() == [1, 2] for s in samples)
    assert old_logp(samples).shape == (len(samples), 2)
    # Step 0 is ODE: x1 = x0 + v dt, from the same start as with the full plan.
    start = stored(roll(adapter(), n=2), "x")[:, 0]
    condition = encoded(policy.family, [s.prompt.text for s in samples], (SIZE, SIZE))
    empty = encoded(policy.family, [""] * len(samples), (SIZE, SIZE))
    schedule = policy.family.schedule(STEPS, (SIZE, SIZE))
    time = schedule.time[0].float().expand(len(samples))
    with torch.no_grad():
        given, without = (policy.family.predict(start, time, c, (SIZE, SIZE)) for c in (condition, empty))
    expected = start + (without + GUIDANCE * (given - without)) * float(schedule.level[1] - schedule.level[0])
    torch.testing.assert_close(stored(samples, "x")[:, 0], expected, atol=2e-5, rtol=0)


# ---- replay ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branch", ["conditional", "both"])
def test_gradient_is_that_of_the_hand_written_loss(branch):
    policy = adapter(sampling={"guidance_gradient": branch})
    samples = roll(policy)
    nudge(policy)  # off the rollout's weights, so that the log-probs have a gradient of a usable size
    factor = torch.tensor([1.0, -2.0, 0.5, 1.5])[:, None]
    found = gradients(policy, (factor * policy.logprobs(samples, all_columns(samples)).logp).sum())

    def by_hand(detach: bool) -> dict[str, Tensor]:
        means, stds = hand_means(policy, samples, detach)
        return gradients(policy, (factor * hand_logp(stored(samples, "x_next"), means, stds)).sum())

    expected, other = by_hand(branch == "conditional"), by_hand(branch != "conditional")
    assert found.keys() == expected.keys()
    scale = max(float(g.abs().max()) for g in expected.values())
    assert max(float((found[k] - expected[k]).abs().max()) for k in found) < 1e-4 * scale
    assert max(float((found[k] - other[k]).abs().max()) for k in found) > 1e-2 * scale


@pytest.mark.parametrize(("branch", "graphs"), [("conditional", [False, True]), ("both", [True, True])])
def test_only_the_chosen_branches_build_a_graph(branch, graphs):
    policy = adapter(sampling={"guidance_gradient": branch})
    samples = roll(policy)
    nudge(policy)
    assert sorted(forwards(policy, lambda: policy.logprobs(samples, all_columns(samples)))) == graphs


def forwards(policy: ImageAdapter, call) -> list[bool]:
    """Whether the output of each forward of the denoiser during a call has a graph."""
    seen: list[bool] = []
    handle = policy.family.denoiser.register_forward_hook(lambda m, a, out: seen.append(out[0].requires_grad))
    call()
    handle.remove()
    return seen


def test_the_unconditional_output_is_computed_again_only_after_the_weights_changed():
    policy = adapter()
    policy.prepare_reference()
    samples = roll(policy)
    columns = all_columns(samples)

    def replay(reference: bool = False):
        return policy.logprobs(samples, columns, reference=reference)

    def without_store() -> Tensor:
        for s in samples:
            s.trajectory.tensors.pop("unconditional")
        return replay().logp

    assert forwards(policy, replay) == [True]
    saved = [p.detach().clone() for p in policy.trainable_parameters().values()]
    nudge(policy)
    assert sorted(forwards(policy, replay)) == [False, True]
    moved = replay().logp
    with torch.no_grad():
        for parameter, before in zip(policy.trainable_parameters().values(), saved):
            parameter.copy_(before)
    assert forwards(policy, replay) == [True]  # the same weights again, as after averaging or resuming
    with policy.reference():
        assert forwards(policy, replay) == [False]  # the reference's weights are those, too; it has no gradient
    nudge(policy)
    with policy.reference():
        assert forwards(policy, replay) == [False]
    assert sorted(forwards(policy, replay)) == [False, True]
    with torch.no_grad():
        for parameter, before in zip(policy.trainable_parameters().values(), saved):
            parameter.copy_(before)
    reused = replay().logp
    torch.testing.assert_close(without_store(), reused, atol=2e-6, rtol=0)
    nudge(policy)
    torch.testing.assert_close(replay().logp, moved, atol=1e-6, rtol=0)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_replay_with_stored_outputs_has_the_same_gradient_as_one_without(train):
    policy = adapter(train=train, lora={"rank": 2, "alpha": 4})
    if train == "lora":
        nudge(policy)  # its second factor starts at 0
    samples = roll(policy)
    factor = torch.tensor([1.0, -2.0, 0.5, 1.5])[:, None]

    def gradient() -> dict[str, Tensor]:
        return gradients(policy, (factor * policy.logprobs(samples, all_columns(samples)).logp).sum())

    reused = gradient()
    for s in samples:
        s.trajectory.tensors.pop("unconditional")
    again = gradient()
    scale = max(float(g.abs().max()) for g in again.values())
    assert scale > 0
    assert max(float((reused[k] - again[k]).abs().max()) for k in again) < 1e-5 * scale


def test_columns_and_rows_may_be_replayed_in_any_cut():
    policy = adapter()
    samples = roll(policy)
    with torch.no_grad():
        whole = policy.logprobs(samples, all_columns(samples)).logp
        part = policy.logprobs([samples[3], samples[1]], torch.tensor([2, 0])).logp
    torch.testing.assert_close(part, whole[[3, 1]][:, [2, 0]], atol=2e-6, rtol=0)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float16"])
def test_first_ratio_is_one_whatever_latents_are_rounded_to(storage):
    policy = adapter(sampling={"storage": storage})
    samples = roll(policy)
    after = stored(samples, "x_next")
    assert torch.equal(after, after.to(getattr(torch, storage)).float())
    with torch.no_grad():
        ratio = (policy.logprobs(samples, all_columns(samples)).logp - old_logp(samples)).exp()
    assert float((ratio - 1).abs().max()) < 1e-6


def test_ratio_norm_is_centred_scaled_and_weighted_by_step():
    policy = adapter(sampling={"ratio_norm": True})
    samples = roll(policy)
    columns = all_columns(samples)
    first = policy.logprobs(samples, columns)
    assert first.log_ratio.abs().max().item() < 1e-6
    policy.family.pipeline.scheduler.set_timesteps(STEPS)
    dt = policy.family.pipeline.scheduler.sigmas.diff()[:3].abs()
    torch.testing.assert_close(first.weight, (1 / dt).expand(4, 3))

    with torch.no_grad():
        means_old, stds = hand_means(policy, samples, True)
        nudge(policy)
        means, _ = hand_means(policy, samples, True)
    # With x' = m_old + S e:  logp - logp_old + |m - m_old|^2 / (2 S^2) = e (m - m_old) / S, linear in the move.
    noise = (stored(samples, "x_next") - means_old) / stds.view(1, -1, 1, 1, 1)
    expected = (noise * (means - means_old)).mean((2, 3, 4))
    replay = policy.logprobs(samples, columns)
    torch.testing.assert_close(replay.log_ratio, expected, atol=5e-6, rtol=1e-3)
    assert float(expected.abs().max()) > 1e-4 and replay.log_ratio.requires_grad


# ---- the reference -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["full", "lora"])
def test_exact_kl_starts_at_zero_then_follows_the_means_with_a_gradient(train):
    policy = adapter(train=train, lora={"rank": 2, "alpha": 4})
    policy.prepare_reference()
    samples = roll(policy)
    columns = all_columns(samples)
    start = policy.logprobs(samples, columns, reference=True)
    assert start.kl.abs().max().item() < 1e-12
    torch.testing.assert_close(start.logp_reference, start.logp.detach(), atol=1e-6, rtol=0)

    with torch.no_grad():
        reference, stds = hand_means(policy, samples, True)  # of the untouched weights
        nudge(policy, 3e-2)
        means, _ = hand_means(policy, samples, True)
    expected = ((means - reference) ** 2).mean((2, 3, 4)) / (2 * stds**2)
    moved = policy.logprobs(samples, columns, reference=True)
    torch.testing.assert_close(moved.kl, expected, rtol=2e-3, atol=1e-9)
    assert float(expected.min()) > 1e-7
    torch.testing.assert_close(moved.logp_reference, old_logp(samples), atol=2e-6, rtol=0)
    assert not moved.logp_reference.requires_grad
    found = gradients(policy, moved.kl.sum())
    assert max(float(g.abs().max()) for g in found.values()) > 0
    assert set(found) <= set(policy.trainable_parameters())


def test_published_kl_leaves_the_step_length_out():
    policy = adapter(sampling={"kl_published": True})
    exact = adapter()
    for side in (policy, exact):
        side.prepare_reference()
    samples = roll(exact)
    for side in (policy, exact):
        nudge(side)
    columns = all_columns(samples)
    with torch.no_grad():
        ours, theirs = (side.logprobs(samples, columns, reference=True).kl for side in (exact, policy))
    exact.family.pipeline.scheduler.set_timesteps(STEPS)
    dt = exact.family.pipeline.scheduler.sigmas.diff()[:3].abs()
    torch.testing.assert_close(theirs, ours * dt)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_the_reference_is_the_start_and_the_policy_comes_back(train):
    policy = adapter(train=train, lora={"rank": 2, "alpha": 4})
    policy.prepare_reference()
    samples = roll(policy)
    columns = all_columns(samples)

    @torch.no_grad()
    def logp() -> Tensor:
        return policy.logprobs(samples, columns).logp

    start = logp()
    nudge(policy, 3e-2)
    moved, trained = logp(), policy.trainable_parameters()
    assert not torch.equal(start, moved)
    with policy.reference():
        torch.testing.assert_close(logp(), start, atol=1e-6, rtol=0)
    assert torch.equal(logp(), moved)
    with pytest.raises(KeyError, match="inside"), policy.reference():
        raise KeyError("inside")
    assert torch.equal(logp(), moved)
    assert all(policy.trainable_parameters()[name] is parameter for name, parameter in trained.items())


def test_full_training_without_a_frozen_copy_says_what_to_call():
    with pytest.raises(RuntimeError, match="prepare_reference"), adapter().reference():
        pass


# ---- disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", BUILD)
def test_a_saved_policy_is_the_same_policy_in_diffusers(family, tmp_path):
    policy = adapter(family)
    nudge(policy)
    policy.save(tmp_path)
    loaded = ImageAdapter(ModelConfig(path=str(tmp_path), sampling=policy.config.sampling))
    assert type(loaded.family) is type(policy.family)
    assert_same_output(policy, loaded.family)


@pytest.mark.parametrize("family", BUILD)
def test_saved_lora_is_loaded_by_the_pipeline_it_was_trained_on(family, tmp_path):
    policy = adapter(family, train="lora", lora={"rank": 2, "alpha": 6})
    nudge(policy, 0.1)
    policy.save(tmp_path)
    base = adapter(family)  # the same seed, so the same base weights
    with pytest.raises(AssertionError):
        assert_same_output(policy, base.family)
    base.family.pipeline.load_lora_weights(tmp_path)
    assert_same_output(policy, base.family)


@torch.no_grad()
@pytest.mark.parametrize("shard", ["10GB", "20KB"])
def test_weights_of_a_variant_are_read_where_there_are_no_others(tmp_path, shard):
    """As a download of *.fp16.safetensors alone has them; the autoencoder's came without."""
    policy = adapter("sd")
    policy.family.pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size=shard)
    shutil.rmtree(tmp_path / "vae")
    policy.family.vae.save_pretrained(tmp_path / "vae")
    again = ImageAdapter(policy.config.at(tmp_path))
    for name, module in policy.modules().items():
        for key, tensor in again.modules()[name].state_dict().items():
            assert torch.equal(tensor, module.state_dict()[key]), (name, key)


def assert_same_output(policy: ImageAdapter, other) -> None:
    size = (SIZE, SIZE)
    latents = torch.randn((2, *policy.family.latent_shape(size)), generator=torch.Generator().manual_seed(2))
    times = torch.tensor([700.0, 300.0])
    outputs = [f.predict(latents, times, encoded(f, CORPUS, size), size) for f in (policy.family, other)]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


# ---- supervised --------------------------------------------------------------------------------------------


RECORDS = [
    {"id": i, "prompt": text, "image": Image.effect_mandelbrot((SIZE, SIZE), (-2 + i, -1, 1, 1), 20).convert("RGB")}
    for i, text in enumerate(CORPUS)
]
OFFSET = 0.25


def test_flow_matching_is_zero_for_the_true_velocity_and_the_square_of_an_offset(monkeypatch):
    policy = adapter(caption_dropout=0.0)
    clean = policy._records.latents(RECORDS)
    seen = []

    def predict(offset: float):
        def velocity(latents, time, condition, size):
            t = (time / 1000).view(-1, 1, 1, 1)
            seen.append(t.flatten())
            return (latents - clean) / t + offset  # x_t = clean + t (noise - clean)

        return velocity

    for offset in (0.0, OFFSET):
        monkeypatch.setattr(policy.family, "predict", predict(offset))
        loss = policy.supervised_loss(RECORDS, "sft", seed=11)
        assert float(loss) == pytest.approx(offset**2, abs=1e-5)
    assert torch.equal(seen[0], seen[1]) and bool(((seen[0] > 0) & (seen[0] < 1)).all())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_denoising_loss_is_zero_for_the_true_target_and_the_square_of_an_offset(prediction, monkeypatch):
    policy = adapter("sd", build={"prediction": prediction}, caption_dropout=0.0)
    clean = policy._records.latents(RECORDS)
    # The noise schedule of Stable Diffusion, from its two published numbers.
    alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)

    def predict(offset: float):
        def target(latents, time, condition, size):
            a = alphas[time.long()].float().view(-1, 1, 1, 1)
            noise = (latents - a.sqrt() * clean) / (1 - a).sqrt()
            return (noise if prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * clean) + offset

        return target

    for offset in (0.0, OFFSET):
        monkeypatch.setattr(policy.family, "predict", predict(offset))
        loss = policy.supervised_loss(RECORDS, "sft", seed=11)
        assert float(loss) == pytest.approx(offset**2, abs=1e-5)


def test_supervised_values_worked_by_hand():
    clean, noise = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -1.0]])
    # Target -0.5, -3; predictions 0.5, -1 miss by 1 and 2: (1 + 4) / 2.
    assert float(flow_matching_loss(torch.tensor([[0.5, -1.0]]), clean, noise)) == pytest.approx(2.5)
    # sigmoid(0) = 1/2, shift 3: 1.5 / 2; sigmoid(ln 3) = 3/4: 2.25 / 2.5.
    times = logit_normal_times(torch.tensor([0.0, math.log(3)]), 3.0)
    torch.testing.assert_close(times, torch.tensor([0.75, 0.9]))


@pytest.mark.parametrize(("prediction", "target"), [("epsilon", (0.5, -1.0)), ("v_prediction", (-0.5, -2.2))])
def test_denoising_target_worked_by_hand(prediction, target):
    class Model:
        """Two timesteps; at the second one sqrt(a) = 0.6 and sqrt(1 - a) = 0.8. Predicts what it is shown."""

        def __init__(self) -> None:
            self.prediction = prediction

        def alphas_cumprod(self) -> Tensor:
            return torch.tensor([0.9, 0.36], dtype=torch.float64)

        def predict(self, latents, time, condition, size) -> Tensor:
            assert time.tolist() == [1.0]
            return latents

    clean, noise = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -1.0]])
    shown = (0.6 * 1.0 + 0.8 * 0.5, 0.6 * 2.0 + 0.8 * -1.0)
    expected = sum((s - t) ** 2 for s, t in zip(shown, target)) / 2
    loss = denoising_loss(Model(), clean, noise, torch.tensor([0.75]), {}, (8, 8))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_autoencoder_trains_the_vae_only_and_then_sets_unit_variance():
    policy = adapter(components=["vae"])
    loss = policy.supervised_loss(RECORDS, "autoencoder", seed=1)
    assert set(gradients(policy, loss)) <= {k for k in policy.trainable_parameters() if k.startswith("vae.")}
    policy.finish("autoencoder", RECORDS)
    policy.load_state(policy.state())
    latents = policy._records.latents(RECORDS)
    assert float(latents.std()) == pytest.approx(1.0, rel=1e-3) and abs(float(latents.mean())) < 1e-4


def test_an_unknown_objective_names_the_known_ones():
    with pytest.raises(ValueError, match="sft, autoencoder"):
        adapter().supervised_loss(RECORDS, "flow", seed=0)
