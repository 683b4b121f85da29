"""Records that would end a run, or whatever writes them later: each is told in a line, and skipped alone."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrl.config import ConfigError, DataConfig
from mmrl.data.formats import FORMATS
from mmrl.data.preferences import load_preferences
from mmrl.data.prompts import load_prompts
from mmrl.data.records import Records

GOOD = '{"prompt": "x", "completion": "a", "id": "first"}'


def deep(brackets: int) -> str:
    return '{"prompt": "y", "completion": "b", "more": ' + "[" * brackets + "]" * brackets + "}"


def line(**columns) -> str:
    return json.dumps({"prompt": "y", "completion": "b", **columns})


def literal(value: str) -> str:
    return f'{{"prompt": "y", "completion": "b", "more": {value}}}'


HOSTILE = {
    "100,000 brackets": (deep(100_000), "brackets in brackets"),
    "100 brackets": (deep(100), "`more` is lists in lists, too many deep"),
    "a number of 5,000 digits": (literal("7" * 5000), "`more` is a number of 5000 digits"),
    "a number of 400 digits": (literal("-" + "7" * 400), "`more` is a number of 401 digits"),
    "NaN": (literal("NaN"), "`more` is NaN, which is no JSON"),
    "-Infinity": (literal('{"a": [-Infinity]}'), "`more` is -Infinity, which is no JSON"),
    "1e999": (literal("[1, 1e999]"), "`more` is inf, expected a finite number"),
    "a lone surrogate": (literal('"\\ud83d"'), "`more` has a lone surrogate"),
    "a lone surrogate in the prompt": (line(prompt="\udc80"), "`prompt` has a lone surrogate"),
    "a lone surrogate as a name": (line(**{"a\ud800": 1}), "`a?` has a lone surrogate"),
    "a lone surrogate as an id": (line(id="\udfff"), "`id` has a lone surrogate"),
    "a key twice": ('{"prompt": "y", "prompt": "z", "completion": "b"}', "`prompt` stands twice in one object"),
    "an id of another": (line(id="first"), "the id 'first' occurs more than once, first at "),
    "an id that is the number of another": (line(id=3), "the id '3' occurs more than once"),
    "an id that is a list": (line(id=["a"]), "`id` is ['a'], expected a text or a whole number"),
    "an id that is an object": (line(id={"a": "b" * 900}), "`id` is {'a': 'bbbb"),
    "an id that is a float": (line(id=1.0), "`id` is 1.0, expected"),
    "an id that is a truth": (line(id=True), "`id` is True, expected"),
    "an empty id": (line(id=""), "`id` is '', expected"),
    "an environment that is a number": (line(environment=3), "`environment` is int, expected a name"),
    "an environment that is a list": (line(environment=["mgpo"]), "`environment` is list, expected a name"),
    "images that are a number": (line(images=7), "picture 0 of `images`: expected a file name or a picture, got int"),
    "images that are an object": (line(images={"a": 1}), "picture 0 of `images`: expected a file name"),
    "pictures of candidates that are a number": (line(candidates=[{"images": 7}]), "expected a file name or a picture"),
    "messages that are a text": (line(messages="hi"), "`messages` must be a list"),
    "a role that is a list": (line(messages=[{"role": [], "content": "a"}]), "message 0 of `prompt` has no text"),
    "a content that is a number": (line(messages=[{"role": "user", "content": 5}]), "message 0 of `prompt` has no"),
    "a list": ('["prompt", "y"]', "needs a non-empty string `prompt` in an object, got list"),
    "a text": ('"prompt"', "needs a non-empty string `prompt` in an object, got str"),
    "null": ("null", "needs a non-empty string `prompt` in an object, got NoneType"),
    "a name in a name of NUL": (line(images=["a\0.png"]), "picture 'a\\x00.png': cannot be read: "),
    "a BOM inside": ("\ufeff" + line(), "not JSON: "),
    "half a record": (line()[:-3], "not JSON: "),
    "two records": (line() + line(), "not JSON: Extra data"),
}


def told(caught: str, path: Path, number: int, reason: str) -> None:
    assert caught.startswith(f"{path}:{number}: ")
    assert reason in caught
    assert "\n" not in caught
    assert len(caught) < 600 + len(str(path))
    caught.encode("utf-8")


def write(folder: Path, second: str) -> Path:
    path = folder / "rows.jsonl"
    path.write_text(f"{GOOD}\n{second}\n{json.dumps({'prompt': 'z', 'completion': 'c'})}\n", "utf-8")
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_told_in_a_line_and_skipped_alone(tmp_path, name):
    text, reason = HOSTILE[name]
    path = write(tmp_path, text)
    of_third = "number of another" in name  # the third record is called 3, and comes after the one that takes its name
    with pytest.raises(ConfigError) as caught:
        load_prompts(str(path), {}, "stop")
    told(str(caught.value), path, 3 if of_third else 2, reason)
    with pytest.raises(ConfigError) as caught:
        Records(DataConfig(records=str(path)), ("completion",))
    told(str(caught.value), path, 3 if of_third else 2, reason)
    with pytest.warns(UserWarning) as warned:
        found = load_prompts(str(path), {}, "skip")
        records = Records(DataConfig(records=str(path), on_bad_record="skip"), ("completion",))
    left = ["x", "y"] if of_third else ["x", "z"]
    assert [p.text for p in found] == [records.get(i)["prompt"] for i in range(records.count)] == left
    assert [str(w.message) for w in warned if "skipped 1 of 3 records" in str(w.message)] == [
        "data: skipped 1 of 3 records"
    ] * 2


@pytest.mark.parametrize("answer", [3, {"a": 1}, [["a"]], [None], ["a", 1], [True]])
def test_an_answer_of_another_kind_is_told_where_answers_are_needed(tmp_path, answer):
    path = write(tmp_path, line(completion=answer))
    assert len(load_prompts(str(path), {}, "stop")) == 3
    with pytest.raises(ConfigError, match=r"rows\.jsonl:2: `completion` is .*; answers must be texts"):
        Records(DataConfig(records=str(path)), ("completion",))


def test_a_record_with_a_null_id_gets_its_number(tmp_path):
    path = write(tmp_path, line(id=None))
    assert [p.id for p in load_prompts(str(path), {}, "stop")] == ["first", "2", "3"]
    records = Records(DataConfig(records=str(path)))
    assert [records.get(i)["id"] for i in range(3)] == ["first", "2", "3"]


def test_ids_need_to_differ_among_the_records_that_are_used(tmp_path):
    rows = [{"prompt": text, "id": 7, "split": text} for text in "ab"]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [p.text for p in load_prompts(str(tmp_path / "a.jsonl"), {"split": "b"}, "stop")] == ["b"]


# -------------------------------------------------------------------- pictures


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("column", ["images", "image"])
def test_a_truncated_picture_is_told_before_the_run_and_skipped_alone(tmp_path, form, column):
    noise = Image.effect_noise((96, 96), 90)
    noise.save(tmp_path / "whole", form)
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(data[: len(data) * 2 // 3])
    rows = [{"prompt": name, "image": name, "images": [name]} for name in ("whole", "cut", "whole")]
    rows = [{"prompt": row["prompt"], column: row[column]} for row in rows]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    needed = () if column == "images" else ("image",)
    with pytest.raises(ConfigError, match=r"rows\.jsonl:2: picture 'cut': cannot be read"):
        Records(DataConfig(records=str(path)), needed)
    with pytest.warns(UserWarning, match="skipped 1 of 3 records"):
        records = Records(DataConfig(records=str(path), on_bad_record="skip"), needed)
    assert records.count == 2
    assert records.get(1)["id"] == "3"


def test_what_is_no_picture_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    why = {"pipe.png": "pipe", "folder.png": "folder", "loop.png": "", "zero.png": "below", "n" * 300: "too long"}
    for name, words in why.items():
        path = write(tmp_path, line(images=[name]))
        with pytest.raises(ConfigError, match=rf"rows\.jsonl:2: picture '{name[:9]}.*{words}"):
            load_prompts(str(path), {}, "stop")
        with pytest.warns(UserWarning, match="skipped 1 of 3"):
            assert [p.text for p in load_prompts(str(path), {}, "skip")] == ["x", "z"]


# -------------------------------------------------------------------- anything at all

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["<image>", "a.png"])
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3), max_leaves=8
)
PART = st.fixed_dictionaries({}, optional={"type": VALUES | st.just("image"), "text": VALUES, "image": VALUES})
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant"]) | VALUES,
        "content": st.text() | st.lists(PART, max_size=3) | VALUES,
    }
)
TURN = st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "system"]) | VALUES, "value": VALUES})
# fmt: off
COLUMNS = [
    "id", "prompt", "messages", "images", "image", "image_path", "answer", "solution", "completion", "chosen", "goal",
    "rejected", "rejected_response", "question", "choices", "problem", "conversations", "system", "system_prompt",
    "tools", "steps", "possible_answers", "environment", "videos", "objects", "candidates", "shares", "margin",
    "message", "query", "response", "human_ranking", "path1", "path2", "rejected_images", "rejected_messages", "subset",
]
# fmt: on
CELL = VALUES | st.text() | st.lists(MESSAGE, max_size=3) | st.lists(TURN, max_size=3)
RECORDS = st.dictionaries(st.sampled_from(COLUMNS), CELL, max_size=6)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(RECORDS | VALUES, min_size=1, max_size=4), form=st.sampled_from(["auto", *FORMATS]))
def test_no_record_raises_anything_but_a_config_error(tmp_path, records, form):
    path = tmp_path / "any.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    loads = (
        lambda bad: load_prompts(str(path), {}, bad, form=form),
        lambda bad: load_preferences(path, bad, form=form),
    )
    for load in loads:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                alike = load("stop")
            except ConfigError as error:
                assert "\n" not in str(error)
                alike = None
            try:
                left = load("skip")
            except ConfigError as error:
                assert f"holds no prompts ({len(records)} bad)" in str(error)
                left = []
        assert alike is None or alike == left
        for prompt in left:
            json.dumps(dict(prompt.record), allow_nan=False, ensure_ascii=False).encode("utf-8")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0d8efnprot \n\r1.-', max_size=60).map(str.encode))
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "txt"])
def test_no_file_raises_anything_but_a_config_error(tmp_path, suffix, raw):
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(raw)
    for on_bad in ("stop", "skip"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                load_prompts(str(path), {}, on_bad)
            except ConfigError as error:
                assert "\n" not in str(error)
