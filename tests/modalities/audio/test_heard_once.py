"""What is computed once: a sound's samples, spectrogram and features, a group's prompt; and that it is let go of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from perceiving import replay, watch

from mmrl.media import AUDIO, IMAGE
from mmrl.types import Group, Prompt


@pytest.mark.parametrize("kind", ["qwen2_audio", "qwen3_omni_moe"])
def test_a_group_s_sound_is_decoded_processed_and_encoded_once(adapter, sung, ask, roll, kind):
    """Two groups of eight, four replays: two sounds, and two prompts in the first forward of the decoder."""
    policy = adapter(kind)
    heard, shapes = watch(policy)
    samples = roll(policy, [ask("What?", sung(1)), ask("Which?", sung(2, 1.2))], n=8)
    for _ in range(4):
        replay(policy, samples)
    assert (policy.sounds.decoded, policy.sounds.processed, sum(heard)) == (2, 2, 2)
    assert shapes[0][0] == 2


def test_a_trained_tower_encodes_a_sound_once_a_micro_batch(adapter, sung, ask, roll):
    policy = adapter(audio="trained")
    samples = roll(policy, [ask("What?", sung(1)), ask("Which?", sung(2))], n=4)
    heard, _ = watch(policy)
    replay(policy, samples)
    assert heard == [2] and policy.sounds.processed == 2
    heard.clear()
    parts = list(policy.slices(samples, 200))
    replay(policy, samples, 200)
    assert len(parts) > 1 and heard == [len({samples[r].prompt.id for r in part.rows.tolist()}) for part in parts]


def test_towers_are_kept_apart(adapter, sung, drawn, ask, roll):
    """One that is trained and one that is frozen in the same rows: gradients, and what is kept."""
    policy = adapter("qwen2_5_omni", audio="trained")
    prompt = ask("Both?", sung(1), images=[drawn(1)])
    samples = roll(policy, [prompt], n=2)
    assert len(policy._seen) == 1 and len(policy._kept) == 0  # features of a picture; those of a sound are not kept
    loss = policy.logprobs(samples, torch.arange(8)).logp.sum()
    named = policy.trainable_parameters()
    found = dict(zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True)))
    assert not any(".visual." in name for name in named)
    assert all(found[name] is not None for name in named if ".audio_tower." in name)
    assert any(bool(found[name].any()) for name in named if ".audio_tower." in name)


def test_the_same_file_of_two_records_is_decoded_once(adapter, sung, roll, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", sung(1)["array"], 16_000, subtype="FLOAT")
    policy = adapter()
    prompts = [Prompt(text, text, {"sounds": ["a.wav"]}, str(tmp_path)) for text in ("What?", "Where?")]
    samples = roll(policy, prompts)
    assert policy.sounds.decoded == 1 and len({s.media for s in samples}) == 1
    heard = policy.sound(samples[0], samples[0].media[0])
    np.testing.assert_array_equal(heard, sung(1)["array"])


def test_arrays_are_read_for_their_key_once_and_let_go_of(adapter, sung, ask, roll):
    import gc

    policy, sound = adapter(), sung(1)
    samples = roll(policy, [ask("?", sound)], n=4)
    replay(policy, samples)
    (key,) = policy.sounds._keys
    assert key == id(sound["array"])
    del samples, sound
    gc.collect()
    assert not policy.sounds._keys


def test_more_sounds_than_there_is_room_for_are_made_again_and_nothing_changes(adapter, sung, ask, roll):
    prompts = [ask(f"{i}?", sung(i), sung(i + 10, 0.5)) for i in range(3)]
    roomy, tight = adapter(), adapter()
    tight.sounds._kept.limit = tight.sounds._sounds.limit = tight._kept.limit = 1
    wanted, samples = roll(roomy, prompts), roll(tight, prompts)
    for a, b in zip(wanted, samples):
        assert torch.equal(a.trajectory.logp, b.trajectory.logp)
    made = tight.sounds.processed
    list(tight.slices(samples, 10**6))  # asks for ids, not for spectrograms
    assert tight.sounds.processed == made
    found = [policy.logprobs(samples, torch.arange(8)).logp for policy in (roomy, tight)]
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert len(tight.sounds._kept) == len(tight.sounds._sounds) == len(tight._kept) == 1
    assert roomy.sounds.processed == 6 and roomy.sounds.decoded == 6


def test_samples_hold_no_waves(adapter, sung, ask):
    policy = adapter()
    (group,) = policy.rollout([Group(ask("?", sung(1, 2.0)), 0)], 2, 0, 0)
    held = [t for s in group.samples for t in s.trajectory.tensors.values()]
    assert sum(t.numel() * t.element_size() for t in held) < 2500  # 50 placeholders; the sound has 128,000 bytes


def test_the_report_tells_a_picture_from_a_sound(adapter, sung, drawn, ask, roll):
    from mmrl.reporting.conversations import media_record, read_media

    policy = adapter("qwen2_5_omni")
    (sample,) = roll(policy, [ask(f"{AUDIO} or {IMAGE}?", sung(1), images=[drawn(1)])], n=1)
    told = [media_record(m) for m in sample.media]
    assert [("sound" in t, "picture" in t) for t in told] == [(True, False), (False, True)]
    assert [read_media(t) for t in told] == list(sample.media)
    assert sample.media[0].seconds == pytest.approx(0.7)
    assert policy.cost(sample.prompt) == {
        "tokens": len(sample.trajectory.tensors["prompt"]),
        "tokens of pictures": sample.media[1].tokens,
        "tokens of sounds": sample.media[0].tokens,
    }
    signs = policy.reader.words(sample.trajectory.tensors["prompt"])
    assert (signs.count("♪"), signs.count("▣")) == (1, 1)
