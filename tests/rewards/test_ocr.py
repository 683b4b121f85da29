import sys

import pytest
from PIL import Image, ImageDraw, ImageFont

from mmrl.rewarding import load_reward, score_groups
from mmrl.types import Group, Prompt

pytest.importorskip("rapidocr")
QUOTED = load_reward("ocr.quoted")
ocr = sys.modules[QUOTED.call.func.__module__]


def written(text: str) -> Image.Image:
    picture = Image.new("RGB", (256, 96), "white")
    ImageDraw.Draw(picture).text((20, 25), text, fill="black", font=ImageFont.load_default(36))
    return picture


@pytest.mark.parametrize(
    ("prompt", "text", "score"),
    [
        ('a sign that says "Hello World"', "Hello World", 1.0),
        ('a sign that says "HELLO"', "hello World", 1.0),  # part of the text, case apart
        ("a sign that says “hello world”", "Hello Word", 0.9),  # one letter of ten is missing
        ('a sign that says "Hello World"', "", 0.0),  # nothing was written: a true 0
        ('first "Cat" then "Hello"', "Hello", 0.0),  # only the first quotation counts
    ],
)
def test_the_text_in_the_picture_is_compared_with_the_quotation(sample, prompt, text, score):
    [got] = QUOTED.call([sample(prompt, written(text))])
    assert got.value == pytest.approx(score), got.details


@pytest.mark.parametrize(
    ("target", "text", "score"),
    [
        ("abcd", "abcd", 1.0),
        ("abcd", "xxabcdxx", 1.0),
        ("abcd", "abed", 0.75),
        ("abcd", "acbd", 0.5),  # two substitutions
        ("abcd", "", 0.0),
        ("abcd", "zzzzzzzzzzzz", 0.0),  # the distance of 12 counts as 4
    ],
)
def test_the_agreement_by_hand(target, text, score):
    assert ocr._agreement(target, text) == pytest.approx(score)


@pytest.mark.parametrize("text", ["a sign", 'an empty "  " sign', "it's a dog's bone"])
def test_a_prompt_without_a_quotation_is_known_before_training(sample, text):
    [score] = QUOTED.call([sample(text, written("Hello"))])
    assert score.status == "na"
    assert QUOTED.check_prompt(Prompt("the-id", text)) is not None
    assert "the-id" in QUOTED.check_prompt(Prompt("the-id", text))
    assert QUOTED.check_prompt(Prompt("the-id", 'a "word"')) is None


def test_an_engine_that_fails_makes_the_score_invalid(sample, monkeypatch):
    def broken():
        raise RuntimeError("out of memory")

    monkeypatch.setattr(ocr, "_engine", broken)
    one = sample('a "word"', written("word"))
    score_groups([Group(one.prompt, 0, [one])], [QUOTED])
    score = one.scores["ocr.quoted"]
    assert (score.status, score.value) == ("invalid", None)
    assert "out of memory" in score.reason
    assert "ocr.py:" in score.reason
