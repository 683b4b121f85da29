"""Sounds as ids: as many placeholders as features, never cut, never sampled; a reason for each that is not heard."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrl.config import ConfigError
from mmrl.engines.decoder import Row
from mmrl.environments.base import Context, Reply
from mmrl.media import AUDIO, IMAGE, SOUND_COLUMNS, SOUND_PARTS, Excerpt, MediaError, View
from mmrl.modalities.audio.tiny import KINDS
from mmrl.sounds import SoundError
from mmrl.training.assemble import usable
from mmrl.training.rollouts.broken import without_broken
from mmrl.types import Group, Prompt

RATE = 16_000
NAMES = {
    "qwen2_audio": {"<|AUDIO|>"},
    "audioflamingo3": {"<sound>"},
    "voxtral": {"[AUDIO]"},
    "qwen2_5_omni": {"<|AUDIO|>", "<|IMAGE|>", "<|VIDEO|>"},
    "qwen3_omni_moe": {"<|audio_pad|>", "<|image_pad|>", "<|video_pad|>"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_placeholders_have_no_share_in_the_distribution(adapter, sung, ask, roll, kind):
    """With logits that would win nearly every draw they are never sampled, nor counted in a log-prob."""
    policy = adapter(kind, loud=True)
    banned = list(policy.banned)
    assert {policy.tokenizer.decode([i]) for i in banned} == NAMES[kind]
    with torch.no_grad():
        head = policy.model.get_output_embeddings().weight
        head[banned] = 30 * head[: len(banned)]
    samples = roll(policy, [ask("a", sung(1)), ask("b")], n=4)
    for sample in samples:
        ids = sample.trajectory.tensors["ids"]
        assert not torch.isin(ids, torch.tensor(banned)).any()
        hidden = policy._replayed([sample], torch.arange(len(ids))).hidden.detach()
        logits = hidden @ policy.model.get_output_embeddings().weight.T
        logits[:, banned] = -torch.inf
        wanted = logits.log_softmax(1).gather(1, ids[:, None])[:, 0].detach()
        torch.testing.assert_close(sample.trajectory.logp, wanted, rtol=0, atol=1e-4)


def test_third_party_answers_with_placeholders_are_refused(shared, sung, ask):
    policy = shared("qwen2_audio")
    for answer in ([40, policy.family.audio_id, 41], "no <|AUDIO|>"):
        with pytest.raises(ValueError, match=r"prompt '\?': answer 1 has the token '<\|AUDIO\|>'"):
            policy.given(ask("?", sung(1)), ["fine", answer])


@pytest.mark.parametrize("kind", ["qwen2_audio", "qwen2_5_omni"])
def test_a_row_is_never_cut_through_a_sound(shared, sung, ask, roll, kind):
    policy = shared(kind)
    (sample,) = roll(policy, [ask("?", sung(1, 0.2), sung(2, 0.3))], n=1)
    row, _ = policy.reader.rows(sample)
    decoder = policy._decoder()
    places = torch.nonzero(row.ids == policy.family.audio_id).flatten().tolist()
    first = row.media[0].tokens
    spans = [(places[0], places[first - 1] + 1), (places[first], places[-1] + 1)]
    for length in range(len(row) + 1):
        if any(start < length < end for start, end in spans):
            with pytest.raises(ValueError, match=f"cannot be cut at {length}: that is inside of one of its"):
                decoder.cut(row, length)
        else:
            kept = decoder.cut(row, length)
            assert len(kept) == length and len(kept.media) == sum(length >= end for _, end in spans)


def test_a_prompt_that_would_have_to_be_cut_through_its_sound_is_dropped_and_counted(adapter, sung, ask):
    policy = adapter("voxtral", max_prompt_tokens=20)
    long, plain = ask("?", sung(1)), ask("What is it?")  # <s>[INST][BEGIN_AUDIO], 25 of a window, ?[/INST]
    assert policy.usable(long) == "has 30 tokens, 20 is the most (model.max_prompt_tokens, or what the context leaves)"
    with pytest.warns(UserWarning, match=r"1 of 2 prompts cannot be used, first '\?': has 30 tokens.*dropped"):
        assert usable(policy, [long, plain], "stop")[0] == [plain]


def test_placeholders_that_are_not_those_of_the_sample_s_sounds_are_told_before_the_forward(adapter, sung, ask, roll):
    policy = adapter()
    (sample,) = roll(policy, [ask("?", sung(1))], n=1)
    tensors = sample.trajectory.tensors
    place = int(torch.nonzero(tensors["prompt"] == policy.family.audio_id)[0])
    tensors["prompt"] = torch.cat([tensors["prompt"][:place], tensors["prompt"][place + 1 :]])
    with pytest.raises(ValueError, match=r"prompt '\?': 16 placeholders, its sounds have 17 features"):
        policy.logprobs([sample], torch.arange(3))
    row = Row(torch.tensor([1, policy.family.audio_id, 2]))
    with pytest.raises(ValueError, match="1 placeholders for 0 features of 0 sounds"):
        policy._decoder().run([row])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("two <|AUDIO|> here", "3 places for sounds in the text, 2 sounds"),
        (f"one {AUDIO} more", f"has 1 {AUDIO} marks and 2 sounds; they must agree"),
        (AUDIO * 3, f"has 3 {AUDIO} marks and 2 sounds; they must agree"),
    ],
)
def test_a_prompt_whose_placeholders_are_not_its_sounds_is_dropped(shared, sung, ask, text, told):
    assert told in shared("qwen2_audio").usable(ask(text, sung(1), sung(2)))


def test_a_template_that_moves_pictures_before_sounds_is_told(adapter, sung, drawn, ask):
    """Each would get the features of the other's place."""
    policy = adapter("qwen2_5_omni")
    moved = "{% for kind, mark in [('image', '<|IMAGE|>'), ('audio', '<|AUDIO|>')] %}"
    moved += "{% for part in m['content'] if part['type'] == kind %}{{ mark }}{% endfor %}{% endfor %}"
    usual = policy.processor.chat_template
    begin = usual.index("{% if part['type'] == 'audio' %}")
    end = usual.index("{% if part['type'] == 'text' %}")
    loop = "{% else %}{% for part in m['content'] %}"
    policy.processor.chat_template = (usual[:begin] + usual[end:]).replace(loop, "{% else %}" + moved + loop[10:])
    assert policy.usable(ask("<image><audio>?", sung(1), images=[drawn(1)])) is None
    told = policy.usable(ask("<audio>?<image>", sung(1), images=[drawn(1)]))
    assert told == "the chat template writes ▣ ♪ where ♪ ▣ are marked; mark pictures and sounds in its order"


