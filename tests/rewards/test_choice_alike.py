"""Options that are nearly alike, and records that hold them in every form: the right one is right wherever it goes."""

from __future__ import annotations

import pytest
from every import every

from mmrl.data.choices import options_of, reordered, rotations
from mmrl.rewarding import load_reward
from mmrl.types import Prompt, Sample

ALPHABET = "ABCDEFGHIJKL"
NOTES = ["C", "C#", "D", "D#"]


def score(reward: str, text: str, choices: object, answer: object, **options):
    prompt = Prompt("p", "q", {"choices": choices, "answer": answer})
    return load_reward(reward, options).call([Sample(prompt, 0, text)])[0]


@every(
    ("said", "choices", "answer", "right"),
    [
        # Signs that punctuation is not compared by, and that tell options apart.
        ("C#", NOTES, "C", 0.0),
        ("C", NOTES, "C", 1.0),
        ("C#", NOTES, "C#", 1.0),
        ("c#", NOTES, "C#", 1.0),
        ("A-", ["A+", "A-", "B+", "B-"], "A+", 0.0),
        ("A-", ["A+", "A-", "B+", "B-"], "A-", 1.0),
        ("x < 3", ["x > 3", "x < 3"], "x > 3", 0.0),
        ("5%", ["5%", "5"], "5", 0.0),
        ("5", ["5%", "5"], "5", 1.0),
        # Nothing is told apart by them here.
        ("a dog", ["a bell...", "a dog..."], "a dog...", 1.0),
        ("A dog!", ["a bell...", "a dog..."], "a dog...", 1.0),
        ("a dog...", ["a bell...", "a dog..."], "a dog", 1.0),
        ("a bell...", ["a bell...", "a dog..."], "a dog", 0.0),
        ("Rising!", ["rising", "falling"], "rising", 1.0),
        # One that is longer by words is another one.
        ("dog barking", ["dog", "dog barking"], "dog", 0.0),
        ("a dog", ["a dog", "a dog", "a cat"], "a dog", 1.0),
        # What begins like a letter and is no letter, as the others have none.
        ("A. M.", ["A. M.", "P. M."], "A. M.", 1.0),
        ("P. M.", ["A. M.", "P. M."], "A. M.", 0.0),
    ],
)
def test_texts_that_are_nearly_alike(said, choices, answer, right):
    assert score("choice.text", said, choices, answer).value == right


@every(
    ("said", "choices", "answer", "right"),
    [
        ("C#", ["A", "C#", "D", "E"], "C#", 1.0),
        ("C#", ["A", "C#", "D", "E"], "E", 0.0),
        ("D", ["A", "C#", "D", "E"], "E", 1.0),  # a letter alone is a letter
        ("Plan B", ["Plan B", "Plan A"], "Plan B", 1.0),
        ("The answer is Plan B.", ["Plan B", "Plan A"], "Plan B", 1.0),
        ("The answer is Plan B.", ["Plan B", "Plan A"], "Plan A", 0.0),
        ("a dog...", ["a bell...", "a dog..."], "a dog...", 1.0),
        ("B", ["a bell...", "a dog..."], "a dog...", 1.0),
        ("A", ["x > 3", "x < 3"], "x > 3", 1.0),
        ("B", ["x > 3", "x < 3"], "x > 3", 0.0),
        ("A", ["A. M.", "P. M."], "A. M.", 1.0),
    ],
)
def test_a_text_of_an_option_is_chosen_before_a_letter_in_it(said, choices, answer, right):
    assert score("choice.letter", said, choices, answer).value == right


def test_a_letter_that_is_no_option_names_one():
    """The text of C# is C but for its sign, and a gold of C is the letter of D."""
    assert score("choice.text", "D", ["A", "C#", "D", "E"], "C").value == 1.0
    assert score("choice.text", "C#", ["A", "C#", "D", "E"], "C").value == 0.0


