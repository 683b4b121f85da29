"""Records that are read from a temporary file are what they would be in memory."""

import errno
import json
import os
import tempfile
import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.config import ConfigError, DataConfig
from mmrl.data import held
from mmrl.data.held import ById, Held, Names, only
from mmrl.data.prompts import load_prompts
from mmrl.data.records import Records

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=9)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)


class Drawing:
    """Something that a file does not hold."""


def filed(values, few=0):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held, "FEW", few)
        made = Held()
        for value in values:
            made.add(value)
    return made


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(), VALUES), max_size=9), st.sampled_from([0, 3, 100]), st.sampled_from([1, 40]))
def test_what_is_held_comes_back_as_it_was(values, few, at_once):
    made = filed(values, few)
    assert made.in_memory == (len(values) <= few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held, "_AT_ONCE", at_once)
        assert repr(list(made)) == repr(values)  # types, too: 1 is neither 1.0 nor True
    assert [made[i] for i in range(-len(values), len(values))] == 2 * values
    assert list(made[1:5:2]) == values[1:5:2]
    with pytest.raises(IndexError):
        made[len(values)]


@pytest.mark.parametrize(
    "odd",
    [Drawing(), np.float64(0.5), np.arange(3), bytearray(b"ab"), {"deep": [Drawing()]}, {1: "a key"}, {0.5}],
    ids=lambda value: type(value).__name__,
)
def test_what_a_file_would_change_stays_in_memory(odd):
    made = filed([("a", 1), ("b", odd), ("c", 2)])
    assert made[1][1] is odd and list(made)[1][1] is odd
    assert [made[0], made[2]] == [("a", 1), ("c", 2)]


def test_a_disk_without_room_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"data: no temporary file in .*gone"):
        list(filed([("a", 1)]))


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), max_size=12))
def test_names_know_their_places(names):
    made = Names(names)
    assert list(made) == names and len(made) == len(names)
    assert made.differ == (len(set(names)) == len(names))
    assert [made.place(name) for name in names] == [names.index(name) for name in names]
    assert "not there" not in made
    with pytest.raises(KeyError):
        made.place("not there")


def test_names_of_one_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(held, "hash", lambda name: 7, raising=False)
    made = Names(["a", "b", "c"])
    assert made.differ and [made.place(name) for name in "abc"] == [0, 1, 2] and "d" not in made
    made.add("b")
    assert not made.differ and made.place("b") == 1


# -------------------------------------------------------------------- files of records

LINES = [
    '{"id": "a", "prompt": "one", "answer": "1", "level": 1}',
    "no JSON",
    '{"prompt": "two", "level": 2.5, "tags": ["x", null]}',
    '{"id": "a", "prompt": "three"}',
    '{"id": 7, "prompt": [{"role": "user", "content": "four <b>"}], "level": 1}',
    '{"id": "7", "prompt": "five"}',
    '{"prompt": ""}',
    '{"id": "z", "prompt": "six", "picture": {"bytes": null, "path": "six.png"}}',
]


def read(path, few, on_bad="skip", where=None):
    """(prompts or the error, warnings)."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        patch.setattr(held, "FEW", few)
        try:
            found = load_prompts(str(path), where or {}, on_bad)
        except ConfigError as error:
            return str(error), []
    return found, [str(one.message) for one in told]


@pytest.mark.parametrize("where", [{}, {"level": {"max": 2}}], ids=["all", "some"])
def test_prompts_from_a_file_are_those_in_memory(tmp_path, where):
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(LINES))
    (few, told_few), (many, told_many) = read(path, 100, where=where), read(path, 0, where=where)
    assert isinstance(few, list) and not isinstance(many, list)
    assert list(many) == few == [many[i] for i in range(len(few))] == list(many[:])
    assert told_many == told_few
    if not where:
        assert [prompt.id for prompt in many] == ["a", "3", "7", "z"]
        assert any(f"{path}:4: the id 'a' occurs more than once, first at {path}:1" in one for one in told_many)
        assert "skipped 4 of 8" in told_many[-1]
    for keep in product([True, False], repeat=len(few)):
        mask = np.array(keep, dtype=bool)
        wanted = [prompt for prompt, kept in zip(few, keep) if kept]
        assert list(only(many, mask)) == wanted == list(only(few, mask))
        if any(keep):
            assert list(only(only(many, mask), np.ones(len(wanted), dtype=bool))) == wanted
    assert all(ById(many)[prompt.id] == prompt for prompt in few) and "b" not in ById(many)


@pytest.mark.parametrize("lines", [LINES, LINES[:1] + LINES[2:], LINES[4:]], ids=["json", "same_id", "number_as_id"])
def test_the_first_bad_record_stops_either_way(tmp_path, lines):
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(lines))
    few, many = read(path, 100, "stop")[0], read(path, 0, "stop")[0]
    assert few == many and f"{path}:" in few and "data.on_bad_record: skip" in few


def test_records_from_a_file_are_those_in_memory(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"q{i}", "completion": f"a{i}"}) for i in range(9)))
    few = Records(DataConfig(records=str(path)), ("completion",))
    monkeypatch.setattr(held, "FEW", 0)
    many = Records(DataConfig(records=str(path)), ("completion",))
    assert many.batch(3, 5, 1) == few.batch(3, 5, 1) and many.count == few.count == 9
    assert [many.get(i)["id"] for i in range(9)] == [str(i + 1) for i in range(9)]


@pytest.mark.parametrize("on_bad", ["skip", "stop"])
def test_a_disk_that_is_full_for_a_moment_is_no_bad_record(tmp_path, monkeypatch, on_bad):
    """Half of a write, then no room, then room again: an id never gets the words of another."""
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"id": str(i), "prompt": f"question {i}"}) + "\n" for i in range(3000)))
    monkeypatch.setattr(held, "FEW", 10)
    real, seen = os.pwrite, []

    def full(file, data, place):
        seen.append(place)
        if len(seen) == 2:
            return real(file, data[: len(data) // 2], place)
        if len(seen) == 3:
            raise OSError(errno.ENOSPC, "no space left on device")
        return real(file, data, place)

    monkeypatch.setattr(held.os, "pwrite", full)
    with pytest.raises(ConfigError, match=r"is full with .* MB of records"):
        load_prompts(str(path), {}, on_bad)
    assert len(seen) == 3
    assert [p.text for p in load_prompts(str(path), {}, on_bad)] == [f"question {i}" for i in range(3000)]
