"""From one stage to the next: what was trained is frozen, what was frozen is trained, and nothing stale is used."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image
from small_pipelines import (
    BUILD,
    CORPUS,
    LORA,
    SIZE,
    adapter,
    all_columns,
    asked,
    encoded,
    gradients,
    nudge,
    old_logp,
    roll,
    transitions,
)

from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.conditions import Conditions

SQUARE = (SIZE, SIZE)


def picture(seed: int) -> Image.Image:
    return Image.effect_mandelbrot(SQUARE, (-2 + seed, -1, 1, 1), 20).convert("RGB")


def records(*seeds: int) -> list[dict]:
    return [{"id": 0, "prompt": CORPUS[0], "image": picture(seed)} for seed in seeds]


def fresh(policy: ImageAdapter, image: Image.Image) -> torch.Tensor:
    """The picture's latent, past everything that is kept."""
    pixels = torch.tensor(list(image.tobytes())).view(1, SIZE, SIZE, 3).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        return policy.family.encode_pixels(pixels)[0]


# ---- embeddings, weights and the reference --------------------------------------------------------------------


def test_what_any_stage_trained_is_read_again_to_the_last_bit(tmp_path):
    """In 16 bits, also of parts that the last stage did not train; the others stay in 16 bits."""
    adapter().family.pipeline.to(torch.bfloat16).save_pretrained(tmp_path / "start")
    policy = ImageAdapter(adapter(dtype="bfloat16").config.at(tmp_path / "start"))
    policy.select(["vae"])
    nudge(policy)
    policy.select(None)
    nudge(policy)
    policy.save(tmp_path / "end")
    again = ImageAdapter(policy.config.at(tmp_path / "end"))
    for name, module in policy.modules().items():
        wanted = torch.bfloat16 if name.startswith("text_encoder") else torch.float32
        read = dict(again.modules()[name].named_parameters())
        for key, parameter in module.named_parameters():
            assert read[key].dtype == parameter.dtype == wanted, (name, key)
            assert torch.equal(read[key], parameter), (name, key)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sft_of_the_denoiser_then_grpo_on_the_text_encoders_then_the_denoiser_again(dtype):
    policy = adapter(dtype=dtype)
    policy.select(["denoiser"])
    policy.supervised_loss(records(0, 1), "sft", seed=1).backward()
    nudge(policy)  # the stage's updates
    trained = {name: p.detach().clone() for name, p in policy.trainable_parameters().items()}

    policy.select(["text_encoders"])
    assert all(name.startswith("text_encoder") for name in policy.trainable_parameters())
    frozen_now = {f"denoiser.{key}": p for key, p in policy.family.denoiser.named_parameters()}
    assert not any(p.requires_grad for p in frozen_now.values())
    assert all(torch.equal(p, trained[name]) for name, p in frozen_now.items())  # not rounded
    policy.prepare_reference()
    samples = roll(policy)
    columns = all_columns(samples)
    first = policy.logprobs(samples, columns, reference=True)
    assert bool((first.kl == 0).all()) and torch.equal(first.logp_reference, first.logp.detach())
    start = copy.deepcopy(policy)
    nudge(policy, 3e-2)
    moved = policy.logprobs(samples, columns, reference=True)
    (mean, std), (mean_start, _) = transitions(policy, samples), transitions(start, samples)
    expected = ((mean - mean_start) ** 2 / (2 * std**2)).mean((2, 3, 4)).detach()
    torch.testing.assert_close(moved.kl.detach(), expected, rtol=1e-3, atol=1e-9)
    found = gradients(policy, moved.kl.sum())
    assert found and all(name.startswith("text_encoder") for name in found)

    policy.select(["denoiser"])
    with torch.no_grad(), policy.policy.autocast():
        both = (encoded(one.family, CORPUS[:1], SQUARE) for one in (policy, start))
        expected, outdated = ({key: value.to(policy.policy.dtype) for key, value in one.items()} for one in both)
    kept = policy._conditions(asked(CORPUS[:1]), SQUARE)
    assert all(torch.equal(kept[key], expected[key]) for key in expected)
    assert any(not torch.equal(kept[key], outdated[key]) for key in outdated)
    assert policy.reference_parameters() == {}