def test_without_a_template_a_sound_stands_where_it_is_marked(adapter, sung, ask, roll):
    policy = adapter(chat="off")
    (sample,) = roll(policy, [ask(f"Hear {AUDIO}: what?", sung(1))], n=1)
    words = "".join(policy.reader.words(sample.trajectory.tensors["prompt"]))
    assert words == "Hear <|audio_bos|>♪<|audio_eos|>: what?"


def test_a_mark_without_a_sound_is_no_question(shared, ask):
    assert shared("qwen2_audio").usable(ask(f"What is {AUDIO}?")) == f"marks 1 places with {AUDIO}, and has 0 sounds"


def test_a_model_that_hears_one_sound_a_prompt_says_so(shared, sung, ask):
    told = shared("audioflamingo3").usable(ask("?", sung(1), sung(2)))
    assert told == "has 2 sounds (or parts of them), and AudioFlamingo3ForConditionalGeneration hears 1"


def test_nobody_answers_without_hearing(sung, ask):
    """A record with sounds, given to a policy that has no ears: never a silent question of text alone."""
    from mmrl.modalities.text.adapter import TextAdapter
    from mmrl.modalities.text.config import ModelConfig

    build = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1}
    policy = TextAdapter(ModelConfig(path="built", build=build))
    told = "has sounds, which this modality does not hear; leave the column out to ask without them"
    assert policy.usable(ask("?", sung(1))) == policy.usable(ask(f"{AUDIO}?", sung(1))) == told
    assert policy.usable(ask(f"What is the tag {AUDIO} of HTML?")) is None


