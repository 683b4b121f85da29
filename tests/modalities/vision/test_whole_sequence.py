"""A conversation with pictures in its middle is what transformers' own processor and forward make of it at once.

Traps T2 (ids of both views), T5 (positions), T7 (what is trained) and T9 (temperature).
"""

from __future__ import annotations

import pytest
import torch

from mmrl.engines.view import collapse
from mmrl.environments.base import Context, Reply
from mmrl.media import IMAGE, View
from mmrl.modalities.media.pictures import shown
from mmrl.modalities.vision.adapter import VisionAdapter
from mmrl.modalities.vision.tiny import KINDS
from mmrl.types import Group

QWEN = [kind for kind in KINDS if kind.startswith("qwen")]
CHAT = [kind for kind in KINDS if not kind.startswith("paligemma")]
VIEWS = [View(0), View(1), View(0, (8.0, 4.0, 56.0, 40.0)), View(1, None, (32, 48)), View(0)]


class Looks:
    """Shows two pictures, then a part of the first, then the second smaller and the first again."""

    answers_cut = True

    def open(self, episode):
        messages = [
            {"role": "system", "content": "Look."},
            {"role": "user", "content": f"{IMAGE} and {IMAGE}: which?"},
        ]
        return Context(messages, VIEWS[:2])

    def respond(self, episode):
        if len(episode.said) == 1:
            return Reply(f"A part: {IMAGE}\nSo?", VIEWS[2:3])
        return Reply(f"{IMAGE}{IMAGE}", VIEWS[3:]) if len(episode.said) == 2 else None


@pytest.fixture(scope="module")
def whole(shared, drawn):
    """whole(kind) -> (policy, sample, what the processor makes of the same conversation, its images)."""
    made = {}

    def build(kind):
        if kind not in made:
            policy = shared(kind)
            policy.environment = Looks()
            try:
                made[kind] = (policy, *_talked(policy, drawn))
            finally:
                policy.environment = None
        return made[kind]

    return build


def said(turn):
    """A turn's words. Some templates write a space before an answer, which the policy says itself."""
    return turn.text.removeprefix(" ") if turn.role == "assistant" else turn.text


def _talked(policy, drawn):
    from mmrl.types import Prompt

    images = [drawn(1, (64, 48)), drawn(2, (40, 72))]
    prompt = Prompt("p", "", {"images": images})
    policy.environment = Looks()
    space = " " if "'Assistant:'" in policy.processor.chat_template else ""  # which the policy itself says there
    (sample,) = policy.given(prompt, [[f"{space}{words}" for words in ("the left", "hm", "it is the right one")]])
    chat = [{"role": t.role, "content": policy.reader.prompts.content(said(t))} for t in sample.turns]
    text = policy.processor.apply_chat_template(chat, tokenize=False)
    views = [shown(images[v.picture], v) for v in VIEWS]
    return sample, policy.processor(text=[text.removesuffix("\n")], images=[views], return_tensors="pt")


def logits_of(policy, encoded):
    """transformers' own forward of a whole sequence, [t, V]."""
    return policy.model(**encoded).logits[0]


@pytest.mark.parametrize("kind", CHAT)
def test_the_ids_are_those_of_the_processor_for_the_whole_conversation(whole, kind):
    policy, sample, encoded = whole(kind)
    stored = sample.trajectory.tensors
    ids = torch.cat([stored["prompt"], stored["ids"]])
    assert torch.equal(ids, encoded["input_ids"][0])
    assert [m.view for m in sample.media] == VIEWS
    assert sum(m.tokens for m in sample.media) == int((ids == policy.family.image_id).sum())
    assert [t.media for t in sample.turns] == [(), (0, 1), (), (2,), (), (3, 4), ()]
    if policy.family.not_served:
        return
    # Collapsed, it is what an engine that expands by itself would be given: one placeholder a picture.
    row = policy.reader.rows(sample)[0].then(policy.reader.rows(sample)[1])
    one_each = collapse(row.ids, row.media)
    chat = [{"role": t.role, "content": policy.reader.prompts.content(said(t))} for t in sample.turns]
    text = policy.processor.apply_chat_template(chat, tokenize=False).removesuffix("\n")
    assert one_each.tolist() == policy.tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("kind", CHAT)
def test_log_probs_are_those_of_one_forward_at_the_sampling_temperature(whole, kind):
    policy, sample, encoded = whole(kind)
    stored, mask = sample.trajectory.tensors, sample.trajectory.mask
    before = len(stored["prompt"])
    with torch.no_grad():
        dense = logits_of(policy, encoded)[before - 1 : -1] / 0.7
        dense[:, list(policy.banned)] = -torch.inf
        wanted = dense.log_softmax(-1).gather(1, stored["ids"][:, None])[:, 0]
        for together in ([sample], [sample, sample, sample]):  # replayed plainly, and with the prompt shared
            logp = policy.logprobs(together, torch.arange(len(mask))).logp
            for row in logp:
                torch.testing.assert_close(row[mask], wanted[mask], rtol=0, atol=2e-5)
                assert (row[~mask] == 0).all()


