"""Pairs and their records: one shape, one inverse, and every record that is no pair named with its reason."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmrl.config import ConfigError, DataConfig
from mmrl.data.formats import normalised
from mmrl.data.images import bound_images, stored_images
from mmrl.data.pairs import Broken, pair_of, read_pairs, record_of
from mmrl.data.preferences import load_preferences
from mmrl.data.prompts import load_prompts, training_prompts
from mmrl.types import Candidate, Pair, Prompt


def jsonl(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def red(tmp_path) -> Path:
    Image.new("RGB", (4, 2), (200, 10, 10)).save(tmp_path / "red.png")
    Image.new("RGB", (2, 4), (10, 10, 200)).save(tmp_path / "blue.png")
    return tmp_path


ASK = [{"role": "user", "content": "Colour?"}]


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


# -------------------------------------------------------------------- one noun, many ways to write it


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Colour?", "candidates": ["red", "blue"], "shares": [1, 0]},
        {
            "prompt": "Colour?",
            "candidates": [{"answer": "red"}, {"answer": said("blue"), "images": None}],
            "shares": [1.0, 0.0],
        },
        {"messages": ASK, "candidates": [said("red"), "blue"], "shares": [1, 0]},
        {"prompt": "Colour?", "chosen": "red", "rejected": "blue"},
        {"prompt": ASK, "chosen": said("red"), "rejected": said("blue")},
        {"chosen": ASK + said("red"), "rejected": ASK + said("blue")},
        {"context_messages": ASK, "chosen": said("red"), "rejected": said("blue")},
        {"messages": ASK + said("red"), "rejected_response": "blue"},
        {"messages": ASK + said("red"), "rejected_messages": ASK + said("blue")},
        {"query": "Colour?", "response": "red", "rejected_response": "blue"},
        {"instruction": "Colour?", "chosen": "red", "rejected": "blue"},
        {"question": "Colour?", "chosen": "red", "rejected": "blue"},
        {
            "conversations": [{"from": "human", "value": "Colour?"}],
            "chosen": {"from": "gpt", "value": "red"},
            "rejected": {"from": "gpt", "value": "blue"},
        },
    ],
    ids=lambda record: "-".join(record),
)
@pytest.mark.parametrize("margin", [{}, {"margin": 2}])
def test_each_form_of_a_preference_is_the_same_pair(tmp_path, record, margin):
    (pair,) = read_pairs(jsonl(tmp_path / "a.jsonl", {**record, **margin, "id": "x"})).pairs
    assert pair.prompt.text == "Colour?"
    assert (pair.candidates, pair.shares, pair.better) == ((Candidate("red"), Candidate("blue")), (1.0, 0.0), 0)
    assert (pair.id, pair.margin, pair.confidence) == ("x", 2.0 if margin else None, None)
    (prompt,) = load_prompts(str(tmp_path / "a.jsonl"), {}, "stop")  # as a training reads it
    assert pair_of(prompt) == pair
    assert prompt.record["candidates"] == [{"answer": "red", "images": []}, {"answer": "blue", "images": []}]
    assert normalised(prompt.record) == prompt.record


def test_every_column_of_a_pair_has_its_place(red):
    record = {
        "id": 7,
        "prompt": "<image>What?",
        "images": ["red.png"],
        "candidates": [{"answer": "", "images": ["blue.png"]}, {"answer": "a <image>", "images": ["red.png"]}, "none"],
        "shares": [0.5, 0.5, 0],
        "margin": 0.25,
        "confidence": 0.75,
        "category": "hard",
        "unit": 3,
        "source": "me",
    }
    (pair,) = read_pairs(jsonl(red / "a.jsonl", record)).pairs
    assert pair.candidates == (Candidate("", ("blue.png",)), Candidate("a <image>", ("red.png",)), Candidate("none"))
    assert (pair.shares, pair.better) == ((0.5, 0.5, 0.0), None)
    assert (pair.id, pair.margin, pair.confidence, pair.category, pair.unit) == ("7", 0.25, 0.75, "hard", "3")
    assert (pair.prompt.root, pair.prompt.record["images"], pair.prompt.record["source"]) == (
        str(red),
        ["red.png"],
        "me",
    )


def test_shares_beside_two_answers_are_theirs(tmp_path):
    record = {"prompt": "x", "chosen": "a", "rejected": "b", "shares": [0.75, 0.25]}
    assert read_pairs(jsonl(tmp_path / "a.jsonl", record)).pairs[0].shares == (0.75, 0.25)


def test_rounded_shares_are_made_exact_and_a_wrong_sum_is_not(tmp_path):
    record = {"prompt": "x", "candidates": ["a", "b", "c"], "shares": [0.333, 0.333, 0.333]}
    assert read_pairs(jsonl(tmp_path / "a.jsonl", record)).pairs[0].shares == pytest.approx((1 / 3,) * 3, abs=1e-12)


TEXTS = st.lists(st.text(max_size=5), min_size=2, max_size=5, unique=True)
MAYBE = st.none() | st.floats(0, 1)


@given(texts=TEXTS, pictured=st.booleans(), margin=MAYBE, confidence=MAYBE, word=st.text(max_size=3), data=st.data())
def test_a_pair_comes_back_from_its_record(texts, pictured, margin, confidence, word, data):
    weights = data.draw(st.lists(st.integers(0, 9), min_size=len(texts), max_size=len(texts)).filter(any))
    images = ("a.png",) if pictured else ()
    prompt = Prompt("i", "ask", {"other": 1, "chosen": "old", "rejected": "older"}, "/root")
    pair = Pair(
        prompt,
        tuple(Candidate(text.replace("<image>", ""), images) for text in texts),
        tuple(weight / sum(weights) for weight in weights),
        margin,
        confidence,
        word,
        word,
    )
    record = record_of(pair)
    assert {"other", "id", "prompt", "candidates", "shares"} <= set(record)
    assert not {"chosen", "rejected"} & set(record)  # another order of candidates would contradict them
    again = pair_of(Prompt("i", "ask", normalised(record), "/root"))
    assert (again.candidates, again.margin, again.confidence) == (pair.candidates, margin, confidence)
    assert again.shares == pytest.approx(pair.shares, abs=1e-8)
    assert (again.category, again.unit, again.id) == (word, word, "i")


# -------------------------------------------------------------------- what is no pair

GOOD = {"prompt": "x", "candidates": ["a", "b"], "shares": [1, 0]}
BAD = {
    "no candidates": ({"prompt": "x"}, "is no pair: it needs `candidates` and `shares`, or `chosen` and `rejected`"),
    "one candidate": ({**GOOD, "candidates": ["a"]}, "`candidates` must be a list of two or more"),
    "an empty candidate": (
        {**GOOD, "candidates": ["a", {"images": []}]},
        "candidate 1 has neither an answer nor a picture",
    ),
    "two labels": (
        {"prompt": "x", "chosen": "a", "rejected": "b", "candidates": ["a", "b"]},
        "has no label: `shares` says which of `candidates`",
    ),
    "soft shares of three": ({"prompt": "x", "chosen": "a", "rejected": "b", "shares": [1, 0, 0]}, "3 numbers for 2"),
    "candidates in a text": ({**GOOD, "candidates": "ab"}, "`candidates` must be a list of two or more"),
    "no label": ({**GOOD, "shares": None}, "has no label: `shares`"),
    "no rejected": ({"prompt": "x", "chosen": "a"}, "is no pair"),
    "equal answers": ({"prompt": "x", "chosen": "a", "rejected": "a"}, "`chosen` and `rejected` are the same answer"),
    "equal candidates": (
        {**GOOD, "candidates": ["a", "b", "a"], "shares": [1, 0, 0]},
        "candidates 0 and 2 are the same",
    ),
    "equal pictures": (
        {**GOOD, "candidates": [{"images": ["red.png"]}, {"images": "red.png"}]},
        "candidates 0 and 1 are",
    ),
    "equal as message and text": ({**GOOD, "candidates": ["a", said("a")]}, "candidates 0 and 1 are the same"),
    "an answer of ids": (
        {"prompt": "x", "chosen": [1, 2], "rejected": [3]},
        r"candidate 0 is \[1, 2\], expected a text",
    ),
    "an answer that is a number": ({**GOOD, "candidates": ["a", 7]}, "candidate 1 is 7, expected a text or messages"),
    "a candidate of another shape": (
        {**GOOD, "candidates": ["a", {"text": "b"}]},
        "candidate 1 has text; expected `answer`",
    ),
    "a missing picture": ({**GOOD, "candidates": ["a", {"images": ["gone.png"]}]}, "picture 'gone.png': no such file"),
    "a missing picture of the question": ({**GOOD, "images": ["gone.png"]}, "picture 'gone.png': no such file"),
    "pictures of the wrong type": (
        {**GOOD, "candidates": ["a", {"images": 7}]},
        "picture 0 of candidate 1: expected a file name",
    ),
    "pictures that are a number": (
        {**GOOD, "images": 7},
        "picture 0 of `images`: expected a file name or a picture, got int",
    ),
    "more marks than pictures": (
        {**GOOD, "candidates": [{"answer": "<image>a<image>", "images": ["red.png"]}, "b"]},
        "<image> stands 2 times in candidate 0, and it has 1",
    ),
    "shares that sum to less": ({**GOOD, "shares": [0.5, 0.4]}, "`shares` sum to 0.9, expected 1"),
    "a share below 0": ({**GOOD, "shares": [1.5, -0.5]}, "share 0 is 1.5, expected from 0 to 1"),
    "a share too few": ({**GOOD, "shares": [1]}, "`shares` has 1 numbers for 2 candidates"),
    "shares in words": ({**GOOD, "shares": ["1", "0"]}, "share 0 is '1', expected a number"),
    "shares that are truths": ({**GOOD, "shares": [True, False]}, "share 0 is True, expected a number"),
    "shares that are a number": ({**GOOD, "shares": 1}, "`shares` is int, expected a list of numbers"),
    "a margin in words": ({**GOOD, "margin": "large"}, "`margin` is 'large', expected a number"),
    "a margin of chosen in words": ({"prompt": "x", "chosen": "a", "rejected": "b", "margin": "2"}, "`margin` is '2'"),
    "a margin below 0": ({**GOOD, "margin": -1}, "`margin` is -1, expected no less than 0"),
    "a confidence over 1": ({**GOOD, "confidence": 95}, "`confidence` is 95, expected from 0 to 1"),
    "a category that is a list": ({**GOOD, "category": ["a"]}, r"`category` is \['a'\], expected a text"),
    "no question": ({"candidates": ["a", "b"], "shares": [1, 0]}, "needs a non-empty string `prompt`"),
    "an id twice": ({**GOOD, "id": "first"}, "the id 'first' occurs more than once, first at .*rows.jsonl:1"),
    "no object": (["a", "b"], "needs a non-empty string `prompt` in an object, got list"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_pair_stops_or_is_skipped_or_is_kept_in_the_count(red, name):
    record, why = BAD[name]
    source = jsonl(red / "rows.jsonl", {**GOOD, "id": "first"}, record, {**GOOD, "id": "last"})
    with pytest.raises(ConfigError, match=rf"rows\.jsonl:2: .*{why}.*mend the record"):
        read_pairs(source)
    with pytest.warns(UserWarning, match="pairs: skipped 1 of 3 records"):
        skipped = read_pairs(source, on_bad="skip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = read_pairs(source, on_bad="keep")
    for found in (skipped, kept):
        assert [pair.id for pair in found.pairs] == ["first", "last"]
        assert [broken.where for broken in found.broken] == [f"{source}:2"]
        assert len(found) == 3  # the denominator
    assert kept.broken == skipped.broken
    assert re.search(why, kept.broken[0].why)


def test_a_pair_of_a_prompt_names_the_record():
    with pytest.raises(ValueError, match=r"^pair 'seven': `shares` sum to 0, expected 1$"):
        pair_of(Prompt("seven", "x", {"candidates": ["a", "b"], "shares": [0, 0]}))


def test_nothing_usable_is_an_error_unless_it_is_to_be_counted(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", {"prompt": "x"})
    with pytest.warns(UserWarning), pytest.raises(ConfigError, match=r"holds no pairs \(1 broken\)"):
        read_pairs(source, on_bad="skip")
    kept = read_pairs(source, on_bad="keep")
    assert (kept.pairs, kept.broken[0].where) == ([], f"{source}:1")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"holds no pairs \(0 broken\)"):
        read_pairs(tmp_path / "empty.jsonl", on_bad="keep")
    with pytest.raises(ConfigError, match="on_bad is 'drop', expected stop, skip, keep"):
        read_pairs(source, on_bad="drop")


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_of_no_records_is_told(tmp_path, count):
    with pytest.raises(ConfigError, match=f"count is {count}, expected 1 or more records"):
        read_pairs(jsonl(tmp_path / "one.jsonl", GOOD), count=count)


def test_a_question_may_be_rolled_out_though_its_answers_are_no_pair(tmp_path):
    """A training on prompts does not need the pair; equal answers do not cost it the question."""
    source = jsonl(
        tmp_path / "a.jsonl", {"prompt": "x", "chosen": "a", "rejected": "a"}, {"prompt": "y", "candidates": [1]}
    )
    first, second = load_prompts(source, {}, "stop")
    assert "candidates" not in first.record
    assert second.record["candidates"] == [1]  # someone else's column


def test_an_answer_without_pictures_may_speak_of_marks(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", {"prompt": "How?", "chosen": "Write <image>.", "rejected": "No."})
    assert read_pairs(source).pairs[0].candidates[0].answer == "Write <image>."


PICTURED = {**GOOD, "candidates": [{"images": ["red.png"]}, {"images": ["blue.png"]}]}


def test_pairs_of_two_texts_are_preferences_and_others_are_told(red):
    rows = [{**GOOD, "shares": [0.25, 0.75]}, {**GOOD, "candidates": ["a", said("c")]}]
    prompts = load_preferences(jsonl(red / "a.jsonl", *rows), "stop")
    assert [(p.record["chosen"], p.record["rejected"]) for p in prompts] == [("b", "a"), ("a", "c")]
    three = {**GOOD, "candidates": ["a", "b", "c"], "shares": [1, 0, 0]}
    for record in ({**GOOD, "shares": [0.5, 0.5]}, three, PICTURED):
        with pytest.raises(ConfigError, match="has no `chosen` and `rejected`: they are two texts of a pair"):
            load_preferences(jsonl(red / "b.jsonl", record), "stop")


# -------------------------------------------------------------------- sources


def test_functions_make_pairs(tmp_path):
    (tmp_path / "maker.py").write_text(
        "def make(index, split='train'):\n"
        "    if index == 1:\n"
        "        raise RuntimeError('dropped')\n"
        "    return {'prompt': f'{split} {index}', 'candidates': ['a', 'b'], 'shares': [1, 0]}\n"
    )
    source = f"{tmp_path / 'maker.py'}:make"
    found = read_pairs(source, on_bad="keep", count=3, options={"split": "heldout"})
    assert [pair.prompt.text for pair in found.pairs] == ["heldout 0", "heldout 2"]
    assert found.broken == [Broken(f"{source}(1)", "RuntimeError: dropped (maker.py:3)")]
    assert len(read_pairs(source, on_bad="keep")) == 100
    with pytest.raises(ConfigError, match="make does not take colour"):
        read_pairs(source, options={"colour": 1})
    rows = jsonl(tmp_path / "a.jsonl", *({**GOOD, "id": n} for n in range(5)))
    assert [pair.id for pair in read_pairs(rows, count=2).pairs] == ["0", "1"]
    with pytest.raises(ConfigError, match="options are those of a function"):
        read_pairs(rows, options={"colour": 1})


def test_pictures_of_candidates_are_checked_bound_and_stored_as_those_of_the_question(red, tmp_path_factory):
    record = {**GOOD, "images": ["red.png"], "candidates": ["a", {"images": ["blue.png"]}]}
    (prompt,) = training_prompts(DataConfig(prompts=jsonl(red / "a.jsonl", record)))
    run = tmp_path_factory.mktemp("run")
    stored = stored_images(prompt.record, prompt.root, run, 100)
    assert len(list((run / "pictures").iterdir())) == 2
    (again,) = read_pairs(jsonl(run / "kept.jsonl", stored)).pairs
    assert again.candidates[1].images == (stored["candidates"][1]["images"][0],)
    bound = bound_images(prompt.record, prompt.root, 100)
    assert [bound["images"][0]().size, bound["candidates"][1]["images"][0]().size] == [(4, 2), (2, 4)]
    with pytest.raises(ConfigError, match=r"over data\.max_pixels=7"):
        training_prompts(DataConfig(prompts=str(red / "a.jsonl"), max_pixels=7))
    with pytest.raises(ConfigError, match="no such file"):
        read_pairs(str(red / "a.jsonl"), image_root=str(run))


def test_a_picture_beside_two_answers_is_what_they_are_about(red):
    """Whatever the format: of a pair, `image` is shown, though nothing in the text marks its place."""
    (pair,) = read_pairs(
        jsonl(red / "a.jsonl", {"prompt": "x", "chosen": "a", "rejected": "b", "image": "red.png"})
    ).pairs
    assert pair.prompt.record["images"] == ["red.png"]


@pytest.mark.parametrize("ours", ["categroy", "prompts", "candidate", "marginn"])
def test_a_column_that_is_nearly_one_of_a_pair_is_told(ours):
    rows = [{"prompt": "p", "candidates": ["a", "b"], "shares": [1, 0], "topic": "x"}]
    with pytest.warns(UserWarning, match=f"no pair has a column '{ours}'; did you mean"):
        read_pairs(rows, columns={ours: "topic"})


def test_columns_of_pairs_and_of_published_forms_are_told_nothing(recwarn):
    rows = [{"prompt": "p", "candidates": ["a", "b"], "shares": [1, 0], "topic": "x"}]
    (pair,) = read_pairs(rows, columns={"category": "topic"}).pairs
    assert pair.category == "x"
    read_pairs(rows, columns={"response_a": "topic"})
    assert not [one for one in recwarn if "did you mean" in str(one.message)]
