"""Records with sounds: every way in which libraries name them, and each bad one counted with its reason."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest

from mmrl import objects
from mmrl.config import ConfigError, DataConfig
from mmrl.data.formats import FORMATS, format_of, normalised, unseen
from mmrl.data.heard import bound_sounds, decode_sounds, stored_sounds
from mmrl.data.prompts import load_prompts
from mmrl.data.records import KeptRecords, Records
from mmrl.media import AUDIO, SOUND_COLUMNS
from mmrl.sounds import SoundError, load

soundfile = pytest.importorskip("soundfile")
RATE = 16000


def wav(seconds=0.1, rate=RATE, channels=1, value=0.1):
    held = io.BytesIO()
    soundfile.write(held, np.full((int(seconds * rate), channels), value, np.float32), rate, "PCM_16", format="WAV")
    return held.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("heard")
    (made / "a.wav").write_bytes(wav())
    (made / "b.wav").write_bytes(wav(0.2))
    (made / "long.wav").write_bytes(wav(700, 2000))
    (made / "one.wav").write_bytes(wav()[:44] + bytes(2))
    (made / "text.wav").write_text("no sound")
    return made


ASKED = "what is heard?"
PART = {"type": "text", "text": ASKED}
TOLD = [{"role": "user", "content": f"{AUDIO}{ASKED}"}]
BYTES = {"bytes": wav(), "path": "x.wav"}
# How libraries name sounds -> (the record, what `sounds` becomes, what is asked).
NAMED = {
    **{column: ({"prompt": ASKED, column: "a.wav"}, ["a.wav"], ASKED) for column in SOUND_COLUMNS},
    "a list": ({"prompt": f"{AUDIO} or {AUDIO}?", "sounds": ["a.wav", "b.wav"]}, ["a.wav", "b.wav"], None),
    "a table's bytes": ({"prompt": ASKED, "audio": BYTES}, [BYTES], ASKED),
    "a table's path": ({"prompt": ASKED, "audio": {"bytes": None, "path": "a.wav"}}, ["a.wav"], ASKED),
    "swift": ({"messages": TOLD, "audios": ["a.wav"]}, ["a.wav"], f"{AUDIO}{ASKED}"),
    "llava": (
        {"conversations": [{"from": "human", "value": f"{AUDIO}{ASKED}"}], "audio": "a.wav"}, ["a.wav"],
        f"{AUDIO}{ASKED}",
    ),
    "a part": (
        {"prompt": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, PART]}]}, ["a.wav"], None,
    ),
    "an address": (
        {"prompt": [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "a.wav"}}, PART]}]},
        ["a.wav"], None,
    ),
    "OpenAI's": (
        {"prompt": [{"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav()).decode(), "format": "wav"}}, PART,
        ]}]}, [{"bytes": wav(), "path": None}], None,
    ),
    **{
        f"transformers' {key}": (
            {"prompt": [{"role": "user", "content": [{"type": "audio", key: "a.wav"}, PART]}]}, ["a.wav"], None,
        )
        for key in ("path", "url")
    },
    "transformers' base64": (
        {"prompt": [
            {"role": "user", "content": [{"type": "audio", "base64": base64.b64encode(wav()).decode()}, PART]},
        ]},
        [{"bytes": wav(), "path": None}], None,
    ),
    "Audio Flamingo's": (
        {"sound": "a.wav", "conversations": [{"from": "human", "value": f"<sound>\n{ASKED}"}]}, ["a.wav"],
        f"{AUDIO}\n{ASKED}",
    ),
    "Audio Flamingo's mark in a prompt": (
        {"prompt": f"<sound>{ASKED} <sound>", "sounds": ["a.wav", "b.wav"]}, ["a.wav", "b.wav"],
        f"{AUDIO}{ASKED} {AUDIO}",
    ),
    "a number beside a table's bytes": (
        {"audio_id": "Y12", "audio": BYTES, "question": "Which?", "choices": ["x", "y"], "answer": "y"}, [BYTES], None,
    ),
    "a part with its column": (
        {"prompt": [{"role": "user", "content": [{"type": "audio"}, PART]}], "sounds": ["a.wav"]}, ["a.wav"], None,
    ),
    "of a name, and its own name": ({"prompt": ASKED, "audio": BYTES, "audio_path": "x.wav"}, [BYTES], ASKED),
    "nulls": ({"prompt": ASKED, "sounds": None, "audios": [], "audio": "a.wav"}, ["a.wav"], ASKED),
    "R1-AQA": (
        {"question_text": "Is it a video?", "multi_choice": ["a dog", "rain"], "answer": 1, "audio_path": "a.wav"},
        ["a.wav"], "Is it a audio?\nA. a dog\nB. rain",
    ),
    "MMAU": (
        {"audio_id": "./a.wav", "question": "Which?", "choices": ["x", "y"], "answer": "y", "task": "music"},
        ["./a.wav"], "Which?\nA. x\nB. y",
    ),
    "MMAR": (
        {"audio_path": "./a.wav", "question": "Which?", "choices": ["x", "y"], "answer": "y", "modality": "sound"},
        ["./a.wav"], "Which?\nA. x\nB. y",
    ),
}  # fmt: skip


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
def test_every_name_of_a_sound_becomes_ours(named, folder):
    record, sounds, asked = named
    made = normalised(record)
    assert made["sounds"] == sounds
    assert asked is None or made["prompt"] == asked
    texts = made.get("messages") or [{"content": made["prompt"]}]
    marks = sum(message["content"].count(AUDIO) for message in texts)
    assert marks in (0, len(sounds))
    assert unseen(record) == set()
    decode_sounds(made, str(folder), 600)
    assert normalised(made)["sounds"] == sounds  # made ours once, it stays


def test_null_columns_of_sounds_are_as_good_as_not_there():
    assert "sounds" not in normalised({"prompt": ASKED, "audio": None, "sounds": []})
    assert "sounds" not in normalised({"prompt": "what does <audio> mean?"})


@pytest.mark.parametrize("empty", ["", b"", [""], {"bytes": None, "path": ""}])
@pytest.mark.parametrize("column", SOUND_COLUMNS)
def test_an_empty_sound_is_a_bad_record_and_no_question_without_sound(column, empty):
    for record in ({"prompt": ASKED, column: empty}, {"messages": TOLD, column: empty}):
        with pytest.raises(ValueError, match=f"sound 0 of `{column}`|stands 1 times in the text"):
            normalised(record)


def test_the_other_sounds_of_a_record_are_told_of(folder):
    record = {"prompt": ASKED, "audio": "a.wav", "audio_path": "b.wav"}
    assert normalised(record)["sounds"] == ["a.wav"] and unseen(record) == {"audio_path"}


# Sounds in columns of other names, which nothing reads.
OTHER_NAMES = {
    "a name": {"clip": "sub/a.wav"},
    "a table's bytes": {"context": BYTES},
    "bytes without a name": {"context": {"bytes": wav(), "path": None}},
    "an array": {"speech": {"array": [0.0, 0.1], "sampling_rate": RATE}},
}


@pytest.mark.parametrize("column", OTHER_NAMES.values(), ids=OTHER_NAMES)
def test_sounds_under_a_name_that_is_not_read_are_told_of(column):
    """Otherwise the run trains on text alone, and nobody knows."""
    record = {"prompt": ASKED, "answer": "rain", **column}
    assert unseen(record) == set(column)
    assert unseen({**record, "sounds": ["b.wav"]}) == set()


def test_words_are_not_taken_for_sounds():
    assert (
        unseen(
            {
                "prompt": "play a.wav",
                "answer": "a.wav",
                "said": "it is a.wav",
                "bytes": {"bytes": b"\x89PNG", "path": None},
            }
        )
        == set()
    )


def question(**changed):
    return {"prompt": ASKED, "sounds": ["a.wav"], "choices": ["a dog", "rain"], "answer": "rain", **changed}


# Each with what is told of it, and the word that is counted, where it has one.
BAD = {
    "missing": ({"prompt": ASKED, "audio": "none.wav"}, "no such file", "missing"),
    "outside": ({"prompt": ASKED, "audio": "../a.wav"}, "must be a file below", "outside"),
    "one sample": ({"prompt": ASKED, "audio": "one.wav"}, "cut off", "cut_off"),
    "text": ({"prompt": ASKED, "audio": "text.wav"}, "no sound that is read", "not_sound"),
    "long": ({"prompt": ASKED, "audio": "long.wav"}, "over data.max_seconds=600", "too_long"),
    "the second": ({"prompt": ASKED, "sounds": ["a.wav", "none.wav"]}, "'none.wav': no such file", "missing"),
    "a number": ({"prompt": ASKED, "audio": 7}, "expected a file name or a sound, got int", ""),
    "no name": ({"prompt": ASKED, "audio": {"bytes": None, "path": None}}, "got NoneType", ""),
    "a part without its sound": (
        {"prompt": [{"role": "user", "content": [{"type": "audio"}, PART]}]}, "there is none, neither in it nor", "",
    ),
    "two of Audio Flamingo's": ({"prompt": "<sound><sound>", "audio": "a.wav"}, "<sound> stands 2 times", ""),
    "two marks": ({"prompt": f"{AUDIO}{AUDIO}", "audio": "a.wav"}, "stands 2 times in the text", ""),
    "twice": (
        {"prompt": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, PART]}], "audio": "b.wav"},
        "sounds stand in the messages and in a column", "",
    ),
    "no base64": (
        {"prompt": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "?"}}, PART]}]},
        "no base64", "",
    ),
    "no options": (question(choices=[]), "`choices` has 0 options", ""),
    "one option": (question(choices=["rain"]), "`choices` has 1 options", ""),
    "a text as options": (question(choices="a, b"), "`choices` is str, expected a list", ""),
    "an empty option": (question(choices=["rain", " "]), "option 2 of `choices` is ' '", ""),
    "a number as option": (question(choices=["rain", 2]), "option 2 of `choices` is 2", ""),
    "the same options": (question(choices=["rain", "a dog", "Rain "]), "options 1 and 3 of `choices` are the same", ""),
    "the same behind letters": (question(choices=["A. rain", "B. rain"]), "options 1 and 2 of `choices` are the", ""),
    "no option is right": (question(answer="snow"), "`answer` is 'snow', which is none of the options", ""),
    "a letter of no option": (question(answer="C"), "`answer` is 'C', which is none", ""),
    "a letter with another": (question(answer="A. rain"), "`answer` is 'A. rain', which is none", ""),
    "a number of no option": (
        {"question_text": "?", "multi_choice": ["a", "b"], "answer": 2, "audio_path": "a.wav"},
        "`answer` is 2, the number of no option", "",
    ),
    "MMAU without options": (
        {"audio_id": "a.wav", "question": "?", "choices": ["a"], "answer": "a"}, "has 1 options", "",
    ),
}  # fmt: skip
GOOD = [{"id": n, "prompt": f"what is {n}?", "audio": "a.wav", "completion": "x"} for n in ("first", "last")]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_record_is_counted_with_its_reason_or_stops_the_run(bad, folder):
    record, said, word = bad
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (GOOD[0], {**record, "completion": "x"}, GOOD[1])))
    for read in (
        lambda on_bad: [p.id for p in load_prompts(str(path), {}, on_bad)],
        lambda on_bad: sorted(
            r["id"] for r in Records(DataConfig(records=str(path), on_bad_record=on_bad), ["completion"]).batch(0, 2, 0)
        ),
    ):
        with pytest.warns(UserWarning) as warned:
            assert read("skip") == ["first", "last"]
        told, count = [str(w.message) for w in warned]
        assert told.startswith(f"{path}:2: ") and said in told and told.endswith("; skipped")
        assert count == "data: skipped 1 of 3 records" + (f" (1 {word})" if word else "")
        with pytest.raises(ConfigError, match=r"rows\.jsonl:2: .*data\.on_bad_record: skip"):
            read("stop")


@pytest.mark.parametrize("answer", ["rain", " RAIN", "B", "b", "(b)", "B.", "B. rain", None])
def test_answers_that_are_an_option(answer):
    assert normalised(question(answer=answer))["sounds"] == ["a.wav"]


def test_options_of_records_without_sounds_are_left_as_they_were():
    assert normalised({"prompt": "?", "choices": ["a", "a"], "answer": "b"})["choices"] == ["a", "a"]


def test_the_bound_is_the_run_s(folder):
    (folder / "rows.jsonl").write_text(json.dumps({"prompt": ASKED, "audio": "long.wav"}) + "\n")
    source = str(folder / "rows.jsonl")
    assert len(load_prompts(source, {}, "stop", max_seconds=700)) == 1
    records = Records(DataConfig(records=source, max_seconds=700))
    assert load(records.batch(0, 1, 0)[0]["sounds"][0], root=None, max_seconds=700).seconds == 700


def test_bound_and_stored_sounds_stand_without_their_folder(folder, tmp_path):
    both = wav(0.1, 8000, 2)
    (folder / "both.wav").write_bytes(both)
    record = {
        "id": "r",
        "prompt": ASKED,
        "sounds": ["both.wav", {"bytes": both, "path": None}, lambda: ([0.5] * 900, RATE)],
    }
    bound = bound_sounds(record, str(folder))["sounds"]
    assert [load(a, root=None).digest for a in bound] == [load(a, root=folder).digest for a in record["sounds"]]
    stored = stored_sounds(record, str(folder), tmp_path, 600)
    assert stored["sounds"][0] == stored["sounds"][1] != stored["sounds"][2]
    for channels in ("mean", 1):
        for name, ref in zip(stored["sounds"][:2], record["sounds"][:2]):
            kept = load(name, root=tmp_path, channels=channels)
            assert kept.digest == load(ref, root=folder, channels=channels).digest
    (tmp_path / "kept.jsonl").write_text(json.dumps(stored) + "\n")
    kept = KeptRecords(tmp_path / "kept.jsonl", 9, 600).batch(0, 1, 0)[0]
    assert load(kept["sounds"][2], root=None).digest == load(record["sounds"][2], root=None).digest
    with pytest.raises(SoundError, match="no such file"):
        stored_sounds({"sounds": ["none.wav"]}, str(folder), tmp_path, 600)


def test_tables_of_the_datasets_library_give_bytes(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"prompt": ["one", "two"], "audio": [str(folder / "a.wav"), str(folder / "b.wav")]}
    table = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio())
    several = datasets.Dataset.from_dict({"prompt": ["x"], "sounds": [[str(folder / "a.wav"), str(folder / "b.wav")]]})
    several = several.cast_column("sounds", datasets.List(datasets.Audio()))
    table.save_to_disk(str(tmp_path / "saved"))
    several.save_to_disk(str(tmp_path / "several"))
    table.to_parquet(str(tmp_path / "t.parquet"))
    for source in ("saved", "t.parquet"):
        prompts = load_prompts(str(tmp_path / source), {}, "stop", root=str(folder))
        assert [load(p.record["sounds"][0], root=p.root).seconds for p in prompts] == [0.1, 0.2]
    (both,) = load_prompts(str(tmp_path / "several"), {}, "stop", root=str(folder))
    assert [load(ref, root=both.root).seconds for ref in both.record["sounds"]] == [0.1, 0.2]


def test_rows_of_python_and_functions_hold_arrays():
    source = objects.replaced({"prompts": [{"prompt": ASKED, "audio": {"array": [0.0] * 800, "sampling_rate": 8000}}]})
    (prompt,) = load_prompts(source["prompts"], {}, "stop")
    assert load(prompt.record["sounds"][0], root=None).seconds == 0.1


def test_formats_are_told_by_their_columns():
    assert {name: format_of(NAMED[name][0]) for name in ("R1-AQA", "MMAU", "MMAR")} == dict.fromkeys(
        ("R1-AQA", "MMAU", "MMAR"), "aqa"
    )
    assert format_of({"question": "?", "choices": ["a", "b"], "image": "a.png"}) == "mgpo"
    for lacking, said in (({"choices": ["a", "b"]}, "needs `question`"), ({"question": "?"}, "needs `choices`")):
        with pytest.raises(ValueError, match=said):
            FORMATS["aqa"]({"audio": "a.wav", **lacking})
    with pytest.raises(ValueError, match="needs a sound"):
        FORMATS["aqa"]({"question": "?", "choices": ["a", "b"]})
