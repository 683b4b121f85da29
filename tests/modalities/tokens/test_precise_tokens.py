"""Tokens that have to be exact: characters of the answer as the tokens that said them, and what they weigh."""

from __future__ import annotations

import pytest
import torch

from mmrl.modalities.tokens.precise import classes, digits, finder, grown
from mmrl.modalities.tokens.supervised import supervised_loss
from mmrl.types import Prompt

CODE = "r = cq.box(40,-2)  # 7"
EXACT = "       ^^^ ^^ ^^     "
SPANS = "share://rewards/cad_spans.py:spans"


def marked(policy, text, class_of):
    """The answer with a mark under each token of a letter."""
    (sample,) = policy.given(Prompt("p", "A box"), [text])
    found = policy.features([sample], torch.arange(40), ["token_class"])["token_class"][0]
    assert found.tolist() == class_of + [0.0] * (40 - len(class_of))


def test_a_number_is_the_tokens_of_its_digits(adapter):
    """A letter is a token, and so is the end of the turn."""
    marked(adapter(), CODE, [float(c.isdigit()) for c in CODE])
    marked(adapter(precise=SPANS), CODE, [float(c == "^") for c in EXACT])


def test_merged_tokens_count_where_one_of_their_letters_does(adapter):
    """ "box(" and "=4" are tokens here; digits stay single."""
    policy = adapter(build={"corpus": ["box box box cq.box"] * 9, "vocab": 300}, precise=SPANS)
    ids = policy.tokenizer(CODE).input_ids
    words = [policy.tokenizer.decode([i]) for i in ids]
    assert "".join(words) == CODE and len(words) < len(CODE)
    starts = [len("".join(words[:n])) for n in range(len(words))]
    wanted = [float("^" in EXACT[start : start + len(word)]) for start, word in zip(starts, words)]
    assert 3 <= sum(wanted) < EXACT.count("^")
    marked(policy, CODE, wanted)


def test_thoughts_that_the_prompt_opens_are_no_program(adapter):
    """Cut off before their end they hold no number of a program; behind their end stands one."""
    policy = adapter(chat="off", precise=SPANS)
    for text, exact in (("box(40", ""), ("box(4)</think>a(7)", "7")):
        (sample,) = policy.given(Prompt("p", "A box. <think>"), [text])
        found = policy.features([sample], torch.arange(len(text)), ["token_class"])["token_class"][0]
        assert "".join(c for c, one in zip(text, found.tolist()) if one) == exact


def test_tokens_that_are_not_trained_are_of_no_class(adapter):
    policy = adapter()
    (sample,) = policy.given(Prompt("p", "x"), ["1234"])
    sample.trajectory.mask[1:3] = False
    found = policy.features([sample], torch.arange(6), ["token_class"])["token_class"]
    assert found.tolist() == [[1, 0, 0, 1, 0, 0]]


def test_a_token_s_text_behind_others():
    """A decoder that drops a leading space, as those of sentencepiece do, and a letter of two tokens."""
    pieces = [" r", "=", " 4", "0", b"\xc3", b"\xa9", " 1"]

    def decode(ids):
        raw = b"".join(p if isinstance(p, bytes) else p.encode() for p in (pieces[i] for i in ids))
        return raw.decode("utf-8", errors="replace").lstrip(" ")

    words = grown(range(7), decode)
    assert words == ["r", "=", " 4", "0", "", "é", " 1"]
    assert classes("r= 40é 1", words, digits) == [0, 0, 1, 1, 0, 0, 1]
    assert grown(range(5), decode) == ["r", "=", " 4", "0", ""]  # cut off within a letter


@pytest.mark.parametrize("span", [(0, 9), (-1, 2), (2, 1), 3, ("0", "1"), (0, 1, 2)])
def test_spans_that_are_none_are_refused(span):
    with pytest.raises(ValueError, match=r"precise: .* is no \(start, end\) in a text of 8 characters"):
        classes("r= 40é 1", ["r= 40é 1"], lambda _: [span])


def test_a_function_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"precise 'digit'.*digits"):
        finder("digit")
    with pytest.raises(ValueError, match=r"cad_spans.py has no 'span'.*spans"):
        finder("share://rewards/cad_spans.py:span")


def test_the_supervised_loss_by_hand():
    """Two answers of 4 tokens and 1: -log p of 1, 2, 3, 4 and of 5; the second token of the first weighs 3."""
    logp, weight = -torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([1.0, 3.0, 1.0, 1.0, 3.0])
    loss = supervised_loss(logp, "sft_precise", [4, 1], weight=weight)
    assert loss.item() == pytest.approx((4 * (1 + 3 * 2 + 3 + 4) / 6 + 5) / 5)
    assert supervised_loss(logp, "sft_precise", [4, 1], weight=torch.ones(5)).item() == pytest.approx(3.0)


def test_an_answer_is_trained_by_its_weights(adapter):
    policy = adapter(precise=SPANS, precise_weight=5.0)
    record = {"prompt": "A box", "completion": CODE}
    (made,) = policy.given(Prompt("p", "A box", record), [CODE])
    logp = policy.logprobs([made], torch.arange(len(made.trajectory.mask))).logp[0]
    weight = torch.tensor([5.0 if c == "^" else 1.0 for c in EXACT] + [1.0] * (len(logp) - len(EXACT)))
    wanted = -(weight * logp).sum() / weight.sum()
    assert policy.supervised_loss([record], "sft_precise", 0).item() == pytest.approx(wanted.item(), abs=1e-5)
