"""How answers and golds are written by models and data sets that exist, and what each is worth: one reader for both."""

from __future__ import annotations

import sys
import time
from fractions import Fraction

import pytest
from every import every

from mmrl.media import Media, View
from mmrl.rewarding import load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

TEXT = ["exact.match"]
NUMBER = ["numeric.close", "math.verify"]
ALL = ["exact.match", *NUMBER]
LETTER = ["choice.letter"]
_LOADED: dict = {}
NUMERIC = sys.modules[load_reward("numeric.close").call.func.__module__]  # it imports the readers


def scores(name: str, cases: list[tuple[str, dict]]) -> list:
    if name not in _LOADED:  # math.verify starts a process
        pytest.importorskip("math_verify" if name == "math.verify" else "json")
        _LOADED[name] = load_reward(name)
    groups = [
        Group(prompt := Prompt(str(i), "q", record), 0, [Sample(prompt, 0, text)])
        for i, (text, record) in enumerate(cases)
    ]
    score_groups(groups, [_LOADED[name]])
    return [group.samples[0].scores[name] for group in groups]


MARKED = ["<answer> 3 </answer>", r"It is \boxed{3}.", "a\n#### 3", "The answer is 3."]

# rewards, completion, golds that it is right for, golds that it is wrong for
CASES = [
    # Rewards read the same place by default.
    (ALL, "<think>1 + 2</think><answer>3</answer>", ["3"], ["1", "2", "4"]),
    (NUMBER, "<think>1 + 2</think><answer>3/4</answer>", ["3/4", "0.75", r"\frac{3}{4}"], ["3", "4"]),
    # Golds are read as answers are.
    (ALL, "<think>t</think><answer>3</answer>", MARKED, []),
    (ALL, "<think>t</think><answer>4</answer>", [], MARKED),
    (LETTER, "<answer>B</answer>", ["<answer>B</answer>", r"\boxed{B}", "<think>A?</think>B"], ["<answer>A</answer>"]),
    # Thoughts are no answers, whoever opened them.
    (NUMBER, "<think>\\boxed{5}? no, the answer is not 5</think>\nIt is 7", ["7"], ["5"]),
    (NUMBER, "so \\boxed{5}? no</think>\nIt is 7", ["7"], ["5"]),
    (NUMBER, "<think>\\boxed{5}</think>", [], ["5"]),
    (NUMBER, "<think>the answer is 5 and I go on", [], ["5"]),
    (LETTER, "<think>(A)? no.</think> B", ["B"], ["A"]),
    (TEXT, "<think>the answer is dog</think>cat", ["cat"], ["dog"]),
    (TEXT, "<think><answer>dog</answer></think>", [], ["dog"]),
    # Marks of markdown, and a full stop.
    (TEXT, "**Answer:** cat", ["cat"], ["dog"]),
    (TEXT, "**Answer: cat**", ["cat"], ["dog"]),
    (TEXT, "**Answer**: cat", ["cat"], ["dog"]),
    (TEXT, "*Answer:* cat.", ["cat"], ["dog"]),
    (TEXT, "The answer is **cat**.", ["cat", "**cat**", "cat."], ["dog"]),
    (TEXT, "<answer>**cat**</answer>", ["cat"], ["dog"]),
    (TEXT, "<answer>`cat`</answer>", ["cat"], ["dog"]),
    (TEXT, "<answer>cat.</answer>", ["cat", "cat."], ["dog"]),
    (TEXT, "<answer>__init__</answer>", ["__init__"], ["init"]),
    (TEXT, "<answer>*args</answer>", ["*args"], ["args"]),
    (TEXT, "<answer>2*3*4</answer>", ["2*3*4"], ["234"]),
    (NUMBER, "**Answer: 5**", ["5"], ["4"]),
    (NUMBER, "<answer>5.</answer>", ["5"], ["4"]),
    (LETTER, "**Answer: D**", ["D"], ["A"]),
    # Numbers are read as a whole, not by their last digits.
    (NUMBER, "4", ["4"], [r"\frac{3}{4}"]),
    (NUMBER, "0.75", [r"\frac{3}{4}", r"\dfrac34", r"$\tfrac{3}{4}$"], []),
    (NUMBER, "5", [], ["10^{5}", "10^5"]),
    (NUMBER, r"\boxed{10^{5}}", ["100000", "10^5"], ["5", "10"]),
    (NUMBER, r"\boxed{2^{-3}}", ["0.125"], ["3", "2"]),
    (NUMBER, r"\boxed{1{,}234}", ["1234"], ["234", "1"]),
    (NUMBER, r"\boxed{-\frac{1}{2}}", ["-0.5"], ["2", "0.5"]),
    (["numeric.close"], r"\boxed{1\frac{1}{2}}", ["1.5"], ["2", "0.5"]),
    (["numeric.close"], r"\boxed{6.02 \times 10^{23}}", ["6.02e23"], ["23", "6.02"]),
    (["numeric.close"], r"\boxed{x^2}", [], ["2"]),
    (["numeric.close"], r"\boxed{2\sqrt{3}}", [], ["3", "2"]),
    (["numeric.close"], r"\boxed{\text{13}}", ["13"], ["3"]),
    (["numeric.close"], r"\boxed{\text{13 cm}^2}", ["13"], ["2"]),
    (["numeric.close"], r"\boxed{a_2 = 5}", ["5"], ["2"]),
    # Rounding knows scale.
    (["math.verify"], r"\boxed{9.1\times 10^{-31}}", [r"9.1\times 10^{-31}"], [r"1.6\times 10^{-19}", "0"]),
    (["math.verify"], "0.333333", ["1/3"], []),
    # Golds with signs that the library cannot read.
    (["math.verify"], "18.90", [r"\$18.90", "$18.90"], [r"\$18.91"]),
    (["math.verify"], "90", ["90°", r"90^\circ", r"90^{\circ}"], ["91°"]),
    (["math.verify"], "<answer>5€</answer>", ["5€", "5"], ["6€"]),
    # What is corrected does not count; what is listed does.
    (NUMBER, r"\boxed{3}, no: \boxed{5}", ["5"], ["3"]),
    (["numeric.close"], r"\boxed{3} or \boxed{5}", [], ["3", "5"]),
    (["numeric.close"], r"$\boxed{3}$, $\boxed{5}$", [], ["3", "5"]),
    (["numeric.close"], r"\boxed{3} and \boxed{3}", ["3"], ["5"]),
    (["math.verify"], r"\boxed{3} or \boxed{5}", [r"\{3, 5\}"], ["3", "5"]),
    # The first place that can be read, not the first that is there.
    (LETTER, "The gap is \\boxed{\\Delta E}.\n**Answer: D**", ["D"], ["E"]),
    (NUMBER[:1], r"With \boxed{x} as above, the answer is 5", ["5"], []),
    (LETTER, "<answer>A or B</answer>\nB", [], ["A", "B"]),  # it can be read, and names none
    # A reason after the choice.
    (LETTER, "The answer should be B, as A is too long.", ["B"], ["A"]),
    (LETTER, "The correct option is B, since A and C are wrong.", ["B"], ["A", "C"]),
    (LETTER, "The best choice is (C) because B is red.", ["C"], ["B"]),
    (LETTER, "The answer is A, B, C, D", [], ["A", "B", "C", "D"]),
    (LETTER, "The answer is A, as well as B", [], ["B"]),
]  # fmt: skip


