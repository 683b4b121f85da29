"""Letters of multiple choice, from a hand table of ways to say them."""

from __future__ import annotations

from every import every

from mmrl.rewarding import load_reward
from mmrl.types import Prompt, Sample


def score(text: str, answer: object, **options):
    return load_reward("choice.letter", options).call([Sample(Prompt("p", "q", {"answer": answer}), 0, text)])[0]


@every(
    ("text", "chosen"),
    [
        ("B", "B"),
        ("b", "B"),
        ("**B**", "B"),
        ("(b) Paris", "B"),
        ("B. Paris", "B"),
        ("b) Paris", "B"),
        (r"\boxed{B}", "B"),
        ("<answer>B</answer> not A", "B"),
        ("The answer is (B).", "B"),
        ("Answer: B", "B"),
        ("A long thought.\nI think option B is right", "B"),
        ("A is right", "A"),
        ("A dog barks", ""),
        ("A or B", ""),
        (r"The answer is B. $\frac{1}{2}$", "B"),
        (r"\boxed{\textbf{(B)} \frac{1}{2}}", "B"),
        (r"\boxed{\text{B: } \frac{1}{2}}", "B"),
        (r"The answer is (B) $\sqrt{2}$.", "B"),
        (r"\boxed{B) -\pi}", "B"),
        (r"\boxed{(A) \cap (B)}", ""),
        (r"\boxed{(A) \cdot 2}", ""),
        (r"\boxed{B \cdot 2}", ""),
        (r"\boxed{f(B) \sqrt{2}}", ""),
        ("选B", "B"),
        ("故选B", "B"),
        ("故选：B。", "B"),
        ("答案是B。", "B"),
        ("答案为（B）", "B"),
        ("B选项", "B"),
        ("选A和B", ""),
        ("不选B", ""),
        ("答案不是B。", ""),
        ("ÉB", ""),
        ("The answer is not B.", ""),
        ("Not B", ""),
        ("It is not (B)", ""),
        ("The answer isn't option B", ""),
        ("It cannot be B", ""),
        ("B, not A", "B"),
        ("not A but B", "B"),
        ("(A) and (B)", ""),
        ("bad", ""),
        ("", ""),
        ("K", ""),
    ],
)
def test_the_letter_that_is_chosen(text, chosen):
    found = score(text, "B")
    assert found.details["chosen"] == chosen
    assert (found.status, found.value) == ("ok", float(chosen == "B"))


@every("answer", ["B", "b", "(B)", "B. Paris", ["C", "B"], r"B. \frac{1}{2}", r"(B) $\sqrt{2}$", "选B"])
def test_ways_to_write_the_answer(answer):
    assert score("B", answer).value == 1.0
    assert score("A", answer).value == 0.0


def test_an_answer_that_is_no_letter_is_invalid_and_told_before_training():
    found = score("B", "Paris")
    assert (found.status, found.value) == ("invalid", None)
    assert "['Paris'] is none of the letters" in found.reason
    assert score("B", "E", letters="ABCD").status == "invalid"
    assert score("B", None).status == "na"
    check = load_reward("choice.letter").check_prompt
    assert "none of the letters" in check(Prompt("p", "q", {"answer": "Paris"}))
    assert "lacks a non-empty `answer`" in check(Prompt("p", "q", {}))
    assert check(Prompt("p", "q", {"answer": "K"})) is None


def test_letters_outside_the_choice_do_not_count():
    assert score("E", "B", letters="ABCD").details["chosen"] == ""
    assert score("Z", "Z", letters="XYZ").value == 1.0


def with_choices(text: str, answer: object, choices: object):
    record = {"answer": answer, "choices": choices}
    return load_reward("choice.letter").call([Sample(Prompt("p", "q", record), 0, text)])[0]


@every(
    ("text", "answer", "choices", "value"),
    [
        (r"\boxed{C}", "Paris", ["Rome", "Oslo", "Paris"], 1.0),  # the answer as a text, wherever it was shuffled to
        (r"\boxed{A}", "Paris", ["Rome", "Oslo", "Paris"], 0.0),
        (r"\boxed{\text{A}}", "Paris", ["Paris", "Rome"], 1.0),
        ("Paris", "Paris", ["Paris", "Rome"], 1.0),
        ("paris.", "A", ["Paris", "Rome"], 1.0),
        ("<answer>The answer is Rome</answer>", "B", ["Paris", "Rome"], 0.0),  # a sentence is no option
        ("(B) Rome", "Rome", ["(A) Paris", "(B) Rome"], 1.0),
        ("Rome", "B", ["(A) Paris", "(B) Rome"], 1.0),
        ("B", "B", ["C", "A", "B"], 0.0),  # letters as options: the answer is the text of the third
        ("C", "B", ["C", "A", "B"], 1.0),
        ("4", 4, [3, 4], 1.0),
        ("yes", "yes", ["yes", "Yes"], 0.0),  # the text of two options chooses none
        ("Paris or Rome", "A", ["Paris", "Rome"], 0.0),
        ("A B", "A", ["Paris", "Rome"], 0.0),
        (r"\boxed{AB}", "A", ["Paris", "Rome"], 0.0),
        ("A, B, C, D", "A", None, 0.0),
        (r"\boxed{}", "A", ["Paris", "Rome"], 0.0),
        ("", "A", ["Paris", "Rome"], 0.0),
        ("<answer>A</answer>" * 3 + "<answer>B</answer>", "A", None, 0.0),  # the last counts
    ],
)
def test_options_that_the_record_lists(text, answer, choices, value):
    found = with_choices(text, answer, choices)
    if answer == "yes":
        assert found.status == "invalid"
    else:
        assert (found.status, found.value) == ("ok", value)


def test_an_answer_that_is_no_option_is_told():
    assert "nor of `choices`" in with_choices("A", "Madrid", ["Paris", "Rome"]).reason
    check = load_reward("choice.letter").check_prompt
    assert check(Prompt("p", "q", {"answer": "Rome", "choices": ["Paris", "Rome"]})) is None
    assert "nor of `choices`" in check(Prompt("p", "q", {"answer": "Madrid", "choices": ["Paris", "Rome"]}))
