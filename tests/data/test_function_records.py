"""Functions of the index: the checks of every other source, record by record, the same on every process."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from PIL import Image

from mmrl.config import ConfigError, DataConfig
from mmrl.data.prompts import training_prompts
from mmrl.data.records import Records

CALLS = """
import json, pathlib
HERE = pathlib.Path(__file__).parent

def rows(index, file="rows.jsonl"):
    return json.loads((HERE / file).read_text().splitlines()[index])

def fails(index):
    if index % 3 == 1:
        raise KeyError("no such problem")
    return {"prompt": f"{index}?", "completion": str(index)}
"""

BAD = {
    "no prompt": {"completion": "b"},
    "no completion": {"prompt": "y"},
    "null": {"prompt": "y", "completion": None},
    "id": {"prompt": "y", "completion": "b", "id": [1]},
    "environment": {"prompt": "y", "completion": "b", "environment": 3},
    "answer": {"prompt": "y", "completion": {"a": 1}},
    "mark": {"prompt": "<image>", "completion": "b"},
    "picture": {"prompt": "<image>", "completion": "b", "images": ["gone.png"]},
    "surrogate": {"prompt": "y", "completion": "\ud800"},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "maker.py").write_text(CALLS)
    return tmp_path


def write(folder: Path, rows: list) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


@pytest.mark.parametrize("name", BAD)
def test_a_function_is_checked_as_a_file_is(folder, name):
    """The same records, and the same reasons for what is wrong, from a file and from a function that reads it."""
    rows = [{"prompt": "x", "completion": "a"}, BAD[name], {"prompt": "z", "completion": "c"}]
    file, function = write(folder, rows), f"{folder}/maker.py:rows"
    with pytest.raises(ConfigError) as of_file:
        Records(DataConfig(records=file), ("completion",))
    records = Records(DataConfig(records=function, records_count=3), ("completion",))
    assert [records.get(i)["prompt"] for i in (0, 2)] == ["x", "z"]
    with pytest.raises(ConfigError) as of_function:
        records.get(1)
    where, reason = str(of_file.value).split("rows.jsonl:2: ")
    assert where
    assert str(of_function.value) == f"{function}(1): {reason}"

    skipping = DataConfig(records=function, records_count=3, on_bad_record="skip")
    with pytest.warns(UserWarning, match=r"maker\.py:rows\(1\): .*; skipped"):
        assert Records(skipping, ("completion",)).get(1)["prompt"] == "z"


@pytest.mark.parametrize("name", [name for name in BAD if "completion" not in name and name not in ("null", "answer")])
def test_prompts_of_a_function_are_checked_too(folder, name):
    write(folder, [{"prompt": "x"}, BAD[name], {"prompt": "z"}])
    data = DataConfig(prompts=f"{folder}/maker.py:rows", prompts_count=3)
    with pytest.raises(ConfigError, match=r"maker\.py:rows\(1\): "):
        training_prompts(data)
    with pytest.warns(UserWarning, match="skipped 1 of 3 records"):
        assert [p.id for p in training_prompts(data.model_copy(update={"on_bad_record": "skip"}))] == ["0", "2"]


def test_columns_are_mapped_for_every_source_alike(folder):
    rows = [{"q": f"{n}?", "told": {"a": str(n)}} for n in range(3)]
    columns = {"prompt": "q", "completion": "told.a"}
    file = Records(DataConfig(records=write(folder, rows), columns=columns), ("completion",))
    function = Records(DataConfig(records=f"{folder}/maker.py:rows", records_count=3, columns=columns), ("completion",))
    for index in range(3):
        one, other = file.get(index), function.get(index)
        assert (one["prompt"], one["completion"]) == (other["prompt"], other["completion"]) == (f"{index}?", str(index))
    data = DataConfig(prompts=f"{folder}/maker.py:rows", prompts_count=3, columns={"prompt": "q"})
    assert [p.text for p in training_prompts(data)] == ["0?", "1?", "2?"]


def test_every_record_has_an_id(folder):
    """An error about a loss names records by it."""
    write(folder, [{"prompt": "x"}, {"prompt": "y", "id": None}, {"prompt": "z", "id": 7}])
    records = Records(DataConfig(records=f"{folder}/maker.py:rows", records_count=3))
    assert [records.get(i)["id"] for i in range(3)] == ["0", "1", "7"]


def test_what_is_skipped_depends_on_the_index_alone(folder):
    """Any process, in any order, after any resume: get(1) is record 2, the next good one; behind the last comes 0."""
    data = DataConfig(records=f"{folder}/maker.py:fails", records_count=5, on_bad_record="skip")
    expected = ["0", "2", "2", "3", "0"]
    for order in (range(5), reversed(range(5)), [4, 1, 1, 4]):
        with pytest.warns(UserWarning, match=r"fails\(\d\): KeyError: 'no such problem' \(maker\.py:10\); skipped"):
            records = Records(data, ("completion",))
            assert all(records.get(i)["completion"] == expected[i] for i in order)
    with pytest.warns(UserWarning) as warned:
        records = Records(data, ("completion",))
        for step in range(10):
            records.batch(step, 5, seed=0)
    assert sorted(str(w.message).split(":fails")[1][:3] for w in warned) == ["(1)", "(4)"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = [Records(data, ("completion",)).batch(step, 5, seed=3) for step in range(4)]
        whole = Records(data, ("completion",))
        assert [whole.batch(step, 5, seed=3) for step in range(4)] == alone


def test_a_function_without_a_good_record_ends(folder):
    write(folder, [{"answer": n} for n in range(4)])
    data = DataConfig(records=f"{folder}/maker.py:rows", records_count=4, on_bad_record="skip")
    with pytest.warns(UserWarning), pytest.raises(ConfigError, match=r"holds no usable record \(4 bad\)"):
        Records(data).get(2)


def test_pictures_of_a_function_are_opened_as_those_of_a_file(folder):
    Image.new("RGBA", (3, 2), (0, 0, 0, 0)).save(folder / "a.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:-20])
    rows = [{"prompt": "x", "image": "a.png"}, {"prompt": "x", "image": "cut.png"}, {"prompt": "x", "image": 3}]
    write(folder, rows)
    records = Records(DataConfig(records=f"{folder}/maker.py:rows", records_count=3), ("image",))
    assert records.get(0)["image"].getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ConfigError, match=r"rows\(1\): picture 'cut\.png': cannot be read"):
        records.get(1)
    with pytest.raises(ConfigError, match=r"rows\(2\): picture: expected a file name or a picture, got int"):
        records.get(2)