@every(
    ("name", "text", "golds", "value"),
    [
        pytest.param(name, text, golds, value, id=f"{name}-{number}-{value:.0f}")
        for number, (names, text, right, wrong) in enumerate(CASES)
        for name in names
        for golds, value in ((right, 1.0), (wrong, 0.0))
        if golds
    ],
)
def test_what_a_completion_is_worth(name, text, golds, value):
    found = scores(name, [(text, {"answer": gold}) for gold in golds])
    told = {gold: (score.status, score.value, score.reason) for gold, score in zip(golds, found)}
    assert {(status, number) for status, number, _ in told.values()} == {("ok", value)}, told


@every("name", ALL)
def test_the_column_solution_gives_a_gold_where_it_marks_one(name):
    record = {"solution": "<answer> 3 </answer>"}
    right, wrong = scores(name, [(f"<think>t</think><answer>{n}</answer>", record) for n in (3, 4)])
    assert (right.value, wrong.value) == (1.0, 0.0)
    assert scores(name, [("3", {"solution": "We count 3 cats."})])[0].status == "na"
    assert scores(name, [("3", {"solution": "<answer>4</answer>", "answer": "3"})])[0].value == 1.0


@every("gold", [r"\sqrt{8}", r"\pi", r"x^2", r"2\pi"])
def test_a_gold_that_is_no_plain_number_is_named_before_training(gold):
    assert "holds no number" in load_reward("numeric.close").check_prompt(Prompt("p", "q", {"answer": gold}))


