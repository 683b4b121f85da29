"""Closeness of numbers: exact arithmetic, tolerances from a hand table."""

from __future__ import annotations

import pytest
from every import every

from mmrl.rewarding import load_reward
from mmrl.types import Prompt, Sample


def score(text: str, answer: object, **options):
    return load_reward("numeric.close", options).call([Sample(Prompt("p", "q", {"answer": answer}), 0, text)])[0]


@every(
    ("text", "answer", "options", "value"),
    [
        ("The answer is 1,234.50 m", "1234.5", {}, 1.0),
        ("about 0.3333", "1/3", {}, 0.0),
        ("about 0.3333", "1/3", {"atol": 1e-4}, 1.0),
        (r"\boxed{50\%} of 3", "0.5", {}, 1.0),
        ("50%", 0.5, {}, 1.0),
        ("-7", 7, {}, 0.0),
        ("105", 100, {"rtol": 0.05}, 1.0),
        ("105.01", 100, {"rtol": 0.05}, 0.0),
        ("-105", -100, {"rtol": 0.05}, 1.0),
        ("0.3", "3/10", {"atol": 0.0}, 1.0),
        ("x=5", [4, 5], {}, 1.0),
        ("no number", 5, {}, 0.0),
        ("3 of 9\n#5", 5, {"extract": "after:#"}, 1.0),
        ("5", "a worked solution of 2 steps\n#### 5", {}, 1.0),
    ],
)
def test_close(text, answer, options, value):
    found = score(text, answer, **options)
    assert (found.status, found.value) == ("ok", value)


@every("mark", ["**", "__", "***", "_", "*"])
@every(
    "text",
    [
        "The answer is {}18{} apples.",
        "So the total is {}18 dollars{}.",
        "Janet makes {}18{} per day",
        "{}18{}",
        "{}18{}!",
    ],
)
def test_emphasis_is_no_power(text, mark):
    assert score(text.format(mark, mark), 18).value == 1.0


@every(("text", "number"), [("2**3", 8), ("2 ** 3", 8), ("x**3 = **5**", 5)])
def test_a_power_has_its_base_before_it(text, number):
    assert score(text, number).value == 1.0


@every("text", ["x**3", "(x)**3", "a_1", "x ** 3"])
def test_a_power_of_a_name_is_no_number(text):
    assert score(text, 3).details["number"] == ""


SIGNS = ["-", "\N{MINUS SIGN}", "\N{EN DASH}"]


@every("sign", SIGNS)
@every(
    "text",
    [
        "{}3",
        "{}$3",
        "{}€3",
        "$ {}3 $",
        r"\boxed{{{}3}}",
        r"\boxed{{{}\$3}}",
        r"\boxed{{{} 3}}",
        r"\boxed{{{}{{3}}}}",
        r"\boxed{{{} \frac{{6}}{{2}}}}",
        "The answer is {} 3",
        "The answer is {}$3.",
        "x = {} 3",
        "We lose money: {}$3 a day",
    ],
)
def test_a_sign_stays(text, sign):
    text = text.format(sign)
    assert [score(text, gold).value for gold in (-3, 3)] == [1.0, 0.0]


@every("sign", SIGNS)
@every("text", ["2 {} 3", "1{}3", "$1{}$3", r"\boxed{{1{}{{3}}}}", "x {} 3", "(1) {} 3"])
def test_a_difference_and_a_range_are_neither_of_their_numbers(text, sign):
    assert [score(text.format(sign), gold).value for gold in (-3, 3)] == [0.0, 0.0]


@every("sign", SIGNS)
def test_a_list_has_no_sign(sign):
    assert score(f"{sign} 3 apples", 3).value == 1.0


@every("text", ["5%", r"\boxed{5\%}", r"$5\%$", "**5%**", r"\boxed{\text{5\%}}"])
def test_a_percentage_is_one_however_it_is_written(text):
    assert [score(text, gold).value for gold in ("5%", r"5\%", "0.05", "5")] == [1.0, 1.0, 1.0, 0.0]


def test_an_answer_without_a_number_is_invalid_and_told_before_training():
    found = score("5", "blue")
    assert (found.status, found.value) == ("invalid", None)
    assert "'p'" in found.reason
    assert "'blue' holds no number" in found.reason
    check = load_reward("numeric.close").check_prompt
    assert "holds no number" in check(Prompt("p", "q", {"answer": "blue"}))
    assert "lacks a non-empty `answer`" in check(Prompt("p", "q", {}))
    assert check(Prompt("p", "q", {"answer": "5 apples"})) is None
    assert score("5", None).status == "na"


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="atol=-1"):
        score("5", 5, atol=-1)


@every(
    ("written", "number"),
    [
        *((text, "0.75") for text in (r"\frac{3}{4}", "3/4", "¾", "3 / 4", r"\frac34")),
        *((text, "1.5") for text in (r"1\frac{1}{2}", "1 1/2", "1½", "1,5", "1{,}5")),
        *(
            (text, "100000")
            for text in ("10^{5}", "10^5", "10⁵", "1e5", "1E+5", r"1.0\times 10^{5}", "100k", "1 x 10^5")
        ),
        *((text, "0.05") for text in ("5%", r"5\%", "5 percent", "5 %", "５％")),
        *((text, "3000000") for text in ("3 million", "3M", "3 Mio.", "300万", "3 000 000", "3.000.000", "3'000'000")),
        *((text, "1234") for text in ("1,234", "1{,}234", r"1\,234", "1 234", "1\u202f234", "1'234", "1,234.0")),
        *((text, "1234.5") for text in ("1.234,5", "1,234.5", "1 234,5", "1234.5")),
        *((text, "8") for text in ("7 + 1 = 8", "8 = 7 + 1", "x = 8", "**8**", "$8$", "8 cm", "eight", "5 + 3 = 8 cm")),
        ("1,23,456", "123456"),
        (r"0.1\overline{6}", "1/6"),
    ],
)
def test_what_is_read_as_a_number(written, number):
    assert score(written, number, atol=0.0).value == 1.0
    assert score("77", written, atol=0.0).value == 0.0  # as a gold it is read, too


@every(
    "written",
    [
        *("3 or 5", "(3, 5)", "1,2,3", "5 ± 1", "3-5", "x > 5", "not 5", "2x + 3", r"2\sqrt{3}", "10:30", "f(3)"),
        *("±3", r"\{3, 5\}", "3 to 5", "1/2/3", "2024-05-03", "at most 5", r"\log_2 5", "sin(5)", "5 ft 3", "3x"),
        *(r"\begin{pmatrix} 3 \\ 5 \end{pmatrix}", "[3, 5)", "3 * 5", "3^x", "-(-5)", "1.2.3", "3, 5", "x = 3, y = 5"),
    ],
)
def test_what_is_no_number_is_worth_nothing_and_named_as_a_gold(written):
    assert [score(written, number).value for number in (3, 5, 1, 2, 15, 30, -5, 8)] == [0.0] * 8
    assert "holds no number" in load_reward("numeric.close").check_prompt(Prompt("p", "q", {"answer": written}))


@every("before", ["9", "9 ", "or ", "(", "=", "\\frac{", "**"])
def test_only_the_end_of_a_long_answer_is_read(before):
    """The work is bounded by characters, 4000, whatever stands before them."""
    assert score(f"<answer>{before * 50_000}{' ' * 4000}= 5</answer>", 5).value == 1.0
