"""Files that people really have: compressed, wrapped in an object, in shards, with marks of other systems."""

from __future__ import annotations

import gzip
import json

import pytest

from mmrl.config import ConfigError, DataConfig
from mmrl.data.prompts import load_prompts, training_prompts
from mmrl.data.records import Records

ROWS = [{"prompt": "1+1=", "answer": "2"}, {"prompt": 'é, "q"', "answer": "[3]"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = 'prompt,answer\n1+1=,2\n"é, ""q""",[3]\n'
TEXTS = {
    ".jsonl": LINES,
    ".ndjson": LINES,
    ".json": json.dumps(ROWS, indent=2),
    ".csv": CSV,
    ".tsv": 'prompt\tanswer\n1+1=\t2\né, "q"\t[3]\n',
}
WRAPPED = {
    "an object": {"data": ROWS},
    "with words beside": {"version": "1.1", "info": {"by": "us"}, "tags": ["a"], "data": ROWS},
    "indented": None,
}


def read(path):
    return [(p.text, p.record["answer"]) for p in load_prompts(str(path), {}, "stop")]


WANTED = [("1+1=", "2"), ('é, "q"', "[3]")]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
@pytest.mark.parametrize("suffix", TEXTS)
def test_texts_are_read_as_they_come(tmp_path, suffix, mark, end, packed):
    raw = mark + TEXTS[suffix].replace("\n", end).encode()
    path = tmp_path / f"rows{suffix}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(raw, mtime=0) if packed else raw)
    assert read(path) == WANTED


@pytest.mark.parametrize("value", WRAPPED.values(), ids=WRAPPED)
def test_an_object_around_the_records_is_opened(tmp_path, value):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(value) if value else json.dumps({"data": ROWS}, indent=1))
    assert read(path) == WANTED


@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_that_is_a_record_is_one(tmp_path, indent):
    path = tmp_path / "row.json"
    row = {"messages": [{"role": "user", "content": "1+1="}], "answer": "2"}
    path.write_text(json.dumps(row, indent=indent))
    assert read(path) == WANTED[:1]


@pytest.mark.parametrize(
    ("name", "raw", "told"),
    [
        ("a.json", json.dumps({"train": ROWS, "test": ROWS}).encode(), "several lists of records: train, test"),
        ("a.json", b'{"prompt": {"0": "a"}, "answer": {"0": "b"}}', "needs a non-empty string `prompt`"),
        ("a.json", b'{"data": []}', "needs a non-empty string `prompt`"),
        ("a.jsonl", b'{"prompt": "a"},\n{"prompt": "b"}\n', r"a\.jsonl:1: not JSON: Extra data"),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], "cannot be read"),
        ("a.jsonl.gz", LINES.encode(), "cannot be read: Not a gzipped file"),
        ("a.parquet.gz", b"", "told by its suffix"),
        ("a.jsonl.zst", b"", "told by its suffix; expected .*all but .parquet also with .gz"),
    ],
)
def test_what_cannot_be_read_says_so(tmp_path, name, raw, told):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ConfigError, match=told):
        load_prompts(str(tmp_path / name), {}, "stop")


def test_a_line_of_megabytes_is_a_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "x" * 5_000_000, "answer": "y"}) + "\n" + LINES)
    assert [len(text) for text, _ in read(path)] == [5_000_000, 4, 6]


# -------------------------------------------------------------------- many files


def write_shards(folder, *names, kind=".jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / f"{name}{kind}").write_text(json.dumps({"prompt": f"{name} {number}", "answer": "a"}) + "\n")


def texts(source, **data):
    return [(p.id, p.text) for p in training_prompts(DataConfig(prompts=str(source), **data))]


def test_a_folder_of_files_is_read_in_their_order(tmp_path):
    write_shards(tmp_path, "b", "a")
    (tmp_path / "README.md").write_text("words")
    (tmp_path / ".hidden.jsonl").write_text("nothing")
    assert texts(tmp_path) == [("1", "a 1"), ("2", "b 0")]
    assert texts(f"{tmp_path}/*.jsonl") == texts(tmp_path)
    assert texts(f"{tmp_path}/b*") == [("1", "b 0")]
    records = Records(DataConfig(records=str(tmp_path)), ("answer",))
    assert records.count == 2


def test_names_of_files_tell_their_split(tmp_path):
    write_shards(tmp_path / "data", "train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")
    assert [text for _, text in texts(tmp_path)] == ["train-00000-of-00002 0", "train-00001-of-00002 1"]
    assert [text for _, text in texts(tmp_path, split="test")] == ["test-00000-of-00001 2"]
    with pytest.raises(ConfigError, match="has no file of split 'dev'; it has test, train"):
        texts(tmp_path, split="dev")


def test_a_file_without_a_split_beside_files_with_one_is_left_out_with_a_warning(tmp_path):
    write_shards(tmp_path, "train", "test", "more", "extra")
    told = r": left out are extra\.jsonl, more\.jsonl, whose names have no split \(test, train\); .*/\*\.x$"
    with pytest.warns(UserWarning, match=told):
        found = texts(tmp_path, split="train")
    assert [text for _, text in found] == ["train 0"]


def test_files_of_several_kinds_are_not_one_data_set(tmp_path):
    write_shards(tmp_path, "a")
    write_shards(tmp_path, "a", kind=".ndjson")
    with pytest.raises(ConfigError, match=r"has files of \.jsonl, \.ndjson; name those that are meant"):
        texts(tmp_path)


def test_a_pattern_that_nothing_matches_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"no file matches '.*missing-"):
        texts(f"{tmp_path}/missing-*.jsonl")
    (tmp_path / "odd[1].jsonl").write_text(LINES)  # a name, not a pattern
    assert len(texts(tmp_path / "odd[1].jsonl")) == 2


@pytest.mark.parametrize("form", ["{}", "gsm8k_{}", "en-{}-00000-of-00001", "my.{}", "{}_v2", "{}-clean"])
def test_a_split_is_a_word_of_the_name_wherever_it_stands(tmp_path, form):
    write_shards(tmp_path, form.format("train"), form.format("test"))
    assert [text.split()[0] for _, text in texts(tmp_path)] == [form.format("train")]
    assert [text.split()[0] for _, text in texts(tmp_path, split="test")] == [form.format("test")]
    for name in ("testimony", "trained", "a"):  # words that only begin alike
        write_shards(tmp_path / name, name)
        assert len(texts(tmp_path / name)) == 1


def test_pictures_of_shards_are_below_their_folder(tmp_path):
    from PIL import Image

    Image.new("RGB", (3, 2)).save(tmp_path / "red.png")
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": "<image>?", "images": ["red.png"]}) + "\n")
    for source in (tmp_path, f"{tmp_path}/*.jsonl"):
        assert {p.root for p in training_prompts(DataConfig(prompts=str(source)))} == {str(tmp_path)}


def test_shards_of_parquet_hold_messages(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    rows = [
        {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]},
        {"messages": [{"role": "user", "content": "3"}, {"role": "assistant", "content": None, "tool_calls": [call]}]},
    ]
    for number, row in enumerate(rows):
        parquet.write_table(arrow.Table.from_pylist([row, *rows]), tmp_path / f"train-{number}.parquet")
    prompts = training_prompts(DataConfig(prompts=str(tmp_path)))
    assert [p.text for p in prompts] == ["1", "1", "3", "3", "1", "3"]
    assert [p.record["completion"] for p in prompts[1:3]] == [
        "2",
        [{"role": "assistant", "content": "", "tool_calls": [call]}],
    ]
