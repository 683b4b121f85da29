"""Plain records that are alike come out as they would by the long way, whatever their texts hold."""

import json
import math
import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmrl.data.checks import Checker
from mmrl.data.flat import Flat
from mmrl.data.prompts import load_prompts
from mmrl.data.rows import Row

# What the long way looks for in a text, and what is near it.
WORDS = (
    "plain", "", "  ", "<image>", "a <image> b", "<audio> what?", "<sound>", "<video>", "a.wav", "talk.FLAC",
    "two words.mp3", "[", '[{"role": "user", "content": "hi"}]', ' [{"from": "human", "value": "hi"}]',
    "\n\nAssistant: yes", "\ud800", "é", "x.py", "2.aiff", "42", "A",
)  # fmt: skip
TEXTS = st.sampled_from(WORDS) | st.text(max_size=6)
NUMBERS = st.sampled_from([0, -1, 7, 10**299, 1 << 1024, 0.5, math.nan, math.inf, -0.0, True, False, None])
COLUMNS = (
    "prompt", "id", "answer", "completion", "chosen", "rejected", "solution", "question", "query", "problem", "goal",
    "messages", "conversations", "tools", "system", "image", "image_path", "video", "audio", "sound", "environment",
    "choices", "candidates", "shares", "margin", "confidence", "code", "source", "url", "cot", "instruction", "output",
    "chat_template_kwargs", "reward_model", "prompt_id",
)  # fmt: skip
RECORDS = st.dictionaries(st.sampled_from(COLUMNS), TEXTS | NUMBERS, max_size=5).map(
    lambda some: {"prompt": "q", **some}
)


def outcome(checker, record):
    """What becomes of it, its columns in their order, and what is warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = list(checker.record(Row("here", 1, dict(record))).items())
        except ValueError as error:
            found = str(error)
    return repr(found), [str(one.message) for one in told]


@settings(deadline=None, max_examples=400)
@given(
    RECORDS, st.lists(st.tuples(st.integers(0, 5), TEXTS | NUMBERS), max_size=4), st.sampled_from(["", "completion"])
)
@example({"prompt": "q", "chosen": "a", "rejected": "a"}, [(2, "b")], "")
@example({"prompt": "q", "url": "x.py"}, [(1, "a.wav")], "")
@example({"prompt": "q", "solution": "a" * 65}, [(1, "a")], "")
def test_a_record_comes_out_as_one_that_is_the_first_of_its_kind(record, changes, column):
    """changes: (which column, another value): records of the same columns that follow."""
    columns = (column,) if column else ()
    known = Checker(columns)
    outcome(known, record)
    unseen = set(known._unseen)
    for number, value in changes:
        name = list(record)[number % len(record)]
        record = {**record, name: value}
        fresh = Checker(columns)
        fresh._unseen = set(unseen)
        assert outcome(known, record) == outcome(fresh, record)
        unseen = set(known._unseen)


def test_plain_records_go_the_short_way_and_a_strange_one_does_not(monkeypatch):
    checker, long = Checker(), []
    whole = Checker._checked
    monkeypatch.setattr(Checker, "_checked", lambda self, *given: long.append(given) or whole(self, *given))
    for number in range(5):
        checker.record(
            Row("here", number, {"prompt": f"question {number}", "answer": str(number), "level": number / 2})
        )
    assert len(long) == 1
    with pytest.raises(ValueError, match="`level` is nan"):
        checker.record(Row("here", 6, {"prompt": "q", "answer": "1", "level": math.nan}))
    assert checker.record(Row("here", 7, {"prompt": "q", "level": 1.0, "answer": "1"})) and len(long) == 3


def test_names_of_columns_are_those_of_the_source_beside_ours(tmp_path):
    rows = [{"q": f"what {n}?", "a": n} for n in range(4)]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_prompts(str(path), {}, "stop", mapping={"prompt": "q", "answer": "a"})
    assert [p.record for p in found] == [{**row, "prompt": row["q"], "answer": row["a"]} for row in rows]


@pytest.mark.parametrize("covered", [math.nan, 1 << 1024, "\ud800", [math.inf]])
def test_a_column_that_another_one_covers_is_looked_at_all_the_same(covered):
    checker = Checker(mapping={"prompt": "q"})
    for number in range(2):
        checker.record(Row("here", number, {"prompt": "old", "q": f"new {number}"}))
    with pytest.raises(ValueError, match="`prompt` "):
        checker.record(Row("here", 3, {"prompt": covered, "q": "new"}))


def test_nothing_is_noted_of_what_the_long_way_changed():
    flat = Flat()
    flat.note({"prompt": "a", "answer": None}, {"prompt": "a"})
    flat.note({"prompt": ["a"]}, {"prompt": ["a"]})
    assert not flat.is_same({"prompt": "a", "answer": None}) and not flat.is_same({"prompt": ["a"]})
