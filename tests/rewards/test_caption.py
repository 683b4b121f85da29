"""Captions: BLEU-4 and ROUGE-L worked out by counting, and captions that try to cheat."""

from __future__ import annotations

import math
import time

import pytest

from mmrl.rewarding import load_reward
from mmrl.types import Prompt, Sample

REFERENCE = "a small dog runs on green grass"  # 7 words


def score(text: str, reference: object = REFERENCE, column: str = "caption", **options):
    return load_reward("caption.overlap", options).call([Sample(Prompt("p", "q", {column: reference}), 0, text)])[0]


def said(caption: str) -> str:
    return f"<caption>{caption}</caption><answer>B</answer>"


def test_an_equal_caption_scores_1_whatever_its_case_and_punctuation():
    assert score(said("A small dog runs, on green grass!")).value == pytest.approx(1.0)


def test_a_caption_worked_out_by_hand():
    # "a small dog runs": all of its 4, 3, 2 and 1 n-grams are in the reference; 4 words of 7 cost exp(1 - 7/4).
    # ROUGE-L: 4 words in common, precision 1, recall 4/7, F1 = 8/11.
    found = score(said("a small dog runs"))
    assert found.details["bleu"] == pytest.approx(math.exp(1 - 7 / 4), abs=1e-4)
    assert found.details["rouge"] == pytest.approx(8 / 11, abs=1e-4)
    assert found.value == pytest.approx(0.5 * math.exp(1 - 7 / 4) + 0.5 * 8 / 11, abs=1e-9)


def test_n_grams_that_are_not_there_count_a_tenth_of_one():
    # Method 1 of NLTK puts 0.1 for a count of 0: of 7 words 3 occur, no pair of 6, triple of 5 or four of 4 does.
    found = score(said("grass dog x small x y z"))
    by_hand = (3 / 7 * 0.1 / 6 * 0.1 / 5 * 0.1 / 4) ** 0.25
    assert found.details["bleu"] == pytest.approx(by_hand, abs=1e-4)
    assert found.details["rouge"] == pytest.approx(1 / 7, abs=1e-4)  # "grass", "dog" or "small": one in order


def test_an_equal_caption_of_a_few_words_scores_1():
    for caption in ("cat", "cat, bus", "rose, pig, mushroom"):
        assert score(said(caption), caption).value == pytest.approx(1.0)
    assert score(said("cat"), "cat, bus, rose").details["bleu"] == pytest.approx(math.exp(1 - 3), abs=1e-4)


def test_stems_count_for_rouge_only():
    assert score(said("a small dog running on green grasses"), bleu=0.0).value == pytest.approx(1.0)
    assert score(said("a small dog running on green grasses"), bleu=1.0).value < 0.5


def test_several_references_and_satori_s_column():
    assert score(said(REFERENCE), ["a cat", REFERENCE]).value == pytest.approx(1.0)
    assert score(said(REFERENCE), column="image_caption").value == pytest.approx(1.0)
    assert score(REFERENCE, tag=None).value == pytest.approx(1.0)


def test_scripts_without_spaces_are_compared_by_character():
    chinese = "\u4e00\u53ea\u5c0f\u72d7\u5728\u8349\u5730\u4e0a"  # eight characters
    assert score(said(chinese), chinese).value == pytest.approx(1.0)
    half = score(said(chinese[:4]), chinese)
    assert half.details["rouge"] == pytest.approx(2 / 3, abs=1e-4)
    assert half.details["bleu"] == pytest.approx(math.exp(-1), abs=1e-4)
    assert score(said("\u0441\u043e\u0431\u0430\u043a\u0430"), "\u043a\u043e\u0442").value == 0.0


@pytest.mark.parametrize("text", ["", "a small dog runs on green grass", said(""), said(" . "), "<caption>a dog"])
def test_without_a_caption_it_is_0(text):
    found = score(text)
    assert (found.status, found.value) == ("ok", 0.0)


def test_ways_to_cheat_do_not_pay():
    honest = score(said("a small dog on the grass")).value
    assert score(said("dog " * 7)).value < honest
    assert score(said(" ".join([REFERENCE] * 10))).value < honest  # a long caption that holds the reference
    assert score(said("cat") + said(REFERENCE)).value == pytest.approx(1.0)  # the last counts, no more
    assert score(said(REFERENCE) + said("cat")).value < 0.1
    start = time.perf_counter()
    assert score(said("dog " * 100_000)).value == 0.0
    assert score(said("dog " * 2_000), "dog " * 1_000).status == "ok"
    assert time.perf_counter() - start < 20


def test_records_and_options():
    check = load_reward("caption.overlap").check_prompt
    for reference in (None, "", "?", []):
        assert score(said("a dog"), reference).status == "na"
        assert "lacks a `caption`" in check(Prompt("p", "q", {"caption": reference}))
    assert check(Prompt("p", "q", {"caption": "a dog"})) is None
    with pytest.raises(ValueError, match="bleu=2 must be"):
        score(said("a dog"), bleu=2)