def test_pictures_are_not_what_a_model_without_eyes_reads(shared, sung, drawn, ask):
    told = shared("qwen2_audio").usable(ask("<image>?", sung(1), images=[drawn(1)]))
    assert told == "prompt '<image>?' has 1 <image> marks and 0 pictures; they must agree"


def test_environments_that_know_pictures_only_show_a_record_s_sounds(adapter, sung, drawn, ask, roll):
    """The mark and the sound come from the record; what is said behind the question is the environment's."""
    from mmrl.environments.load import load_environment

    policy = adapter("qwen2_5_omni")
    policy.environment = load_environment({"name": "single", "ask": "Say a letter.", "system": "Listen."})
    (sample,) = roll(policy, [ask("Which?", sung(1), images=[drawn(1)])], n=1)
    system, user, _ = sample.turns
    assert (system.text, user.text, user.media) == ("Listen.", f"<image>{AUDIO}Which?\nSay a letter.", (0, 1))
    assert [type(m).__name__ for m in sample.media] == ["Media", "Heard"]


# -------------------------------------------------------------------- long sounds


def long(seconds: float, number: int = 1):
    time = np.arange(int(seconds * RATE)) / RATE
    wave = 0.3 * np.sin(2 * np.pi * (200 + 100 * number + 50 * time) * time)
    return {"array": wave.astype(np.float32), "sampling_rate": RATE}


@pytest.mark.parametrize("kind", ["qwen2_audio", "qwen2_5_omni"])
def test_a_sound_longer_than_the_model_hears_is_bad_and_never_cut_in_silence(adapter, sung, ask, kind):
    """transformers' own processors cut it at the window and say nothing."""
    policy = adapter(kind)
    prompts = [ask("?", long(2.0001)), ask("!", sung(1))]
    with pytest.raises(SoundError, match=r"sound 0 lasts 2.0 s, and the model hears 2 s; cut it, or set") as caught:
        policy.usable(prompts[0])
    assert (caught.value.prompt, caught.value.reason) == ("?", "too_long")
    with pytest.raises(ConfigError, match=r"prompt '\?': sound 0 lasts 2.0 s.*or set data.on_bad_record: skip"):
        usable(policy, prompts, "stop")
    with pytest.warns(UserWarning, match=r"1 of 2 prompts cannot be used, first '\?': sound 0 lasts"):
        assert usable(policy, prompts, "skip")[0] == [prompts[1]]


def test_chunks_are_heard_one_behind_the_other_and_whole(adapter, sung, ask, roll):
    policy = adapter(long_sounds="chunks", build={"seconds": 1})
    prompt = ask(f"First {AUDIO}, then {AUDIO}: which?", long(2.5), sung(2, 0.5))
    (sample,) = roll(policy, [prompt], n=1)
    views = [m.view for m in sample.media]
    assert views == [Excerpt(0, 0, 13_333), Excerpt(0, 13_333, 26_666), Excerpt(0, 26_666, 40_000), Excerpt(1)]
    assert sum(m.seconds for m in sample.media) == pytest.approx(3.0)
    assert sample.turns[0].text == f"First {AUDIO * 3}, then {AUDIO}: which?"
    assert sample.turns[0].media == (0, 1, 2, 3)
    apart = [{"array": long(2.5)["array"][v.start : v.end], "sampling_rate": RATE} for v in views[:3]]
    same = ask(f"First {AUDIO * 3}, then {AUDIO}: which?", *apart, sung(2, 0.5), id=prompt.id)
    assert torch.equal(sample.trajectory.tensors["prompt"], policy.given(same, ["a"])[0].trajectory.tensors["prompt"])
    ids = sample.trajectory.tensors["ids"]
    given = [policy.given(p, [ids.tolist()])[0] for p in (prompt, same)]
    with torch.no_grad():
        whole, parts = (policy.logprobs([s], torch.arange(len(ids))).logp for s in given)
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-6)
    torch.testing.assert_close(whole[0], sample.trajectory.logp, rtol=0, atol=1e-5)


