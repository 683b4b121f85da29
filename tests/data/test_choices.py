"""Options in another order: the answer goes with its option, whatever form the record has."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from mmrl.config import ConfigError
from mmrl.data.choices import LETTERS, ORDER, check_shuffled, in_order, options_of, reordered, rotations, shuffled
from mmrl.data.formats import normalised
from mmrl.rewarding.load import load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

LISTS = {
    "lines": "<image>What is it?\nA. a cat\nB. 3.5 dogs\nC. U.S. flag\nAnswer with the letter.",
    "brackets": "What is it? (A) a cat, (B) 3.5 dogs, (C) U.S. flag\nAnswer with the letter.",
    "squares": "What is it?\n[A] a cat\n[B] 3.5 dogs\n[C] U.S. flag",
    "colons": "What is it?\n  A: a cat\n  B: 3.5 dogs\n  C: U.S. flag\n",
    "one line": "What is it? A) a cat B) 3.5 dogs C) U.S. flag",
    "after an example": "As in: A. yes\nB. no\nWhat is it?\nA. a cat\nB. 3.5 dogs\nC. U.S. flag",
}
OPTIONS = ["a cat", "3.5 dogs", "U.S. flag"]


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_options_are_found_and_rotated(text):
    prompt = Prompt("q", text, {"answer": "B"})
    assert options_of(prompt) == OPTIONS
    asked = rotations(prompt)
    assert asked[0] is prompt
    assert [options_of(p) for p in asked] == [OPTIONS, OPTIONS[1:] + OPTIONS[:1], OPTIONS[2:] + OPTIONS[:2]]
    assert [p.record["answer"] for p in asked] == ["B", "A", "C"]
    assert len({p.id for p in asked}) == 3
    # Nothing else of the text has changed: without the options it is the same.
    bare = [p.text for p in asked]
    for option in OPTIONS:
        bare = [t[: t.rindex(option)] + "?" + t[t.rindex(option) + len(option) :] for t in bare]
    assert len(set(bare)) == 1


@pytest.mark.parametrize(
    "text",
    ["What is it?", "A. Nothing else", "Plan A. Then plan C.", "B. two\nC. three", "The letters A and B are shown."],
)
def test_what_is_no_list_stays(text):
    prompt = Prompt("q", text, {"answer": "A"})
    assert options_of(prompt) is None
    assert rotations(prompt) == [prompt]
    assert shuffled(prompt, 1) is prompt


@pytest.mark.parametrize("last", ["None of the above", "All of these", "A and B", "Both A and C"])
def test_options_that_speak_of_others_keep_their_places(last):
    prompt = Prompt("q", f"Which?\nA. one\nB. two\nC. {last}", {"answer": "C"})
    assert options_of(prompt) == ["one", "two", last]
    assert rotations(prompt) == [prompt]
    assert shuffled(prompt, 3) is prompt


def test_above_and_below_are_places_too():
    prompt = Prompt("q", "Where is the cat?\nA. above the table\nB. below it", {"answer": "A"})
    assert len(rotations(prompt)) == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("C", "A"),
        ("(c)", "(a)"),
        ("C.", "A."),
        ("C. 9", "A. 9"),
        ("C 9", "A 9"),
        ("9", "9"),
        ("Cat", "Cat"),
        ("C major", "C major"),
        (["C", "C 9", "nine"], ["A", "A 9", "nine"]),
        (9, 9),
    ],
)
def test_letters_of_the_answer_move_and_texts_stay(before, after):
    record = {"answer": before, "possible_answers": before, "choices": ["5", "3", "9", "1"]}
    moved = reordered(Prompt("q", "Which number? A 5 B 3 C 9 D 1", record, "root"), [2, 0, 1, 3], "other")
    assert moved.text == "Which number? A 9 B 5 C 3 D 1"
    assert moved.record["answer"] == moved.record["possible_answers"] == after
    assert moved.record["choices"] == ["9", "5", "3", "1"]
    assert (moved.id, moved.root) == ("other", "root")
    assert record["choices"] == ["5", "3", "9", "1"]  # the record that was read is as it was


@pytest.mark.parametrize("golds", [{"answer": 2}, {"possible_answers": [9, 0]}, {"solution": 4}])
def test_a_number_of_an_option_cannot_follow_it_and_is_refused(golds):
    """Nobody says whether from 0 or from 1."""
    record = {"choices": ["5", "3", "9", "1"], **golds}
    prompt = Prompt("q", "Which number? A 5 B 3 C 9 D 1", record)
    with pytest.raises(ValueError, match=r"prompt 'q': `\w+` is \d, the number of an option.*format: aqa"):
        reordered(prompt, [2, 0, 1, 3], "other")
    with pytest.raises(ConfigError, match=r"data\.x: prompt 'q': "):
        check_shuffled([prompt], "data.x")


@pytest.mark.parametrize("right", range(4))
def test_the_numbers_of_aqa_follow_their_options(right):
    """Read from 0 as the text, so that in each order the gold is the option that it was."""
    options = ["7", "a dog", "B", "rain"]
    record = {"question": "What is heard?", "choices": options, "answer": right, "audio_path": "a.wav"}
    made = normalised(record, "aqa")
    prompt = Prompt("q", made["prompt"], made)
    for order in permutations(range(4)):
        moved = reordered(prompt, order, "r")
        assert moved.record["answer"] == options[right]
        shown = moved.text.splitlines()[1:]
        assert shown == [f"{letter}. {options[i]}" for letter, i in zip("ABCD", order)]


def test_an_option_that_is_a_letter_is_a_text():
    prompt = Prompt("q", "Which letter? (A) B (B) A", {"answer": "B"})
    assert reordered(prompt, [1, 0], "r").record["answer"] == "B"


def test_messages_are_what_is_shown():
    content = [{"type": "image"}, {"type": "text", "text": "Which?\nA. one\nB. two"}]
    record = {"messages": [{"role": "user", "content": content}], "answer": "A", "choices": ["A. one", "B. two"]}
    prompt = Prompt("q", "Which?\nA. one\nB. two", record)
    moved = reordered(prompt, [1, 0], "r")
    assert moved.record["messages"][0]["content"][1]["text"] == "Which?\nA. two\nB. one"
    assert moved.record["messages"][0]["content"][0] == {"type": "image"}
    assert moved.record["choices"] == ["A. two", "B. one"]
    assert moved.record["answer"] == "B"


def test_choices_by_letter():
    record = {"choices": {"A": "one", "B": "two", "C": "three", "D": None}, "answer": "C"}
    moved = reordered(Prompt("q", "Which?\nA. one\nB. two\nC. three", record), [2, 1, 0], "r")
    assert moved.text == "Which?\nA. three\nB. two\nC. one"
    assert moved.record["choices"] == {"A": "three", "B": "two", "C": "one", "D": None}
    assert moved.record["answer"] == "A"


def test_an_order_that_is_none_is_refused():
    with pytest.raises(ValueError, match="order"):
        reordered(Prompt("q", "A. one\nB. two"), [0, 0], "r")


FORMS = ["{letter}", "{letter}. {text}", "{text}", "<answer>{letter}</answer>", "<answer> ({letter}) </answer>"]
FORMS += ["\\boxed{{{letter}}}", "The answer is {letter}.", "**Answer: {letter}**", "So it is that.\n#### {letter}"]


@pytest.mark.parametrize("form", FORMS)
def test_a_policy_that_knows_is_right_in_every_order_and_one_that_says_a_gains_nothing(form):
    """The shipped reward is the judge: what it finds right before, it finds right after."""
    reward = load_reward("choice.letter")
    rng = random.Random(0)
    for number in range(40):
        options = rng.sample(["cat", "a dog", "3", "B flat", "two words", "U.S."], rng.randint(2, 5))
        gold = options[0]  # the right one is A in every record
        text = "Which?\n" + "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))
        record = {"answer": form.format(letter="A", text=gold), "choices": options}
        knows, says_a = [], []
        for asked in rotations(Prompt(str(number), text, record)):
            letter = LETTERS[options_of(asked).index(gold)]
            samples = [Sample(asked, 0, f"The answer is {letter}"), Sample(asked, 1, "The answer is A")]
            score_groups([Group(asked, 0, samples)], [reward])
            knows.append(samples[0].scores[reward.name].value)
            says_a.append(samples[1].scores[reward.name].value)
        assert knows == [1] * len(options)
        assert sum(says_a) == 1


def test_a_worked_solution_marks_the_letter_of_its_new_place():
    solution = "A is small and C is large.\nSo it is B, for A is not.\n\\boxed{\\text{B}}"
    prompt = Prompt("q", "Which?\nA. one\nB. two\nC. three", {"solution": solution})
    moved = reordered(prompt, [1, 2, 0], "r")
    assert moved.record["solution"] == solution.replace("{B}", "{A}")
    sample = Sample(moved, 0, "The answer is A")
    score_groups([Group(moved, 0, [sample])], [load_reward("choice.letter")])
    assert sample.scores["choice.letter"].value == 1


def test_a_shuffled_order_is_drawn_from_seed_and_id():
    prompts = [Prompt(str(i), "Which?\nA. one\nB. two\nC. three\nD. four", {"answer": "A"}) for i in range(400)]
    first = [shuffled(p, 5) for p in prompts]
    assert [p.text for p in first] == [shuffled(p, 5).text for p in prompts]
    assert [p.id for p in first] == [p.id for p in prompts]
    assert [p.text for p in first] != [shuffled(p, 6).text for p in prompts]
    for letter in "ABCD":  # 400 draws of a quarter: a standard deviation of 8.7
        assert abs(sum(p.record["answer"] == letter for p in first) - 100) < 35


# -------------------------------------------------------------------- options without letters

BARE = {
    "Python's list": (
        "Is it a dog or a cat? Choose from: ['a dog', 'a cat', \"it's a cow\"]. Answer.",
        '"it\'s a cow"',
    ),
    "a sentence": ("Which is it: a dog, a cat or it's a cow?", "it's a cow"),
    "lines": ("Which?\n- a dog\n- a cat\n- it's a cow\n", "it's a cow"),
    "bars": ("Which? a dog | a cat | it's a cow", "it's a cow"),
}


@pytest.mark.parametrize("form", BARE)
def test_options_that_stand_one_after_another_without_letters_move(form):
    """R1-AQA's prompts show Python's list of them. What is asked before is not touched, were it "a dog or a cat"."""
    text, last = BARE[form]
    record = {"choices": ["a dog", "a cat", "it's a cow"], "answer": "a cat"}
    prompt = Prompt("q", text, record)
    assert options_of(prompt) == record["choices"]
    moved = reordered(prompt, [2, 1, 0], "q")
    assert options_of(moved) == moved.record["choices"] == record["choices"][::-1]
    assert moved.record["answer"] == "a cat"
    assert moved.text.index(last) < moved.text.rindex("a cat") < moved.text.rindex("a dog")
    assert reordered(moved, [2, 1, 0], "q").text == text


@pytest.mark.parametrize("text", ["a dog and then a cat and it's a cow", "hotdog, a cat, it's a cow", "a dog, a cat"])
def test_words_of_options_that_are_no_list_of_them_stay(text):
    assert options_of(Prompt("q", text, {"choices": ["a dog", "a cat", "it's a cow"]})) is None


# -------------------------------------------------------------------- the order is told


def test_an_order_is_told_from_the_source_on_and_can_be_made_again():
    """Moved twice, it is still of the record that was read; from it the prompt is what it was."""
    prompt = Prompt("q", "Which? A 5 B 3 C 9 D 1", {"answer": "C", "choices": ["5", "3", "9", "1"]})
    once = reordered(prompt, [2, 0, 1, 3], "q")
    twice = reordered(once, [3, 0, 1, 2], "q")
    assert (once.record[ORDER], twice.record[ORDER]) == ([2, 0, 1, 3], [3, 2, 0, 1])
    assert twice.text == "Which? A 1 B 9 C 5 D 3" and twice.record["answer"] == "B"
    for start in (prompt, once, twice):
        assert in_order(start, twice.record[ORDER]) == twice
    assert in_order(prompt, None) is prompt


def test_nothing_to_move_is_refused_and_what_is_not_shown_is_told():
    bare = Prompt("q", "Which?", {"choices": ["a dog", "a cat"], "answer": "a cat"})
    fine = Prompt("r", "Which: a dog or a cat?", bare.record)
    with (
        pytest.warns(
            UserWarning, match=r"data\.x: 1 records have `choices` that are not found in the prompt, first 'q'"
        ),
        pytest.raises(ConfigError, match=r"data\.x: none of 1 prompts shows options that can be moved, first 'q'"),
    ):
        check_shuffled([bare], "data.x")
    with pytest.warns(UserWarning, match="1 records"):
        check_shuffled([bare, fine], "data.x")
    check_shuffled([], "data.x")
