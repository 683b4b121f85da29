"""Conversations with pictures as supervised records: each picture where its mark stands, every answer trained."""

from __future__ import annotations

import pytest
import torch

from mmrl.data.formats import normalised
from mmrl.types import Prompt


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


TALK = [user("<image>What is this?"), said("A box."), user("And this: <image>"), said("Another.")]


def sample(policy, pictures, **options):
    record = normalised({"messages": TALK, "images": pictures}, **options)
    (made,) = policy.given(Prompt("p", record["prompt"], record), [record["completion"]])
    return made, record


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "internvl"])
def test_pictures_stand_at_their_marks_in_the_prompt_and_behind_it(shared, drawn, kind):
    policy = shared(kind)
    pictures = [drawn(0), drawn(1, (48, 64))]
    every, record = sample(policy, pictures, every_turn=True)
    last, _ = sample(policy, pictures)
    assert record["messages"] == TALK[:1] and record["completion"] == TALK[1:]
    rows = [torch.cat([s.trajectory.tensors["prompt"], s.trajectory.tensors["ids"]]).tolist() for s in (every, last)]
    assert rows[0] == rows[1]  # the same row, of which more is trained
    assert [(m.view.picture, m.original) for m in every.media] == [(m.view.picture, m.original) for m in last.media]
    slots = [
        int((s.trajectory.tensors[part] == policy.family.image_id).sum())
        for s in (every, last)
        for part in ("prompt", "ids")
    ]
    assert slots[0] + slots[1] == slots[2] and 0 < slots[0] < slots[2] and slots[3] == 0
    end = policy.tokenizer.eos_token
    words = policy.tokenizer.decode(every.trajectory.tensors["ids"][every.trajectory.mask])
    assert words == f"A box.{end}Another.{end}"
    assert [turn.media for turn in every.turns] == [(0,), (), (1,), ()]


def test_the_loss_of_a_talk_is_the_mean_over_the_tokens_of_all_answers(adapter, drawn):
    policy = adapter("qwen2_5_vl", loud=True)
    made, record = sample(policy, [drawn(0), drawn(1)], every_turn=True)
    logp = policy.logprobs([made], torch.arange(len(made.trajectory.mask))).logp[0][made.trajectory.mask]
    assert policy.supervised_weight([record]) == len(logp)
    assert policy.supervised_loss([record], "sft", 0).item() == pytest.approx(-logp.mean().item(), abs=1e-6)