def test_channels_are_heard_as_declared(adapter, ask):
    """The mean of both is half of what stands on the left alone."""
    left = long(0.5)["array"]
    stereo = {"array": np.stack([left, np.zeros_like(left)], 1), "sampling_rate": RATE}
    heard = {}
    for channels in ("mean", "left", 1):
        policy = adapter(channels=channels)
        heard[channels] = policy.sounds.samples(ask("?", stereo), Excerpt(0))
    np.testing.assert_allclose(heard["mean"], left / 2, atol=1e-7)
    np.testing.assert_array_equal(heard["left"], left)
    assert not heard[1].any()
    with pytest.raises(ValueError, match="-1 is none; write mean, left, or the number"):
        adapter(channels=-1)


# -------------------------------------------------------------------- bad media


BAD = {
    "missing": "gone.wav",
    "outside": "../a.wav",
    "empty": {"array": np.zeros(0, np.float32), "sampling_rate": RATE},
    "one_sample": {"array": np.zeros(1, np.float32), "sampling_rate": RATE},
    "too_short": {"array": np.zeros(300, np.float32), "sampling_rate": RATE},
    "rate": np.zeros(8000, np.float32),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_media_have_a_reason_each(shared, sung, reason, tmp_path):
    policy = shared("qwen2_audio")
    prompt = Prompt("p", "What?", {"sounds": [BAD[reason]]}, str(tmp_path))
    with pytest.raises(SoundError) as caught:
        policy.usable(prompt)
    assert (caught.value.reason, caught.value.prompt) == (reason, "p")


def test_a_bound_of_seconds_holds(adapter, ask):
    policy = adapter("voxtral")
    policy.max_seconds = 3
    with pytest.raises(SoundError, match=r"lasts 4 s, over data.max_seconds=3"):
        policy.usable(ask("?", long(4.0)))
    policy.max_seconds = None
    assert policy.usable(ask("?", long(4.0))) is None


def test_a_sound_that_breaks_behind_its_plan_leaves_the_rollout(adapter, sung, ask):
    """Planned while it was there, and gone when it is to be heard again."""
    policy, whole = adapter(), [True]

    def breaking():
        if not whole:
            raise OSError("the disk is gone")
        return sung(1)

    prompts = [ask("?", sung(3)), ask("broken", breaking)]
    assert usable(policy, prompts, "stop")[0] == prompts
    whole.clear()
    policy.sounds._sounds.clear()

    def rolled(asked):
        return policy.rollout([Group(p, i) for i, p in enumerate(asked)], 1, 0, 0)

    with pytest.raises(MediaError, match=r"prompt 'broken': sound: function .* failed: OSError: the disk is gone"):
        rolled(prompts)
    with pytest.warns(UserWarning, match="prompt 'broken': sound.*; it is left out"):
        left, _ = without_broken(rolled, prompts, lambda p: p.id, "skip")
    assert left == prompts[:1]


UNUSED = [(kind, "vision", "trained", "does not see") for kind in ("qwen2_audio", "audioflamingo3", "voxtral")]
UNUSED += [(kind, "long_sounds", "chunks", "any length at once") for kind in ("voxtral", "qwen3_omni_moe")]
UNUSED += [("audioflamingo3", "long_sounds", "chunks", "hears one sound of a prompt, not parts")]


@pytest.mark.parametrize(("kind", "option", "value", "told"), UNUSED, ids=[f"{kind}-{o}" for kind, o, *_ in UNUSED])
def test_options_that_change_nothing_of_a_model_are_refused_when_it_is_known(adapter, kind, option, value, told):
    """Of a folder no config can tell which model it holds."""
    with pytest.raises(ValueError, match=rf"^{option}: {value}, and .*{told}"):
        adapter(kind, **{option: value})


TALK = [
    {"role": "user", "content": f"{AUDIO}Which?"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": f"And {AUDIO}, or {AUDIO}?"},
    {"role": "assistant", "content": "b"},
]


def as_parts(text):
    """A text with marks as transformers' templates take it."""
    first, *rest = text.split(AUDIO)
    parts = [part for piece in rest for part in ({"type": "audio"}, {"type": "text", "text": piece})]
    return [part for part in ({"type": "text", "text": first}, *parts) if part.get("text") != ""]


def of_whole(policy, counts):
    """Ids of TALK as transformers' own template writes it in one, with so many placeholders a sound."""
    own = policy.processor if policy.processor.chat_template else policy.tokenizer
    chat = [{**m, "content": as_parts(m["content"]) if m["role"] == "user" else m["content"]} for m in TALK]
    text = own.apply_chat_template(chat, tokenize=False)
    first, *rest = text.split(policy.processor.audio_token)
    text = first + "".join(policy.processor.audio_token * n + piece for n, piece in zip(counts, rest, strict=True))
    return policy.tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "audioflamingo3"])
