"""Scores of models that see: pictures in the prompt or as candidates, whole rows, and no batch that changes them."""

from __future__ import annotations

import pytest
import torch

from mmrl.data.showing import SHOW, candidate_row
from mmrl.modalities.vision.adapter import VisionAdapter
from mmrl.modalities.vision.tiny import KINDS
from mmrl.training.scoring import row_of
from mmrl.types import Candidate

HEAD = {"outputs": 1, "init": 0.1}


def samples_of(policy, ask, drawn):
    """Text answers about pictures, and pictures that answer words."""
    made = policy.given(ask("What is it?", drawn(1), id="seen"), ["a square", "red, and a line"])
    for number in (2, 3):
        prompt, answer = candidate_row(ask("a red square", id="drawn"), Candidate("", (drawn(number, (48, 64)),)))
        made += policy.given(prompt, [answer])
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_depends_on_the_row_and_its_pictures_alone(adapter, ask, drawn, kind):
    policy = adapter(kind, loud=True, head=HEAD, build={"tiles": 2})
    samples = samples_of(policy, ask, drawn)
    weights = torch.tensor([[1.0], [-2.0], [3.0], [0.5]])
    parameters = policy.trainable_parameters()

    def scored(parts):
        found = [policy.scores([samples[i] for i in part]) for part in parts]
        loss = sum((scores * weights[part]).sum() for scores, part in zip(found, parts))
        return torch.cat(found).detach(), torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)

    together, whole = scored([[0, 1, 2, 3]])
    alone, parts = scored([[0], [1], [2], [3]])
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-4)
    assert len(set(together[:, 0].tolist())) == 4
    assert [g is None for g in whole] == [g is None for g in parts]
    moved = [(a, b) for a, b in zip(whole, parts) if a is not None]
    scale = max(float(a.abs().max()) for a, _ in moved)
    assert len(moved) > 2 and not any(bool((a - b).abs().max() > 1e-3 * scale) for a, b in moved)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "internvl"])
def test_a_score_is_the_head_on_the_state_that_transformers_computes(adapter, ask, drawn, kind):
    policy = adapter(kind, loud=True, head=HEAD, build={"tiles": 2})
    picture = drawn(1)
    (sample,) = policy.given(ask("What is it?", picture), ["a square"])
    chat = [{"role": t.role, "content": policy.reader.prompts.content(t.text)} for t in sample.turns]
    text = policy.processor.apply_chat_template(chat, tokenize=False)
    encoded = policy.processor(text=[text.removesuffix("\n")], images=[[picture]], return_tensors="pt")
    ids = torch.cat([sample.actions.tensors["prompt"], sample.actions.tensors["ids"]])
    assert encoded["input_ids"][0].tolist() == ids.tolist()
    with torch.no_grad():
        state = policy.model(**encoded, output_hidden_states=True).hidden_states[-1][0, -1]
    wanted = float(policy.head.weight.detach()[0] @ state)
    assert float(policy.scores([sample]).detach()) == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_a_trained_tower_gets_its_gradient(adapter, ask, drawn):
    policy = adapter(head=HEAD, vision="trained")
    policy.scores(samples_of(policy, ask, drawn)).sum().backward()
    towers = [p for name, p in policy.trainable_parameters().items() if "visual" in name]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in towers)


def test_saved_and_loaded_it_gives_the_same_numbers(adapter, ask, drawn, tmp_path):
    policy = adapter(head=HEAD)
    policy.save(tmp_path)
    again = VisionAdapter(policy.config.at(tmp_path))
    assert torch.equal(again.scores(samples_of(again, ask, drawn)), policy.scores(samples_of(policy, ask, drawn)))


def test_a_row_that_does_not_fit_is_refused_and_no_picture_is_cut(adapter, ask, drawn):
    policy = adapter(head=HEAD, build={"context": 48})
    with pytest.raises(ValueError, match=r"has \d+ tokens"):
        policy.given(ask("What is it?", drawn(1), id="seen"), ["a square " * 20])
    prompt, answer = candidate_row(ask("a red square"), Candidate("", (drawn(2, (256, 256)),)))
    with pytest.raises(ValueError, match=r"has \d+ tokens"):
        policy.given(prompt, [answer])


@pytest.mark.parametrize("learned", [{}, {"loss": False}])
def test_a_conversation_is_scored_at_its_end_whatever_it_says_of_being_learned(adapter, ask, learned):
    policy = adapter(head=HEAD)

    def row(last, **says):
        talk = [{"role": "assistant", "content": "Red."}, {"role": "user", "content": "Sure?"}]
        end = {"role": "assistant", "content": last, **says}
        return row_of(policy, ask("a red square"), Candidate([*talk, end]), SHOW)

    made = [row("Yes.", **learned), row("No, it is blue.", **learned), row("Yes."), row("No, it is blue.")]
    scores = policy.scores(made)[:, 0]
    assert scores[0] != scores[1]
    torch.testing.assert_close(scores[:2], scores[2:])