@pytest.mark.parametrize("kind", QWEN)
def test_positions_are_those_of_get_rope_index_and_a_plain_count_is_not(whole, kind, monkeypatch):
    """MGPO gives the response arange positions on all axes, although a picture stands in it."""
    policy, sample, encoded = whole(kind)
    wanted, _ = policy.model.model.get_rope_index(
        encoded["input_ids"], encoded["mm_token_type_ids"], image_grid_thw=encoded["image_grid_thw"]
    )
    prompt, rest = policy.reader.rows(sample)
    assert torch.equal(policy.family.positions(prompt.then(rest)), wanted[:, 0])
    assert torch.equal(policy.family.positions(prompt), wanted[:, 0, : len(prompt)])

    with torch.no_grad():
        columns = torch.arange(len(sample.trajectory.mask))
        right = policy.logprobs([sample], columns).logp[0]
        by_axis = policy.family.positions
        start = int(by_axis(prompt).max()) + 1

        def as_published(row):
            if len(row) <= len(prompt):
                return by_axis(row)
            count = torch.arange(len(row) - len(prompt)) + start
            return torch.cat([by_axis(prompt), count.expand(3, -1)], 1)

        monkeypatch.setattr(policy.family, "positions", as_published)
        wrong = policy.logprobs([sample], columns).logp[0]
    last = sample.trajectory.tensors["step"] == 2
    first = sample.trajectory.tensors["step"] == 0
    torch.testing.assert_close(wrong[first], right[first], rtol=0, atol=1e-5)  # before any picture of the response
    assert (wrong[last] - right[last]).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl", "idefics3"])
def test_the_gradient_is_of_the_policy_s_tokens_alone(adapter, drawn, kind):
    """Nothing of an observation's own log-prob, pictures and forced ends included; the tower gets its share."""
    policy = adapter(kind, vision="trained", loud=True)
    sample, encoded = _talked(policy, drawn)
    stored, mask = sample.trajectory.tensors, sample.trajectory.mask
    parameters = list(policy.trainable_parameters().values())
    dense = logits_of(policy, encoded)[len(stored["prompt"]) - 1 : -1]
    dense = dense.index_fill(1, torch.tensor(policy.banned), -torch.inf).log_softmax(-1)
    wanted = torch.autograd.grad(dense.gather(1, stored["ids"][:, None])[:, 0][mask].sum(), parameters)
    made = torch.autograd.grad(policy.logprobs([sample], torch.arange(len(mask))).logp.sum(), parameters)
    towers = {id(p) for tower in policy.family.towers(policy.model) for p in tower.parameters()}
    reached = 0
    for parameter, a, b in zip(parameters, made, wanted):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4 * float(b.abs().max().clamp(min=1)))
        reached += id(parameter) in towers and bool(a.any())
    assert reached > 10


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_paligemma_s_prompt_sees_itself_and_its_answer_does_not(shared, ask, drawn, roll):
    policy = shared("paligemma")
    prompt = ask("which one", drawn(1), drawn(2, (40, 72)))
    for sample in roll(policy, [prompt]):
        ids = sample.trajectory.tensors["ids"]
        encoded = policy.processor(
            text=["<image><image>which one"], images=[prompt.record["images"]], return_tensors="pt"
        )
        before = encoded["input_ids"].shape[1]
        assert torch.equal(encoded["input_ids"][0], sample.trajectory.tensors["prompt"])
        parts = torch.cat([torch.zeros(1, before), torch.ones(1, len(ids))], 1).long()
        with torch.no_grad():
            dense = policy.model(
                input_ids=torch.cat([encoded["input_ids"], ids[None]], 1),
                pixel_values=encoded["pixel_values"],
                attention_mask=torch.ones_like(parts),
                token_type_ids=parts,
            ).logits[0, before - 1 : -1]
        dense = dense / 0.7
        dense[:, list(policy.banned)] = -torch.inf
        wanted = dense.log_softmax(-1).gather(1, ids[:, None])[:, 0]
        torch.testing.assert_close(sample.trajectory.logp, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["qwen2_vl", "smolvlm"])
def test_sampled_conversations_replay_in_any_company(shared, ask, drawn, kind):
    policy = shared(kind)
    policy.environment = Looks()
    try:
        prompts = [ask("a", drawn(1), drawn(2, (40, 72))), ask("b", drawn(3, (90, 30)), drawn(4))]
        groups = policy.rollout([Group(p, i) for i, p in enumerate(prompts)], 2, 0, 0)
    finally:
        policy.environment = None
    samples = [s for g in groups for s in g.samples]
    for budget in (300, 10**6):
        for part in policy.slices(samples, budget):
            some = [samples[r] for r in part.rows]
            with torch.no_grad():
                logp = policy.logprobs(some, part.columns).logp
            for row, sample in zip(logp, some):
                stored = sample.trajectory.logp
                torch.testing.assert_close(row[: len(stored)], stored, rtol=0, atol=2e-5)


def test_a_saved_policy_is_transformers_own_model_and_processor(whole, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    policy, _, encoded = whole("qwen2_5_vl")
    policy.save(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**encoded).logits, policy.model(**encoded).logits, rtol=0, atol=1e-5)
    assert AutoProcessor.from_pretrained(tmp_path).chat_template == policy.processor.chat_template
    assert VisionAdapter(policy.config.at(tmp_path)).family.image_id == policy.family.image_id
