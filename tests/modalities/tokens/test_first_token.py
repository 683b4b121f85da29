"""The first token of an answer: its share in a supervised loss, and the score that is read from it alone."""

from __future__ import annotations

import pytest
import torch

from mmrl.modalities.tokens.supervised import supervised_loss
from mmrl.modalities.tokens.yes_no import yes_no_scores
from mmrl.types import Prompt

# Two answers of 4 and 1 tokens: -log p of 1, 2, 3, 4 and of 5.
LOGP, COUNTS = -torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), [4, 1]


@pytest.mark.parametrize(
    ("objective", "share", "loss"),
    [
        ("sft", 0.1, 3.0),
        ("sft_first", 0.1, (4 * (0.1 * 1 + 0.9 * 3) + 5) / 5),
        ("sft_first", 0.9, (4 * (0.9 * 1 + 0.1 * 3) + 5) / 5),
        ("sft_first", 0.25, 3.0),  # a quarter of four tokens: each counts alike
        ("sft_first_released", 0.1, (4 * (0.1 / 4 * 1 + 0.9 * 3) + 5) / 5),
    ],
)
def test_losses_by_hand(objective, share, loss):
    assert supervised_loss(LOGP, objective, COUNTS, share).item() == pytest.approx(loss)


def test_an_answer_is_trained_by_its_share(adapter):
    policy = adapter(first_share=0.7)
    record = {"prompt": "Same?", "completion": "Yes. It is."}
    (made,) = policy.given(Prompt("p", "Same?", record), [record["completion"]])
    logp = policy.logprobs([made], torch.arange(len(made.trajectory.mask))).logp[0]
    wanted = -(0.7 * logp[0] + 0.3 * logp[1:].mean())
    assert policy.supervised_loss([record], "sft_first", 0).item() == pytest.approx(wanted.item(), abs=1e-6)


# -------------------------------------------------------------------- the score


def by_hand(policy, text, *sides):
    """p(first) / (p(first) + p(second)) from the logits of one plain forward."""
    prompt = policy.blank(Prompt("p", text)).trajectory.tensors["prompt"]
    with torch.no_grad():
        p = policy.model(prompt[None]).logits[0, -1].double().softmax(0)
    yes, no = (p[ids].sum() for ids in sides)
    return (yes / (yes + no)).item()


def test_the_score_is_the_first_word_s_part_of_both_probabilities(adapter):
    policy = adapter(sampling={"temperature": 0.5})  # of sampling: the score is at 1
    letters = {c: policy.tokenizer(c).input_ids[0] for c in "yYnN"}
    texts = ("Same?", "The same one?")
    scores = yes_no_scores(policy, [Prompt(t, t) for t in texts], "y", "n")
    wanted = [by_hand(policy, text, [letters["y"]], [letters["n"]]) for text in texts]
    assert scores.tolist() == pytest.approx(wanted, abs=1e-6)
    turned = yes_no_scores(policy, [Prompt(t, t) for t in texts], "n", "y")
    assert (scores + turned).tolist() == pytest.approx([1, 1])


def test_spellings_are_summed(adapter):
    policy = adapter()
    ids = {form: policy.tokenizer(form).input_ids for form in ("y", "Y", " y", " Y", "n", "N", " n", " N")}
    sides = [[i[0] for form, i in ids.items() if len(i) == 1 and form.strip().lower() == c] for c in "yn"]
    assert all(len(side) >= 2 for side in sides)
    (score,) = yes_no_scores(policy, [Prompt("p", "Same?")], "y", "n", variants=True).tolist()
    assert score == pytest.approx(by_hand(policy, "Same?", *sides), abs=1e-6)


@pytest.mark.parametrize("variants", [False, True])
def test_a_word_of_several_tokens_is_refused(adapter, variants):
    with pytest.raises(ValueError, match=r"'Qzxj' is \d+ tokens of this model"):
        yes_no_scores(adapter(), [Prompt("p", "Same?")], "Qzxj", "n", variants=variants)


@pytest.mark.parametrize(("no", "variants"), [("y", False), ("Y", True)])
def test_words_that_share_a_token_are_refused(adapter, no, variants):
    with pytest.raises(ValueError, match="have a token in common"):
        yes_no_scores(adapter(), [Prompt("p", "Same?")], "y", no, variants=variants)
