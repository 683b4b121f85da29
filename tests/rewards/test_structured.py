"""Structured answers: each section once, in order, with words in it; and the texts of options beside them."""

from __future__ import annotations

import re

import pytest
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.rewarding import load_reward
from mmrl.sections import SECTIONS, structured
from mmrl.token_sets import accepts
from mmrl.types import Prompt, Sample

PARTS = {"PLANNING": "listen", "CAPTION": "a bell", "REASONING": "bells ring", "SUMMARY": "so"}
WHOLE = structured(PARTS, "bell")


def score(text: str, name: str = "tags.structured", options=None, **record):
    return load_reward(name, options).call([Sample(Prompt("p", "q", record), 0, text)])[0]


def graded(text: str, **options) -> float:
    return score(text, options={"graded": True, **options}).value


def test_the_text_that_is_wanted():
    """Spelled out once: what warm-up records are written as, and what the reward wants, is this."""
    assert WHOLE == (
        "<THINK>\n<PLANNING>listen</PLANNING>\n<CAPTION>a bell</CAPTION>\n<REASONING>bells ring</REASONING>\n"
        "<SUMMARY>so</SUMMARY>\n</THINK>\n<RESPONSE>bell</RESPONSE>"
    )
    assert score(WHOLE).value == graded(WHOLE) == 1.0


# Without what has no width: an answer of it alone is blank, though `strip` leaves it.
words = st.text(st.characters(blacklist_characters="<>", blacklist_categories=["Cs", "Cc", "Cf"]), max_size=12)


@settings(deadline=None)
@given(st.lists(words, min_size=4, max_size=4), words, st.sampled_from([None, "think", "THINK"]))
def test_what_is_written_is_right_exactly_where_no_part_is_empty(said, answer, inside):
    text = structured(dict(zip(SECTIONS, said)), answer, inside=inside, name="answer")
    full = all(any(map(str.isalnum, part)) for part in said) and bool(answer.strip())
    assert score(text, options={"inside": inside, "answer": "answer"}).value == full


def test_a_completion_that_is_cut_off_anywhere_has_no_form():
    """Kin gave 64 tokens to fifty words and their tags: what is cut is wrong, and more of it never earns less."""
    paid = [graded(WHOLE[:length]) for length in range(len(WHOLE))]
    assert {score(WHOLE[:length]).value for length in range(len(WHOLE))} == {0.0}
    assert paid == sorted(paid) and sorted(set(paid)) == [0.0, 0.2, 0.4, 0.6, 0.8]


SWAPPED = WHOLE.replace("PLANNING", "X").replace("CAPTION", "PLANNING").replace("X", "CAPTION")
REVERSED = structured(PARTS, "bell", sections=SECTIONS[::-1])


@every(
    ("text", "parts", "why"),
    [
        (WHOLE.replace("<CAPTION>a bell</CAPTION>\n", ""), 4, "<CAPTION> is opened 0 times"),
        (WHOLE.replace("a bell", " "), 4, "<CAPTION> is empty"),
        (WHOLE.replace("a bell", "-"), 4, "<CAPTION> is empty"),
        (WHOLE.replace("<SUMMARY>so", "<SUMMARY><SUMMARY>so"), 4, "<SUMMARY> is opened 2 times"),
        (WHOLE.replace("<THINK>", "").replace("</THINK>", ""), 4, "<THINK> is opened 0 times"),
        (WHOLE + "<RESPONSE>dog</RESPONSE>", 4, "<RESPONSE> is opened 2 times"),
        ("Sure. " + WHOLE, 4, "text outside the tags: 'Sure.'"),
        (WHOLE.replace("</SUMMARY>", "</SUMMARY> hm"), 4, "text outside the tags: 'hm'"),
        (WHOLE + "!", 4, "text outside the tags: '!'"),
        (WHOLE.replace("bell</RESPONSE>", "</RESPONSE>"), 4, "<RESPONSE> is empty"),
        (WHOLE.lower(), 0, "is opened 0 times"),
        (SWAPPED, 4, "another order"),
        (REVERSED, 2, "another order"),
        (WHOLE.replace("a bell", "<REASONING>x</REASONING>"), 3, "<REASONING> is opened 2 times"),
        ("<RESPONSE>bell</RESPONSE>", 1, "<THINK> is opened 0 times"),
        ("bell", 0, "<THINK> is opened 0 times"),
        ("", 0, "<THINK> is opened 0 times"),
        (WHOLE * 2, 0, "is opened 2 times"),
    ],
)
def test_faults_by_hand(text, parts, why):
    found = score(text)
    assert found.value == 0.0 and why in found.details["why"]
    assert graded(text) == pytest.approx(parts / 5)


def test_names_are_the_config_s():
    two = {"sections": ["see", "say"], "inside": None, "answer": "answer"}
    assert score("<see>a</see><say>b</say><answer>?</answer>", options=two).value == 1.0
    assert graded("<say>b</say><answer>c</answer>", **two) == pytest.approx(2 / 3)
    assert score(WHOLE.removeprefix("<THINK>"), options={"opened": "THINK"}).value == 1.0
    for wrong in ({"sections": []}, {"sections": ["a", "a"]}, {"inside": "RESPONSE"}, {"answer": "<x>"}):
        with pytest.raises(ValueError, match="different names of one word"):
            score("", options=wrong)