@every("answer", ["a dog...", "B"])
def test_exact_is_to_the_letter_of_what_can_be_read(answer):
    """A final answer is read without its last points, and so is the right one, whether it is text or letter."""
    choices = ["a bell...", "a dog..."]
    assert score("choice.text", "a dog...", choices, answer, match="exact").value == 1.0
    assert score("choice.text", "A dog...", choices, answer, match="exact").value == 0.0


TEXTS = {
    "prefixes": ["dog", "dog barking", "barking"],
    "notes": ["C", "C#", "D"],
    "grades": ["A+", "A-", "B+"],
    "letters": ["B", "A", "C"],
    "signs": ["x > 3", "x < 3"],
    "points": ["a cat", "a dog..."],
    "abbreviations": ["A. M.", "P. M."],
    "germs": ["a yeast", "E. coli", "a mould"],
    "twelve": [f"number {i}" for i in range(12)],
    "numbers": ["5", "-5", "+5"],
    "commas": ["one, two", "two, one"],
    "unicode": ["é", "e", "ß"],
}
SHOWN = {
    "lines": lambda texts: "Q?\n" + "\n".join(f"{x}. {text}" for x, text in zip(ALPHABET, texts)),
    "brackets": lambda texts: "Q? " + " ".join(f"({x}) {text}" for x, text in zip(ALPHABET, texts)),
    "list": lambda texts: f"Q? {texts}",
}
HELD = {
    "list": list,
    "letters": lambda texts: dict(zip(ALPHABET, texts)),
    "gaps": lambda texts: dict(zip(ALPHABET, texts)) | dict.fromkeys(ALPHABET[len(texts) :]),
    "arc": lambda texts: {"label": list(ALPHABET[: len(texts)]), "text": list(texts)},
    "lettered": lambda texts: [f"{x}. {text}" for x, text in zip(ALPHABET, texts)],
}
GOLDS = {"letter": lambda x, text: x, "text": lambda x, text: text, "both": lambda x, text: f"{x}. {text}"}


@pytest.mark.parametrize("gold", GOLDS.values(), ids=GOLDS)
@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_the_right_option_is_the_same_wherever_it_goes(texts, shown, held, gold):
    letter, text = load_reward("choice.letter", {"letters": ALPHABET}), load_reward("choice.text")
    for place, right in list(enumerate(texts))[-2:]:
        told = gold(ALPHABET[place], right)
        # A letter that is the text of an option is that option.
        right = told if told in texts else right
        record = {"choices": held(texts), "answer": told}
        for asked in rotations(Prompt("q", shown(texts), record))[:3]:
            order = asked.record.get("options_order", range(len(texts)))
            now = [texts[i] for i in order]
            assert options_of(asked) in (now, None)
            for name, option in list(zip(ALPHABET, now))[:3]:
                by_text, by_letter = (
                    reward.call([Sample(asked, 0, said)])[0].value
                    for reward, said in ((text, option), (letter, f"({name})"))
                )
                assert (by_text, by_letter) == (float(option == right), float(option == right)), (asked, option)


def test_lists_that_cannot_be_moved_whole_stay():
    twelve = "Q?\n" + "\n".join(f"{x}. number {i}" for i, x in enumerate(ALPHABET))
    assert options_of(Prompt("q", twelve, {"answer": "L"})) is None
    odd = Prompt("q", "Q?\nA. one\nB. two", {"answer": "A", "choices": {"A": "one", "B": None, "C": "two"}})
    assert options_of(odd) is None


def test_a_mark_inside_of_an_option_is_a_part_of_it():
    prompt = Prompt("q", "Which? A. a yeast B. E. coli C. a mould", {"answer": "B"})
    assert options_of(prompt) == ["a yeast", "E. coli", "a mould"]
    moved = reordered(prompt, [1, 2, 0], "r")
    assert (moved.text, moved.record["answer"]) == ("Which? A. E. coli B. a mould C. a yeast", "A")