@pytest.mark.parametrize(
    "options",
    [{"components": [part]} for part in ("denoiser", "text_encoders")]
    + [{"components": ["denoiser", "text_encoders", "vae"]}, LORA],
)
def test_the_tag_of_stored_outputs_covers_the_trained_weights_that_act(options):
    policy = adapter(**options)
    before = policy._parts.tag()
    assert copy.deepcopy(policy)._parts.tag() == before
    for name, parameter in policy.trainable_parameters().items():
        kept = parameter.detach().clone()
        with torch.no_grad():  # the least change of one number
            parameter.view(-1)[-1:].copy_(torch.nextafter(kept.view(-1)[-1:], torch.tensor([9.0])))
        assert (policy._parts.tag() != before) == (not name.startswith("vae.")), name
        with torch.no_grad():
            parameter.copy_(kept)
        assert policy._parts.tag() == before


@pytest.mark.parametrize("options", [{}, LORA])
def test_a_choice_that_would_train_nothing_or_be_ignored_is_refused(options):
    policy = adapter(**options)
    with pytest.raises(Unsupported, match=r"unknown .'unet'.; known: denoiser, text_encoders, vae"):
        policy.select(["unet"])
    if options:
        with pytest.raises(Unsupported, match="lora, which trains the denoiser only"):
            policy.select(["denoiser", "vae"])
        return
    policy.select(["vae"])
    with pytest.raises(Unsupported, match=r"objective sft, which trains denoiser and text_encoders"):
        policy.supervised_loss(records(0), "sft", seed=0)
    samples = roll(policy)
    with pytest.raises(Unsupported, match="has no log-probability"):
        policy.logprobs(samples, all_columns(samples))
    policy.select(["denoiser"])
    with pytest.raises(Unsupported, match="objective autoencoder, which trains vae"):
        policy.supervised_loss(records(0), "autoencoder", seed=0)


# ---- latents of records -------------------------------------------------------------------------------------


def test_records_of_one_id_and_other_pictures_do_not_share_a_latent():
    policy = adapter(caption_dropout=0.0)
    first, second = records(0, 1)
    losses = [float(policy.supervised_loss([record], "sft", seed=4).detach()) for record in (first, second, first)]
    assert losses[0] == losses[2] != losses[1]
    alone = adapter(caption_dropout=0.0)
    assert float(alone.supervised_loss([second], "sft", seed=4).detach()) == losses[1]


def test_a_picture_is_encoded_once_until_the_autoencoder_is_another():
    policy = adapter()
    calls = []
    inner = policy.family.encode_pixels
    policy.family.encode_pixels = lambda pixels: (calls.append(1), inner(pixels))[1]
    for _ in range(2):
        policy.supervised_loss(records(0, 1, 0), "sft", seed=4)
    assert len(calls) == 1
    policy.family.encode_pixels = inner

    policy.select(["vae"])
    nudge(policy, 3e-2)
    policy.finish("autoencoder", records(0, 1, 2))
    assert policy.state()["scaling_factor"] != 1.0
    policy.select(["denoiser", "text_encoders"])
    torch.testing.assert_close(policy._records.latents([{"image": picture(0)}])[0], fresh(policy, picture(0)))
    policy.load_state({"scaling_factor": 3.0, "shift_factor": 0.5})
    torch.testing.assert_close(policy._records.latents([{"image": picture(0)}])[0], fresh(policy, picture(0)))


@pytest.mark.parametrize(("decode_batch", "count"), [(1, 3), (2, 3), (16, 3), (4, 9)])
def test_a_latent_does_not_depend_on_what_is_encoded_with_it(decode_batch, count):
    """Bit for bit: a resumed run encodes anew what the stopped one had kept."""
    pictures = [{"image": picture(0).rotate(10 * number)} for number in range(count)]
    together = adapter(decode_batch=decode_batch)._records.latents(pictures)
    alone = adapter(decode_batch=decode_batch)
    assert torch.equal(together, torch.cat([alone._records.latents([one]) for one in reversed(pictures)]).flip(0))
    again = adapter(decode_batch=decode_batch)
    again._records.latents(pictures[:1])  # one is known, the others are not
    assert torch.equal(again._records.latents([*pictures, pictures[0]])[:count], together)