# -------------------------------------------------------------------- the option's text

ANIMALS = {"choices": ["A dog", "A cat", "Two dogs", "A hot-dog stand"], "answer": "A dog"}


@every(
    ("said", "plain", "exact", "tokens"),
    [
        ("A dog", 1, 1, 1),
        ("a DOG.", 1, 0, 1),  # kin's equality is of case and punctuation; the benchmark's rule is not
        ("dog a", 0, 0, 1),  # sets of words have no order
        ("A dog barks", 0, 0, 1),  # nor are words of no option looked at
        ("dog", 0, 0, 0),
        ("A cat", 0, 0, 0),
        ("A dog and a cat", 0, 0, 0),
        ("A", 0, 0, 0),  # a letter is no text
        ("A. a dog", 1, 0, 1),  # as it is shown
        ("(a) A dog", 1, 0, 1),
        ("B. A dog", 0, 0, 1),  # another one's letter
        ("B. A cat", 0, 0, 0),
        ("A dog, two dogs, a cat", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_an_answer_is_the_text_of_an_option(said, plain, exact, tokens):
    text = f"<answer>{said}</answer>"
    found = [score(text, "choice.text", {"match": m}, **ANIMALS).value for m in ("plain", "exact", "tokens")]
    assert found == [plain, exact, tokens]


@every(
    ("record", "value"),
    [
        ({"choices": ["3 beats", "3 dogs"], "answer": "3 beats"}, 0),  # math_verify finds 3 in both
        ({"choices": ["x = 3 beats", "3 dogs"], "answer": "x = 3 beats"}, 0),
        ({"choices": ["3 dogs", "3 dogs"], "answer": "3 dogs"}, 1),  # 27 items of MMAU say an option twice
        ({"choices": ["(A) 2 dogs", "(B) 3 dogs"], "answer": "B"}, 1),
        ({"choices": {"A": "2 dogs", "B": "3 dogs"}, "answer": "(b)"}, 1),
        ({"answer": "3 dogs"}, 1),
        ({"choices": ["2 dogs", "3 dogs"], "answer": "4 dogs"}, None),
        ({"choices": ["2 dogs"], "answer": "B"}, None),
        ({"choices": ["3 dogs"]}, None),
    ],
)
def test_the_right_text_of_a_record(record, value):
    found = score("<answer>3 dogs</answer>", "choice.text", **record)
    assert found.value == value
    assert (load_reward("choice.text").check_prompt(Prompt("p", "q", record)) is None) == (value is not None)


def test_letters_alone_and_texts_alone():
    """What may be said is the config's: both, letters, or texts."""
    record = {"choices": ["dog", "cat"], "answer": "cat"}
    ways = {"both": ("choice.letter", {}), "letter": ("choice.letter", {"texts": False}), "text": ("choice.text", {})}
    paid = {
        way: [score(said, name, given, **record).value for said in ("B", "cat")] for way, (name, given) in ways.items()
    }
    assert paid == {"both": [1, 1], "letter": [1, 0], "text": [0, 1]}


@every(
    ("said", "gold", "options", "right"),
    [
        ("gold", "gold", ["gold", "red"], True),
        ("(B) gold", "gold", ["gold", "red"], True),
        ("(B) gold", "gold", ["gold", "plan B"], False),  # a letter that is a word of another option
        ("The answer is gold.", "gold", ["gold", "the sea"], False),
        ("ninety-one", "ninety", ["ninety", "ten"], True),  # passes, as in the published scorer
        ("fire hydrant truck", "fire truck", ["fire truck", "fire hydrant"], False),
        ("", "gold", ["gold"], False),
        ("?!", "?!", ["?!"], False),  # no words at all
    ],
)
def test_mmau_s_rule(said, gold, options, right):
    assert accepts(said, gold, options) is right


# -------------------------------------------------------------------- what the patterns of kin let through

KIN = {
    "r1-aqa": (r"<answer>.*?</answer>", ["answer"], "<answer>dog</answer> or <answer>cat</answer>"),
    "ke-omni-r": (
        r"<think>.*?</think>\s*<answer>.*?</answer>",
        ["think", "answer"],
        "<think>a</think> no, <think>b</think><answer>cat</answer> hm <answer></answer>",
    ),
}


@pytest.mark.parametrize("kin", KIN)
def test_what_a_lazy_pattern_matches_is_no_form(kin):
    """`.*?` runs on over ends of tags where the whole text has to match, and so pays for more than one answer."""
    pattern, names, text = KIN[kin]
    assert re.fullmatch(pattern, text, re.DOTALL)
    assert score(text, "tags.segments", {"names": names}).value == 0.0


def test_of_several_answers_the_last_counts_where_kin_take_the_first():
    text = "<answer>dog</answer> wait, no: <answer>cat</answer>"
    assert [score(text, "choice.text", choices=["dog", "cat"], answer=a).value for a in ("dog", "cat")] == [0, 1]