@pytest.mark.parametrize("first", [1, 0], ids=["from the first turn on", "in the second turn alone"])
def test_a_conversation_to_learn_has_its_sounds_in_the_turns_that_mark_them(shared, sung, kind, first):
    """The row is that of transformers' template of the whole, which may number its sounds."""
    policy = shared(kind)
    heard = [sung(n, 0.2 + 0.1 * n) for n in range(2 + first)]
    asked = TALK[0]["content"] if first else "Which?"
    record = {"sounds": heard, "messages": [{"role": "user", "content": asked}]}
    (sample,) = policy.given(Prompt("talk", asked, record), [TALK[1:]])
    assert [m.view for m in sample.media] == [Excerpt(n) for n in range(2 + first)]
    assert [turn.media for turn in sample.turns] == [(0,) if first else (), (), (first, first + 1), ()]
    if first:
        row = [*sample.trajectory.tensors["prompt"].tolist(), *sample.trajectory.tensors["ids"].tolist()]
        whole = of_whole(policy, [m.tokens for m in sample.media])
        assert row == whole[: len(row)] and len(whole) - len(row) <= 1  # a line's end behind the last turn
    prompt, rest = policy.reader.rows(sample)
    assert [len(prompt.media), len(rest.media)] == [first, 2]
    other = {**record, "sounds": [*heard[:-1], sung(9, 0.2 + 0.1 * (1 + first))]}
    (changed,) = policy.given(Prompt("other", asked, other), [TALK[1:]])
    places = torch.arange(len(sample.trajectory.mask))
    with torch.no_grad():
        one, two = (policy.logprobs([s], places).logp[0] for s in (sample, changed))
    last = int(sample.trajectory.mask.nonzero()[-1])
    assert one[0] == two[0] and abs(float(one[last] - two[last])) > 1e-5


class Sings:
    """Plays the record's other sounds, one a turn."""

    answers_cut = True

    def open(self, episode):
        return Context([{"role": "user", "content": f"{AUDIO}Which?"}], [Excerpt(0)])

    def respond(self, episode):
        turn = len(episode.said)
        return Reply(f"And {AUDIO}?", [Excerpt(turn)]) if turn < 3 else None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "audioflamingo3"])