@every(
    "text",
    [
        "(100,200),(300,400)",
        "<|box_start|>(100,200),(300,400)<|box_end|>",
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>",
        "[[100, 200], [300, 400]]",
        '{"bbox_2d": [[100, 200], [300, 400]]}',
        "The cat is at (100, 200), (300, 400).",
        "<answer>[[100, 200], [300, 400]]</answer>",
        "<think>maybe [0, 0, 50, 50]</think>[100, 200, 300, 400]",
        "maybe [0, 0, 50, 50]</think>[100, 200, 300, 400]",
    ],
)
def test_each_family_s_boxes(text):
    media = Media(View(), (1000, 1000), (500, 500), "norm1000")
    prompt = Prompt("p", "q", {"boxes": [100, 200, 300, 400]})
    sample = Sample(prompt, 0, text, media=[media])
    assert load_reward("grounding.box_iou").call([sample])[0].value == pytest.approx(1.0)


def test_a_box_in_a_thought_is_none():
    sample = Sample(Prompt("p", "q", {"boxes": [0, 0, 5, 5]}), 0, "<think>[0, 0, 5, 5]</think>nowhere")
    sample.media = [Media(View(), (10, 10), (10, 10), "original")]
    assert load_reward("grounding.box_iou").call([sample])[0].value == 0.0


@every(("opened", "value"), [(None, 0.0), ("think", 1.0), ("answer", 0.0)])
def test_a_section_that_the_template_opens(opened, value):
    options = {"names": ["think", "answer"], "opened": opened}
    sample = Sample(Prompt("p", "q"), 0, "I count.</think><answer>9</answer>")
    assert load_reward("tags.segments", options).call([sample])[0].value == value
    turns = {"strict": True, "opened": opened}
    assert load_reward("tags.turns", turns).call([sample])[0].value == value


@every(
    ("text", "number"),
    [
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"\frac34", Fraction(3, 4)),
        (r"2\frac{1}{4}", Fraction(9, 4)),
        (r"\frac1{2}", Fraction(1, 2)),
        (r"\frac{1}2", Fraction(1, 2)),
        (r"\frac{\sqrt{3}}{2}", None),
        (r"\frac{\sqrt{\frac{x}{3}}}{2}", None),
        (r"\frac{\sqrt{3}}{2} = 5", Fraction(5)),
        ("12 cm2", Fraction(12)),
        ("12cm2", Fraction(12)),
        ("12cm", Fraction(12)),
        ("H2O", None),
        ("x12", None),
        ("x2 = 5", Fraction(5)),
        ("是5", Fraction(5)),
        ("2e3", Fraction(2000)),
        ("2π", None),
        ("2 π", None),
        ("π/4", None),
        ("√3", None),
        ("2√(3)", None),
        ("π = 3.14", Fraction(157, 50)),
        (r"-2\frac{1}{4}", Fraction(-9, 4)),
        (r"\frac{1.5}{2}", Fraction(3, 4)),
        (r"\frac{1}{0}", None),
        (r"\frac{x}{2}", None),
        (r"10^{-3}", Fraction(1, 1000)),
        (r"(-2)^{3}", None),  # read no half of it
        (r"2^{3^{4}}", None),
        (r"9^{999999999}", None),
        (r"1\,234", Fraction(1234)),
        (r"3.1 \cdot 10^{2}", Fraction(310)),
        (r"3.1 × 10^2", Fraction(310)),
        (r"\pi \approx 3.14", Fraction(157, 50)),
        (r"\pi/4", None),
        (r"\log_{2} 8 = 3", Fraction(3)),
    ],
)
def test_numbers_in_latex(text, number):
    assert NUMERIC.number_in(text) == number


@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "\\boxed{}",
        "{}",
        "**answer:",
        "9^",
        "9",
        "\\frac{9}",
        "<think>",
        "9 ",
        "`*",
        "\\a{",
        "= ",
        "=- ",
        "is - 9 ",
        "**9",
        "_9",
    ],
)
def test_a_very_long_completion_takes_no_time(piece):
    began = time.process_time()  # of this process: other work on the machine does not count
    for text in (
        piece * 50_000,
        piece + " " * 50_000 + "x",
        piece * 50_000 + "}" * 50_000,
        "\\boxed{" + piece * 50_000 + "}",
    ):
        for found in NUMERIC.readings(text):
            NUMERIC.number_in(found)
    assert time.process_time() - began < 10
