"""Files of records: every kind gives the same records, and what is none is refused where it stands."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from mmrl.config import ConfigError
from mmrl.data.files import file_rows
from mmrl.data.prompts import load_prompts

ROWS = [
    {"prompt": 'a, "b"\tand c', "answer": "1"},
    {"prompt": "two\nlines, \u00e9\u4e16", "answer": "\\n"},
    {"prompt": "[1] {no json}", "answer": "0.50"},
]


def lines(rows: list) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: list, dialect: str) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), dialect=dialect, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


TEXTS = {
    "rows.jsonl": lines(ROWS),
    "rows.JSONL": lines(ROWS),
    "rows.ndjson": lines(ROWS),
    "lines.json": lines(ROWS),
    "compact.json": json.dumps(ROWS),
    "indented.Json": "\n " + json.dumps(ROWS, indent=2, ensure_ascii=False),
    "rows.csv": table(ROWS, "excel"),
    "rows.CSV": table(ROWS, "excel"),
    "rows.tsv": table(ROWS, "excel-tab"),
}


def prompts(path: Path, on_bad: str = "stop") -> list:
    return load_prompts(str(path), {}, on_bad)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_every_kind_of_file_gives_the_same_records(tmp_path, name, head, end):
    text = TEXTS[name] if name.lower().endswith(("csv", "tsv")) and end == "\r\n" else TEXTS[name].replace("\n", end)
    (tmp_path / name).write_bytes(head + text.encode())
    found = prompts(tmp_path / name)
    assert [(p.text, p.record["answer"]) for p in found] == [(row["prompt"], row["answer"]) for row in ROWS]
    assert [p.id for p in found] == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.PARQUET"])
def test_a_table_with_what_pandas_writes_for_a_missing_number(tmp_path, name):
    arrow = pytest.importorskip("pyarrow")
    rows = [{**row, "level": level} for row, level in zip(ROWS, (1.5, float("nan"), None))]
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), tmp_path / name)
    found = prompts(tmp_path / name)
    assert [p.text for p in found] == [row["prompt"] for row in ROWS]
    assert [p.record["level"] for p in found] == [1.5, None, None]


def test_lines_of_text_are_prompts_as_they_stand(tmp_path):
    said = ["[INST] say {x}", "{braces} are fine", '"quoted"', "[1, 2]", "# no comment"]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(said).encode())
    assert [(p.id, p.text) for p in prompts(tmp_path / "a.txt")] == [
        (str(2 * n + 1), text) for n, text in enumerate(said)
    ]


@pytest.mark.parametrize(
    "text", [lines(ROWS), json.dumps(ROWS), json.dumps(ROWS, indent=1), json.dumps(ROWS[0], indent=1), '[{\n"a": 1}]']
)
def test_json_is_no_prompt_a_line(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.txt:1: this is JSON, not a prompt a line"):
        prompts(tmp_path / "a.txt", "skip")


@pytest.mark.parametrize("name", ["rows", "rows.gz", "rows.jsonl.bz2", "rows.yaml", "rows.xlsx", ".jsonl"])
def test_a_suffix_that_says_nothing_is_refused(tmp_path, name):
    (tmp_path / name).write_text(lines(ROWS))
    with pytest.raises(ConfigError, match=r"told by its suffix; expected \.jsonl, .*\.parquet"):
        prompts(tmp_path / name)


@pytest.mark.parametrize("name", [*TEXTS, "rows.txt"])
@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_of_nothing_holds_no_prompts(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=r"holds no prompts \(0 bad\)"):
        prompts(tmp_path / name)


# -------------------------------------------------------------------- where a bad record stands


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.jsonl", '{"prompt": "x"}\n\n{"prompt": 1}\n{"prompt": "y"}', 3),
        ("a.json", '[\n{"prompt":\n"x"},\n\n  {\n"prompt": 1}, {"prompt": "y"}]', 5),
        ("a.json", '[{"prompt": "x"}, 7, {"prompt": "y"}]', 1),
        ("a.csv", 'prompt,answer\n"x\n\n",1\n,2\ny,3\n', 5),
        ("a.csv", "prompt,answer\nx,1\n\ntoo,many,cells\ny,3\n", 4),
        ("a.tsv", "prompt\tanswer\nx\t1\nfew\ny\t3\n", 3),
        ("a.txt", "x\none\rtwo\ny\n", 2),
    ],
)
def test_a_bad_record_is_told_by_its_line_and_it_alone_is_skipped(tmp_path, name, text, line):
    (tmp_path / name).write_bytes(text.encode())
    with pytest.raises(ConfigError, match=rf"{name}:{line}: .*; mend the line or set data\.on_bad_record: skip"):
        prompts(tmp_path / name)
    with pytest.warns(UserWarning) as warned:
        found = prompts(tmp_path / name, "skip")
    assert [p.text.strip() for p in found] == ["x", "y"]
    assert str(warned[-1].message) == "data: skipped 1 of 3 records"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", '[{"prompt": "x"},\n{"prompt": "y"}', r"a\.json:2: not JSON: expected a comma, or the end"),
        ("a.json", '[{"prompt": "x"}\n{"prompt": "y"}]', r"a\.json:2: not JSON: expected a comma"),
        ("a.json", '[{"prompt": "x"},\n]', r"a\.json:2: not JSON: Expecting value at column 1"),
        ("a.json", '[{"prompt": "x"},\n{"prompt": "y]', r"a\.json:2: not JSON: Unterminated string"),
        ("a.json", '[{"prompt": "x"}]\n\n[]', r"a\.json:3: not JSON: expected"),
        ("a.json", "[" * 100_000, r"a\.json:1: brackets in brackets"),
        ("a.csv", "prompt,prompt\na,b\n", r"a\.csv:1: expected a name of its own for each column"),
        ("a.csv", "prompt,\na,b\n", r"a\.csv:1: expected a name of its own for each column"),
        ("a.csv", 'prompt,answer\nx,1\n"y,2\nz,3\n', r"a\.csv:3: no table of cells: unexpected end of data"),
        ("a.csv", 'prompt,answer\nx,1\n"y"z,2\n', r"a\.csv:3: no table of cells"),
    ],
)
def test_a_file_that_cannot_be_read_any_further_is_refused(tmp_path, name, text, told):
    """Skipping would go on in the middle of something."""
    (tmp_path / name).write_text(text)
    for on_bad in ("stop", "skip"):
        with pytest.raises(ConfigError, match=told):
            prompts(tmp_path / name, on_bad)


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.jsonl", "a.txt"])
def test_other_encodings_are_told(tmp_path, name):
    (tmp_path / name).write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(ConfigError, match=rf"{name}.*: not UTF-8: "):
        prompts(tmp_path / name)
    (tmp_path / name).write_bytes(TEXTS["compact.json"].encode("utf-16"))
    with pytest.raises(ConfigError, match=rf"{name}.*: not UTF-8: "):
        prompts(tmp_path / name)


# -------------------------------------------------------------------- what is no file


def test_what_is_no_file_is_told_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    told = {
        "gone.jsonl": "no prompt file",
        "pipe.jsonl": "it is a pipe or a device",
        "folder.jsonl": "no folder saved by the datasets library",
        "loop.jsonl": "symbolic links",
        "nul\0.jsonl": "null byte",
        "x" * 400 + ".jsonl": "name too long",
    }
    for name, words in told.items():
        with pytest.raises(ConfigError) as caught:
            prompts(tmp_path / name)
        assert words in str(caught.value)
    for source, words in {"/dev/zero": "device", "~nobody-has-this-name/a.jsonl": "home directory"}.items():
        with pytest.raises(ConfigError, match=words):
            load_prompts(source, {}, "stop")


@pytest.mark.parametrize(("name", "tab"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_a_cell_may_hold_a_picture_and_the_first_column_numbers_without_a_name(tmp_path, name, tab):
    """As pandas writes a table with its index, and MMBench its pictures."""
    picture = "A" * 300_000
    path = tmp_path / name
    path.write_text(f"{tab}prompt{tab}picture\n0{tab}q{tab}{picture}\n")
    assert [row.record for row in file_rows(path)] == [{"prompt": "q", "picture": picture}]


@pytest.mark.parametrize("cell", ['a 5" screen', '"5" or 6', 'says "no"'])
def test_a_quote_in_a_cell_between_tabs_breaks_no_table(tmp_path, cell):
    path = tmp_path / "rows.tsv"
    path.write_text(f"prompt\tanswer\n{cell}\tx\nb\ty\n")
    assert [row.record["answer"] for row in file_rows(path)] == ["x", "y"]


def test_a_quote_that_is_opened_and_never_closed_swallows_no_rows_unseen(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('prompt\tanswer\na\t"x\nb\ty\n')
    with pytest.raises(ConfigError, match=r"rows\.tsv:2: .*quote"):
        list(file_rows(path))
