"""The form of completions and of turns, from tables; what gets no reward is told."""

from __future__ import annotations

import pytest
from every import every

from mmrl.rewarding import load_reward
from mmrl.types import Prompt, Sample, Turn


def score(name: str, text: str, turns=(), options=None, **record):
    sample = Sample(Prompt("p", "q", record), 0, text, turns=turns)
    return load_reward(f"tags.{name}", options).call([sample])[0]


CAPTION, BBOX, THINK, ANSWER = (
    "<caption>a dog</caption>",
    "<bbox>[[1, 2, 3, 4]]</bbox>",
    "<think>so</think>",
    "<answer>B</answer>",
)


@every(
    ("text", "why"),
    [
        (CAPTION + BBOX + ANSWER, None),
        (f"\n{CAPTION}\n{BBOX}\n \n{ANSWER}\n", None),
        (CAPTION + BBOX + THINK + ANSWER, None),  # the paper's figure has it, the released code has not
        (CAPTION + THINK + BBOX + ANSWER, "tags in another order"),
        (BBOX + CAPTION + ANSWER, "tags in another order"),
        (CAPTION + BBOX, "<answer> is opened 0 times"),
        (CAPTION + BBOX + ANSWER + ANSWER, "<answer> is opened 2 times"),
        (CAPTION + CAPTION + BBOX + ANSWER, "<caption> is opened 2 times"),
        ("Sure. " + CAPTION + BBOX + ANSWER, "text outside the tags: 'Sure.'"),
        (CAPTION + " and " + BBOX + ANSWER, "text outside the tags"),
        (CAPTION + BBOX + ANSWER + "!", "text outside the tags"),
        (CAPTION + BBOX + "<answer>B", "<answer> is opened 1 times and closed 0 times"),
        (CAPTION + BBOX + "<answer> </answer>", "<answer> is empty"),
        (CAPTION + "<bbox>[1, 2, 3]</bbox>" + ANSWER, "<bbox> holds no box"),
        (CAPTION + "<bbox>[]</bbox>" + ANSWER, "<bbox> holds no box"),
        (CAPTION + BBOX + f"<think>{ANSWER}</think>{ANSWER}", "<answer> is opened 2 times"),
        (CAPTION + BBOX + f"<think>{ANSWER}</think>", "tags in another order"),
        (CAPTION + BBOX + "<Answer>B</Answer>", "<answer> is opened 0 times"),
        ("", "<caption> is opened 0 times"),
    ],
)
def test_satori_s_sections(text, why):
    found = score("segments", text)
    assert found.value == float(why is None)
    assert (why or "") in found.details.get("why", "")


@every(
    ("text", "value"),
    [
        (THINK + ANSWER, 1.0),
        (THINK + "\n" + ANSWER, 1.0),
        (ANSWER, 0.0),
        (ANSWER + THINK, 0.0),
        (THINK + "hm" + ANSWER, 0.0),
        (CAPTION + THINK + ANSWER, 0.0),
        (THINK + "<answer><caption>x</caption></answer>", 1.0),  # a tag that is not of the format is text
    ],
)
def test_the_sections_of_r1(text, value):
    assert score("segments", text, options={"names": ["think", "answer"]}).value == value


def test_options_of_sections():
    vlm_r1 = {"names": ["think", "answer"], "boxes": ["answer"]}
    assert score("segments", THINK + '<answer>{"bbox": [1, 2, 3, 4]}</answer>', options=vlm_r1).value == 1.0
    assert score("segments", THINK + ANSWER, options=vlm_r1).value == 0.0
    empty = "<think>\n\n</think>" + ANSWER
    assert score("segments", empty, options={"names": ["think", "answer"]}).value == 0.0
    assert score("segments", empty, options={"names": ["think", "answer"], "empty": True}).value == 1.0
    for names in ([], ["a", "(a)"]):
        with pytest.raises(ValueError, match="must name one or more different tags"):
            score("segments", "", options={"names": names})


CALL = '<tool_call>{"name": "resize_image", "arguments": {"action": "resize"}}</tool_call>'


@every(
    ("said", "value", "strict"),
    [
        ([THINK + ANSWER], 1.0, 1.0),
        ([THINK + "so " + ANSWER], 1.0, 0.0),
        ([ANSWER], 0.0, 0.0),
        ([THINK + ANSWER + ANSWER], 0.0, 0.0),
        ([THINK + THINK + ANSWER], 0.0, 0.0),
        ([THINK + CALL], 0.0, 0.0),  # a call that led nowhere
        ([THINK + CALL + ANSWER], 0.0, 0.0),
        ([THINK + CALL, THINK + ANSWER], 1.0, 1.0),
        ([THINK + CALL + "!", THINK + ANSWER], 1.0, 0.0),
        ([CALL, THINK + ANSWER], 0.0, 0.0),
        ([THINK + CALL, ANSWER], 0.0, 0.0),
        ([THINK + CALL + ANSWER, THINK + ANSWER], 0.0, 0.0),
        ([THINK + ANSWER, THINK + ANSWER], 0.0, 0.0),
        ([THINK + CALL, THINK + CALL], 0.0, 0.0),
        ([f"<think>{CALL}</think>", THINK + ANSWER], 0.0, 0.0),
        ([""], 0.0, 0.0),
    ],
)
def test_visionthink_s_turns(said, value, strict):
    shown = [Turn("user", "<answer>not the policy's</answer>")]
    turns = [turn for text in said for turn in (*shown, Turn("assistant", text, trained=True))]
    found = score("turns", "\n".join(said), turns)
    assert found.value == value
    assert value == 1.0 or f" of {len(said)}: " in found.details["why"]
    assert score("turns", "\n".join(said), turns, {"strict": True}).value == strict
    if len(said) == 1:
        assert score("turns", said[0]).value == value  # a sample without turns is one turn


def test_a_legal_label():
    options = {"labels": ["walking", "lying down"]}
    text = "<think>t</think><class> Walking </class><extension>e</extension>"
    found = score("label", text, options=options)
    assert (found.value, found.details["label"]) == (1.0, "Walking")
    assert score("label", text.replace("Walking", "flying"), options=options).value == 0.0
    assert score("label", "walking", options=options).value == 0.0
    assert score("label", "<class></class>", options=options).value == 0.0
    assert score("label", "<class>walking, lying down</class>", options=options).value == 0.0
    assert score("label", text, choices=["walking"]).value == 1.0
    assert score("label", text).status == "na"


@every("blank", ["", " ", "\u200b", "\ufeff\n"])
def test_an_answer_without_a_sign_to_be_seen_is_blank(blank):
    text = f"<THINK><PLANNING>a</PLANNING></THINK><RESPONSE>{blank}</RESPONSE>"
    score = load_reward("tags.structured", {"sections": ["PLANNING"]}).call([Sample(Prompt("p", "q", {}), 0, text)])[0]
    assert (score.value, score.details["why"]) == (0.0, "<RESPONSE> is empty")