def test_sounds_that_an_environment_plays_are_numbered_on(adapter, sung, kind):
    """The row is that of the same conversation with all of its turns given, and of transformers' template."""
    policy = adapter(kind)
    record = {"sounds": [sung(n, 0.2 + 0.1 * n) for n in range(3)]}
    words = ["One.", "Two.", "Three."]
    asked = [{"role": "user", "content": f"And {AUDIO}?"}] * 2
    turns = [{"role": "assistant", "content": said} for said in words]
    (given,) = policy.given(Prompt("talk", "Which?", record), [[turns[0], asked[0], turns[1], asked[1], turns[2]]])
    policy.environment = Sings()
    (played,) = policy.given(Prompt("talk", "Which?", record), [words])
    assert played.media == given.media and len(given.media) == 3
    for name in ("prompt", "ids"):
        assert played.trajectory.tensors[name].tolist() == given.trajectory.tensors[name].tolist()


@pytest.mark.parametrize("typed", [True, False], ids=["with a type", "by its key"])
@pytest.mark.parametrize("part", SOUND_PARTS)
def test_parts_of_a_prompt_made_by_hand_are_sounds_by_any_name(shared, sung, part, typed):
    """In the messages as libraries write them, and in any column that holds a record's sounds."""
    policy = shared("qwen2_audio")
    one = {part: "a.wav", **({"type": part} if typed else {})}
    parts = [{"type": "text", "text": "Hear "}, one, {"type": "text", "text": "?"}]
    wanted = policy.reader.opened(*_opening(policy, Prompt("p", f"Hear {AUDIO}?", {"sounds": [sung(1)]})))
    messages = {"messages": [{"role": "user", "content": parts}]}
    for column in SOUND_COLUMNS:
        for held in ([sung(1)], sung(1), (sung(1)["array"], RATE)):
            found = policy.reader.opened(*_opening(policy, Prompt("p", "", {**messages, column: held})))
            assert found.row.ids.tolist() == wanted.row.ids.tolist() and len(found.media) == 1
    assert "a part of its messages is a sound, and it has no `sounds`" in policy.usable(Prompt("p", "", messages))


def _opening(policy, prompt):
    return prompt, policy.reader.context(prompt)


def test_sounds_of_later_turns_are_heard_in_parts_too(adapter, sung):
    policy = adapter(long_sounds="chunks", build={"seconds": 1})
    record = {"sounds": [sung(1, 0.5), long(2.0), sung(2, 0.5)], "messages": TALK[:1]}
    (sample,) = policy.given(Prompt("talk", TALK[0]["content"], record), [TALK[1:]])
    assert [m.view for m in sample.media] == [Excerpt(0), Excerpt(1, 0, 16_000), Excerpt(1, 16_000, 32_000), Excerpt(2)]
    assert sample.turns[2].text == f"And {AUDIO}{AUDIO}, or {AUDIO}?" and sample.turns[2].media == (1, 2, 3)


@pytest.mark.parametrize("kind", ["qwen2_5_omni", "qwen3_omni_moe"])
def test_pictures_behind_sounds_are_counted_apart(shared, sung, drawn, kind):
    policy = shared(kind)
    answer = [TALK[1], {"role": "user", "content": f"{IMAGE}And {AUDIO}, {IMAGE}?"}, TALK[3]]
    record = {
        "sounds": [sung(1), sung(2)],
        "images": [drawn(n) for n in range(3)],
        "messages": [{"role": "user", "content": f"{AUDIO}{IMAGE}Which?"}],
    }
    (sample,) = policy.given(Prompt("talk", "Which?", record), [answer])
    views = [Excerpt(0), View(0), View(1), Excerpt(1), View(2)]
    assert [m.view for m in sample.media] == views


def test_a_template_that_looks_for_the_key_of_a_sound_writes_it(adapter, sung, ask):
    """As that of Qwen2-Audio did before parts had types."""
    policy = adapter()
    template = policy.processor.chat_template
    policy.processor.chat_template = template.replace(" or content['type'] == 'audio'", "")
    assert template != policy.processor.chat_template
    assert policy.usable(ask("Which?", sung(1))) is None
