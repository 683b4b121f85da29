"""Marks of media that nothing shows (S16): the record stops the run, or is skipped with its place and reason."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from mmrl import objects
from mmrl.config import ConfigError, DataConfig
from mmrl.data.preferences import load_preferences
from mmrl.data.prompts import load_prompts
from mmrl.data.records import Records

HEARD, SEEN = "sound 'a.wav': no such file", "video 'none.mp4': is no folder and no file"
PART = {"type": "audio", "audio": "a.wav"}
# Records as libraries have them, each with what is told of it.
UNSHOWN = {
    "plain": ({"prompt": "<audio>what?", "audio": "a.wav"}, HEARD),
    "swift": ({"messages": [{"role": "user", "content": "<audio>what?"}], "audios": ["a.wav"]}, HEARD),
    "trl": ({"prompt": [{"role": "user", "content": "<audio>what?"}], "audio": "a.wav"}, HEARD),
    "llava": ({"conversations": [{"from": "human", "value": "what? <audio>"}], "audio": "a.wav"}, HEARD),
    "a part": (
        {"prompt": [{"role": "user", "content": [PART, {"type": "text", "text": "what?"}]}]},
        HEARD,
    ),
    "a video": ({"prompt": "<video>what?", "videos": ["none.mp4"]}, SEEN),
    "one of two": ({"prompt": "<video><video>what?", "videos": ["walk"]}, "<video> stands 2 times in the text"),
    "with pictures": ({"prompt": "<image><audio>what?", "images": ["walk/1.png"], "audio": "a.wav"}, HEARD),
}
ANSWERS = {"completion": "a", "chosen": "a", "rejected": "b"}
GOOD = [{"id": n, "prompt": f"what is {n}?", **ANSWERS} for n in ("first", "last")]
READERS = {
    "prompts": lambda source, on_bad: [p.id for p in load_prompts(source, {}, on_bad)],
    "pairs": lambda source, on_bad: [p.id for p in load_preferences(source, on_bad)],
    "records": lambda source, on_bad: supervised(
        Records(DataConfig(records=source, on_bad_record=on_bad), ["completion"])
    ),
}


def supervised(records):
    return [record["id"] for record in records.batch(0, records.count, 0)]


@pytest.fixture(params=["file", "object"])
def source(request, tmp_path):
    """source(record) -> a source of a good record, this one, and another good one."""
    (tmp_path / "walk").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "walk" / "1.png")

    def make(record):
        rows = [GOOD[0], {**record, **ANSWERS}, GOOD[1]]
        if request.param == "object":
            return objects.replaced({"prompts": rows})["prompts"]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / "a.jsonl")

    return make


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("record", "told"), UNSHOWN.values(), ids=UNSHOWN)
def test_a_record_with_a_medium_that_nothing_shows_is_skipped_where_asked(
    source, record, told, read, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)  # objects' files are below it
    name = source(record)
    with pytest.warns(UserWarning) as warned:
        assert sorted(read(name, "skip")) == ["first", "last"]
    place = f"{name}[1]" if objects.is_object(name) else f"{name}:2"
    first, count = [str(w.message) for w in warned]
    assert first.startswith(f"{place}: ") and told in first and first.endswith("; skipped")
    assert count.startswith("data: skipped 1 of 3 records")
    with pytest.raises(ConfigError, match=r"data\.on_bad_record: skip"):
        read(name, "stop")


def test_a_mark_without_its_medium_is_words():
    """A question about tags shows nothing, and loses nothing."""
    for text in ("What does <audio> do in HTML?", "Write a <video> tag."):
        name = objects.replaced({"prompts": [{"prompt": text}]})["prompts"]
        assert [p.text for p in load_prompts(name, {}, "stop")] == [text]