def test_scale_and_shift_do_not_depend_on_how_many_pictures_are_encoded_together():
    states = []
    for batch in (1, 16):
        policy = adapter(components=["vae"], decode_batch=batch)
        policy.finish("autoencoder", records(0, 1, 2))
        states.append(policy.state())
    one, many = ({key: value for key, value in state.items() if value is not None} for state in states)
    assert set(one) == {"scaling_factor", "shift_factor"} and one == pytest.approx(many, rel=1e-5)


# ---- what is kept -------------------------------------------------------------------------------------------


def test_kept_embeddings_are_bounded_and_right_beyond_the_bound():
    policy = adapter()
    one = sum(t.numel() * t.element_size() for t in policy.family.encode(asked("x"), SQUARE)[0].values())
    conditions = Conditions(policy.family, policy.policy, limit=3 * one)
    texts = [f"{i} red circle" for i in range(7)]
    found = conditions(asked([*texts, texts[0]]), SQUARE)
    assert len(conditions._kept) == 3 and conditions._kept.bytes == 3 * one
    with torch.no_grad():
        for row, text in enumerate([*texts, texts[0]]):
            expected = policy.family.encode(asked([text]), SQUARE)[0]
            assert all(torch.equal(found[key][row], expected[key]) for key in expected)


def one_entry(policy: ImageAdapter) -> int:
    return sum(t.numel() * t.element_size() for t in policy.family.encode(asked("x"), SQUARE)[0].values())


@pytest.mark.parametrize("family", BUILD)
def test_rollout_and_replay_are_the_same_whatever_is_kept(family):
    """With nothing kept, one embedding (the two prompts and the negative one throw each other out), and all of them."""
    found = []
    for entries in (0, 1, 100):
        policy = adapter(family, sampling={"guidance": 1.0} if family == "flux" else {"negative_prompt": "a green one"})
        conditions = Conditions(policy.family, policy.policy, limit=entries * one_entry(policy))
        policy._conditions = policy._sampler.conditions = conditions
        samples = roll(policy)
        with torch.no_grad():
            replayed = policy.logprobs(samples, all_columns(samples)).logp
        found.append(([s.artifact.tobytes() for s in samples], old_logp(samples), replayed))
    for pictures, rolled, replayed in found[1:]:
        assert pictures == found[0][0]
        assert torch.equal(rolled, found[0][1]) and torch.equal(replayed, found[0][2])


@pytest.mark.parametrize(("entries", "encoded"), [(0, 6), (1, 5), (2, 4), (3, 3)])
def test_the_longest_unused_embedding_is_thrown_away_first(entries, encoded):
    policy = adapter()
    conditions = Conditions(policy.family, policy.policy, limit=entries * one_entry(policy))
    calls, encode = [], policy.family.encode
    policy.family.encode = lambda some, size: calls.append(some) or encode(some, size)
    # Least recently used with room for 1: all but the second b. For 2: a, b, c, a again. For 3: a, b, c.
    for text in ("a", "b", "b", "c", "b", "a"):
        conditions(asked([text]), SQUARE)
    assert len(calls) == encoded


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_kept_is_a_copy_on_the_cpu_in_the_type_that_the_denoiser_computes_in(dtype):
    policy = adapter(dtype=dtype)
    policy.select(["text_encoders"])  # makes them float32
    policy.select(["denoiser"])
    made, encode = [], policy.family.encode
    policy.family.encode = lambda texts, size: made.append(encode(texts, size)) or made[-1]
    (one,) = asked(["a red circle"])
    policy._conditions([one], SQUARE)
    kept = policy._conditions._kept.get((one.key, SQUARE))
    assert {value.dtype for value in kept.values()} == {getattr(torch, dtype)}
    assert {value.device.type for value in kept.values()} == {"cpu"}
    held = {value.untyped_storage().data_ptr() for value in made[0][0].values()}
    assert held.isdisjoint(value.untyped_storage().data_ptr() for value in kept.values())


def test_the_bound_is_the_configs_in_megabytes():
    assert adapter(embedding_cache=3)._conditions._kept.limit == 3 << 20
    assert adapter(embedding_cache=0)._conditions._kept is None
