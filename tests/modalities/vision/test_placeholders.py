"""Pictures as ids: one placeholder or all of them, never cut, never sampled (traps T1, T2 and T3)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrl.engines.decoder import Row
from mmrl.engines.view import collapse
from mmrl.environments.base import Reply
from mmrl.media import View
from mmrl.modalities.media.pictures import PictureShelf
from mmrl.modalities.media.shown import expand
from mmrl.modalities.vision.families.base import Family
from mmrl.modalities.vision.tiny import KINDS
from mmrl.types import Group, Prompt

IMAGE_ID, SOUND_ID = 7, 6
MARKS = torch.tensor([IMAGE_ID, SOUND_ID])


@dataclass(frozen=True)
class Shown:
    """A picture, or a sound, as far as ids go."""

    expansion: torch.Tensor
    placeholder: int = IMAGE_ID
    parts = 1

    @property
    def tokens(self):
        return int((self.expansion == self.placeholder).sum())


# A picture is rows of placeholders between other ids, as tiles with names are, or placeholders alone.
words = st.lists(st.integers(0, 20).filter(lambda i: i not in (IMAGE_ID, SOUND_ID)), max_size=6)
rows = st.tuples(st.lists(st.integers(8, 11), max_size=2), st.integers(1, 4))
tiles = st.lists(rows, min_size=1, max_size=3).map(lambda some: [i for names, n in some for i in [*names, *n * [7]]])
pictures = st.tuples(tiles, st.lists(st.integers(8, 11), max_size=2)).map(
    lambda parts: Shown(torch.tensor([*parts[0], *parts[1]]))
)
sounds = st.integers(1, 5).map(lambda count: Shown(torch.tensor([SOUND_ID] * count), SOUND_ID))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(words, st.one_of(pictures, sounds)), max_size=5), words)
def test_collapse_is_the_inverse_of_expand(parts, end):
    """T2, for any number of pictures in any number of turns; masks of both views fit."""
    ids = torch.tensor([i for text, p in parts for i in [*text, p.placeholder]] + end, dtype=torch.int64)
    some = [picture for _, picture in parts]
    wide = expand(ids, some, MARKS)
    assert wide.tolist() == [i for text, p in parts for i in [*text, *p.expansion.tolist()]] + end
    assert len(wide) == len(ids) - len(some) + sum(len(p.expansion) for p in some)
    assert torch.equal(collapse(wide, some), ids)
    with pytest.raises(ValueError, match=rf"{len(some)} places for pictures in the text, {len(some) + 1} pictures"):
        expand(ids, [*some, Shown(torch.tensor([IMAGE_ID]))], MARKS)
    if some:
        place = int(torch.nonzero(torch.isin(wide, MARKS))[0])
        with pytest.raises(ValueError, match=r"not those of its expansion|more placeholders than pictures"):
            collapse(torch.cat([wide[:place], wide[place + 1 :]]), some)
        with pytest.raises(ValueError, match="more placeholders than pictures"):
            collapse(torch.cat([wide, some[-1].expansion]), some)


# -------------------------------------------------------------------- counts


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_has_as_many_features_as_placeholders(shared, drawn, ask, kind):
    """T1, of what the tower really returns, not of what was computed for it."""
    policy = shared(kind)
    prompt = ask("?", *(drawn(i, size) for i, size in enumerate([(64, 48), (48, 64), (30, 30), (200, 40), (1, 1)])))
    shelf = policy.shelf
    made = [shelf.get(prompt, view) for view in policy.reader.opening(prompt).views]
    with torch.no_grad():
        features = policy.family.features(policy.model, [p.inputs for p in made])
    assert [len(f.embeds) for f in features] == [p.tokens for p in made] == [p.media.tokens for p in made]


class Miscounting(Family):
    """A processor that belongs to another model."""

    image_id = IMAGE_ID
    slots = MARKS

    def __init__(self):
        pass

    def process(self, image):
        return {}, image.size

    def expansion(self, size):
        return torch.full((4,), IMAGE_ID)

    def feature_count(self, inputs):
        return 5


def test_a_processor_of_another_model_is_told_before_any_forward():
    """By the first picture of all; the others are planned from their sizes alone."""
    shelf = PictureShelf(Miscounting(), "norm1000", 10**6, 10**6)
    with pytest.raises(ValueError, match=r"4 placeholders and 5 features.*the processor and the model do not belong"):
        shelf.get(Prompt("p", "", {"images": [Image.new("RGB", (9, 9))]}), View())


@pytest.mark.parametrize("kind", ["qwen3_vl", "idefics3"])
def test_a_row_is_never_cut_through_a_picture(shared, drawn, ask, roll, kind):
    policy = shared(kind)
    (sample,) = roll(policy, [ask("?", drawn(1), drawn(2))], n=1)
    row, _ = policy.reader.rows(sample)
    decoder = policy._decoder()
    places = torch.nonzero(row.ids == policy.family.image_id).flatten().tolist()
    ends = [places[row.media[0].tokens - 1] + 1, places[-1] + 1]
    for length in range(len(row) + 1):
        inside = any(places[i * row.media[0].tokens] < length < ends[i] for i in range(2))
        if inside:
            with pytest.raises(ValueError, match=f"cannot be cut at {length}: that is inside of one of its pictures"):
                decoder.cut(row, length)
        else:
            kept = decoder.cut(row, length)
            assert len(kept) == length and len(kept.media) == sum(length >= end for end in ends)


def test_a_prompt_that_would_have_to_be_cut_through_its_picture_is_dropped_and_counted(adapter, drawn, ask):
    """T1: its text fits, with the picture it does not; with less of either it does."""
    from mmrl.training.assemble import usable

    policy = adapter(max_prompt_tokens=30)
    # start, user, newline, vision start, vision end, ?, end, newline, start, assistant, newline: 22 ids; 12 or 4 cells
    long, short, plain = ask("?", drawn(1)), ask("?!", drawn(1, (32, 32))), ask("What is it?")
    assert policy.usable(long) == "has 34 tokens, 30 is the most (model.max_prompt_tokens, or what the context leaves)"
    with pytest.warns(UserWarning, match=r"1 of 3 prompts cannot be used, first '\?': has 34 tokens.*dropped"):
        assert usable(policy, [long, short, plain], "stop")[0] == [short, plain]
    with pytest.raises(ValueError, match="has 34 tokens"):
        policy.rollout([Group(long, 0)], 2, 0, 0)


def test_placeholders_that_are_not_those_of_the_sample_s_pictures_are_told_before_the_forward(shared, drawn, ask, roll):
    policy = shared("qwen2_5_vl")
    (sample,) = roll(policy, [ask("?", drawn(1))], n=1)
    tensors = sample.trajectory.tensors
    place = int(torch.nonzero(tensors["prompt"] == policy.family.image_id)[0])
    tensors["prompt"] = torch.cat([tensors["prompt"][:place], tensors["prompt"][place + 1 :]])
    with pytest.raises(ValueError, match=r"prompt '\?': 11 placeholders, its pictures have 12 features"):
        policy.logprobs([sample], torch.arange(3))
    row = Row(torch.tensor([1, policy.family.image_id, 2]))
    with pytest.raises(ValueError, match="1 placeholders for 0 features of 0 pictures"):
        policy._decoder().run([row])


# -------------------------------------------------------------------- never sampled

NAMES = {
    **{kind: {"<|image_pad|>", "<|video_pad|>"} for kind in KINDS if kind.startswith("qwen")},
    "internvl": {"<IMG_CONTEXT>", "<img>", "</img>", "<video>"},
    "llava_onevision": {"<image>", "<video>"},
    "gemma3": {"<image_soft_token>", "<start_of_image>", "<end_of_image>"},
    **{
        kind: {"<image>", "<fake_token_around_image>", "<global-img>"}
        | {f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)}
        for kind in ("idefics3", "smolvlm")
    },
    **{kind: {"<image>"} for kind in ("paligemma", "paligemma2")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_placeholders_have_no_share_in_the_distribution(adapter, drawn, ask, roll, kind):
    """T3: with logits that would win nearly every draw they are never sampled, nor counted in a log-prob."""
    policy = adapter(kind, build={"tied": False}, loud=True)
    banned = list(policy.banned)
    assert {policy.tokenizer.decode([i]) for i in banned} == NAMES[kind]
    with torch.no_grad():
        head = policy.model.get_output_embeddings().weight
        head[banned] = 30 * head[: len(banned)]
    samples = roll(policy, [ask("a", drawn(1)), ask("b")], n=4)
    tempting = 0
    for sample in samples:
        ids = sample.trajectory.tensors["ids"]
        assert not torch.isin(ids, torch.tensor(banned)).any()
        hidden = policy._replayed([sample], torch.arange(len(ids))).hidden.detach()
        logits = hidden @ policy.model.get_output_embeddings().weight.T
        tempting += int(torch.isin(logits.argmax(1), torch.tensor(banned)).sum())
        if cap := getattr(policy.model.config.get_text_config(), "final_logit_softcapping", None):
            logits = cap * (logits / cap).tanh()
        logits[:, banned] = -torch.inf
        wanted = logits.log_softmax(1).gather(1, ids[:, None])[:, 0].detach()
        torch.testing.assert_close(sample.trajectory.logp, wanted, rtol=0, atol=1e-4)
        replayed = policy.logprobs([sample], torch.arange(len(ids))).logp[0].detach()
        torch.testing.assert_close(replayed, wanted, rtol=0, atol=1e-4)
    assert tempting > (len(samples) if len(banned) > 1 else 0)  # one id alone may have the wrong sign


def test_third_party_answers_with_placeholders_are_refused(shared, drawn, ask):
    """T3: as ids, as an engine that does not ban them would send them, and as the text that makes them."""
    policy = shared("qwen2_5_vl")
    prompt = ask("?", drawn(1))
    for answer in ([40, policy.family.image_id, 41], "no <|video_pad|>"):
        with pytest.raises(ValueError, match=r"prompt '\?': answer 1 has the token '<\|(image|video)_pad\|>'"):
            policy.given(prompt, ["fine", answer])


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "internvl"])
def test_what_an_environment_repeats_stays_words(adapter, drawn, ask, kind):
    """A policy that may not sample a placeholder can still spell it, and an environment may quote it."""

    policy = adapter(kind)
    mark = policy.processor.image_token
    spelled = [i for letter in mark for i in policy.tokenizer(letter, add_special_tokens=False).input_ids]
    assert policy.reader.text(torch.tensor(spelled)) == mark and not {*spelled} & {*policy.banned}
    row, media = policy.reader.replied(ask("Hi"), Reply(f"You said: {mark}"), end=policy.stop_ids[0])
    assert policy.family.image_id not in row.ids.tolist() and not media and not row.media
    assert policy.tokenizer.decode(row.ids).count(f"You said: {mark[0]} {mark[1:]}") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("two <|image_pad|> here", "3 places for pictures in the text, 2 pictures"),
        ("one <image> more", "has 1 <image> marks and 2 pictures; they must agree"),
        ("<image><image><image>", "has 3 <image> marks and 2 pictures; they must agree"),
    ],
)
def test_a_prompt_whose_placeholders_are_not_its_pictures_is_dropped(shared, drawn, ask, text, told):
    assert told in shared("qwen2_5_vl").usable(ask(text, drawn(1), drawn(2)))
