"""Prompts and records from every kind of source: the same records come out, and bad ones are told where they stand."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from PIL import Image

from mmrl.config import ConfigError, DataConfig
from mmrl.data.messages import last_user_text
from mmrl.data.prompts import heldout_prompts, load_prompts, training_prompts
from mmrl.data.records import Records, record_columns

ROWS = [{"question": f"{n} + 1 =", "solution": str(n + 1), "extra": {"level": n}} for n in range(5)]
COLUMNS = {"prompt": "question", "answer": "solution", "level": "extra.level"}


def jsonl(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def parquet(path: Path, rows: list) -> str:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    return str(path)


def saved(path: Path, rows: list) -> str:
    library = pytest.importorskip("datasets")
    library.Dataset.from_list(rows).save_to_disk(str(path))
    return str(path)


SOURCES = {"rows.jsonl": jsonl, "rows.parquet": parquet, "rows": saved}


# -------------------------------------------------------------------- sources


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_prompts(tmp_path, name):
    source = SOURCES[name](tmp_path / name, ROWS)
    prompts = training_prompts(DataConfig(prompts=source, columns=COLUMNS), ("answer",))
    assert [p.text for p in prompts] == [f"{n} + 1 =" for n in range(5)]
    assert [p.id for p in prompts] == ["1", "2", "3", "4", "5"]
    assert [(p.record["answer"], p.record["level"]) for p in prompts] == [(str(n + 1), n) for n in range(5)]
    some = heldout_prompts(DataConfig(eval_prompts=source, columns=COLUMNS, eval_where={"level": 3}))
    assert [p.text for p in some] == ["3 + 1 ="]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({"min": 2}, "23"),
        ({"max": 2}, "12"),
        ({"min": 2, "max": 2}, "2"),
        (2, "2"),
        ({"min": 2, "other": 1}, "4"),  # a value, and no range
    ],
)
def test_prompts_are_chosen_by_a_value_or_a_range(tmp_path, wanted, ids):
    """What is no number is in no range: a text, a truth, a null, a column that is not there."""
    values = {"1": 1, "2": 2, "3": 3.5, "4": {"min": 2, "other": 1}, "5": "3", "6": True, "7": None}
    rows = [{"prompt": "say", "id": id, "attempts": value} for id, value in values.items()] + [{"prompt": "say"}]
    source = jsonl(tmp_path / "rows.jsonl", rows)
    found = training_prompts(DataConfig(prompts=source, where={"attempts": wanted}))
    assert "".join(prompt.id for prompt in found) == ids


@pytest.mark.parametrize("wanted", [{"min": "2"}, {"min": 3, "max": 2}, {"max": True}])
def test_a_range_that_is_none_is_refused(wanted):
    with pytest.raises(ValueError, match=r"where: attempts"):
        DataConfig(prompts="rows.jsonl", where={"attempts": wanted})


def test_no_source_gives_no_prompts():
    assert training_prompts(DataConfig()) == heldout_prompts(DataConfig()) == []


def test_splits_of_a_saved_folder(tmp_path):
    library = pytest.importorskip("datasets")
    parts = {"train": ROWS[:3], "test": ROWS[3:]}
    library.DatasetDict({k: library.Dataset.from_list(v) for k, v in parts.items()}).save_to_disk(tmp_path / "both")
    data = DataConfig(prompts=str(tmp_path / "both"), eval_prompts=str(tmp_path / "both"), columns=COLUMNS)
    assert (len(training_prompts(data)), len(heldout_prompts(data))) == (3, 2)
    with pytest.raises(ConfigError, match="has no split 'dev'; it has train, test"):
        training_prompts(data.model_copy(update={"split": "dev"}))


def test_a_hub_name_is_read_by_the_datasets_library(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    asked = []

    def load(name, subset, split):
        asked.append((name, subset, split))
        return library.Dataset.from_list(ROWS)

    monkeypatch.setattr(library, "load_dataset", load)
    data = DataConfig(prompts="hub:owner/name", eval_prompts="hub:owner/name", subset="main", columns=COLUMNS)
    assert [len(training_prompts(data)), len(heldout_prompts(data))] == [5, 5]
    assert asked == [("owner/name", "main", "train"), ("owner/name", "main", "test")]

    def fails(*_args, **_options):
        raise ValueError("Config name is missing")

    monkeypatch.setattr(library, "load_dataset", fails)
    with pytest.raises(ConfigError, match=r"hub:owner/name cannot be loaded: Config name is missing; see data\.subset"):
        training_prompts(data)


def test_a_missing_library_names_the_command(tmp_path, monkeypatch):
    import sys

    source = parquet(tmp_path / "rows.parquet", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r'needs the package \'pyarrow\': pip install "mmrl\[text\]"'):
        training_prompts(DataConfig(prompts=source))


def test_broken_tables_are_named(tmp_path):
    source = Path(parquet(tmp_path / "rows.parquet", ROWS))
    source.write_bytes(source.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=r"rows\.parquet is no whole parquet file"):
        training_prompts(DataConfig(prompts=str(source)))
    pytest.importorskip("datasets")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty is no folder saved by the datasets library"):
        training_prompts(DataConfig(prompts=str(tmp_path / "empty")))


# -------------------------------------------------------------------- what a record must hold


CHAT = [
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "reply"},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "second"}]},
]


@pytest.mark.parametrize("column", ["prompt", "messages"])
def test_chat_messages_give_the_last_users_text_and_are_kept(tmp_path, column):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    record = {column: CHAT, "answer": 1, "images": ["a.png"]}
    prompt = load_prompts(jsonl(tmp_path / "chat.jsonl", [record]), {}, "stop")[0]
    assert prompt.text == prompt.record["prompt"] == "<image>second"
    assert prompt.record["messages"] == [*CHAT[:2], {"role": "user", "content": "<image>second"}]
    assert prompt.root == str(tmp_path)


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([{"role": "user"}], "message 0 of `prompt` needs `role` and `content`"),
        (["hello"], "message 0 of `prompt`"),
        ([{"role": "system", "content": "x"}], "no text in a last message of role `user`"),
        ([{"role": "user", "content": " "}], "no text in a last message"),
        ([{"role": "user", "content": None}], "no text in a last message"),
    ],
)
def test_messages_that_are_none_are_told(messages, told):
    with pytest.raises(ValueError, match=told):
        last_user_text(messages)


BAD = [
    (b'{"prompt": "good"}\n{"prompt": "cut', 2, "not JSON"),
    (b'{}\n{"prompt": "good"}\n', 1, "needs a non-empty string `prompt`"),
    ('{"prompt": "caf\u00e9"}\n'.encode("latin-1") + b'{"prompt": "good"}', 1, "not UTF-8"),
    (b'{"prompt": "good"}\n\n[1]\n', 3, "needs a non-empty string `prompt`"),
    (b'{"prompt": "good"}\n{"prompt": []}\n', 2, "needs a non-empty string `prompt`"),
]


@pytest.mark.parametrize(("content", "line", "told"), BAD)
def test_a_bad_line_stops_or_is_skipped_and_counted(tmp_path, content, line, told):
    (tmp_path / "bad.jsonl").write_bytes(content)
    data = DataConfig(prompts=str(tmp_path / "bad.jsonl"))
    with pytest.raises(ConfigError, match=f"bad.jsonl:{line}: {told}.*on_bad_record: skip"):
        training_prompts(data)
    with pytest.warns(UserWarning) as warned:
        prompts = training_prompts(data.model_copy(update={"on_bad_record": "skip"}))
    assert [p.text for p in prompts] == ["good"]
    assert [str(w.message) for w in warned][-1] == "data: skipped 1 of 2 records"
    assert f"bad.jsonl:{line}: {told}" in str(warned[0].message)


def test_many_bad_lines_are_counted_and_not_all_told(tmp_path):
    rows = [{"prompt": "good"}] + [{"prompt": 3}] * 500
    with pytest.warns(UserWarning) as warned:
        load_prompts(jsonl(tmp_path / "bad.jsonl", rows), {}, "skip")
    assert len(warned) == 11
    assert str(warned[-1].message) == "data: skipped 500 of 501 records"


@pytest.mark.parametrize(
    ("columns", "needed", "told"),
    [
        ({}, (), "needs a non-empty string `prompt`.*data.columns maps"),
        (
            {"prompt": "qestion"},
            (),
            "lacks 'qestion', which data.columns gives for 'prompt'; it has question, solution",
        ),
        ({"prompt": "extra.text"}, (), "lacks 'extra.text'"),
        ({"prompt": "question"}, ("answers", "hint"), "lacks answers, hint"),
    ],
)
def test_missing_columns_are_told(tmp_path, columns, needed, told):
    source = jsonl(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(ConfigError, match=f"rows.jsonl:1: {told}"):
        training_prompts(DataConfig(prompts=source, columns=columns), needed)


def test_ids_tell_prompts_apart(tmp_path):
    rows = [{"prompt": "a", "id": 1}, {"prompt": "a", "id": 2}]
    assert [p.id for p in load_prompts(jsonl(tmp_path / "a.jsonl", rows), {}, "stop")] == ["1", "2"]
    with pytest.raises(ConfigError, match="the id '2' occurs more than once"):
        load_prompts(jsonl(tmp_path / "b.jsonl", [*rows, rows[1]]), {}, "stop")


# -------------------------------------------------------------------- functions of the index

MAKER = """
def sums(index, start=0, split="train"):
    number = start + 2 * index + (split == "heldout")
    return {"prompt": f"{number}+1=", "answer": str(number + 1)}

def bad(index):
    return {"prompt": f"{index}"} if index != 1 else ["no dict"]
"""


@pytest.fixture
def maker(tmp_path) -> str:
    (tmp_path / "maker.py").write_text(MAKER)
    return str(tmp_path / "maker.py")


def test_prompts_of_a_function_have_their_own_counts_and_options(maker):
    data = DataConfig(
        prompts=f"{maker}:sums",
        prompts_count=3,
        prompts_options={"start": 10},
        eval_prompts=f"{maker}:sums",
        eval_prompts_count=2,
        eval_prompts_options={"split": "heldout"},
    )
    train, held = training_prompts(data, ("answer",)), heldout_prompts(data, ("answer",))
    assert [(p.id, p.text, p.record["answer"]) for p in train] == [
        ("0", "10+1=", "11"),
        ("1", "12+1=", "13"),
        ("2", "14+1=", "15"),
    ]
    assert [p.text for p in held] == ["1+1=", "3+1="]


def test_the_same_function_and_options_for_both_is_refused(maker):
    with pytest.raises(ValueError, match="would be the same prompts"):
        DataConfig(prompts=f"{maker}:sums", eval_prompts=f"{maker}:sums")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"prompts": "{}:bad"}, r"maker\.py:bad\(1\): returned list, expected a dict"),
        ({"prompts": "{}:sum"}, "has no function 'sum'"),
        ({"prompts": "./nowhere.py:sums"}, r"data\.prompts: no file"),
        (
            {"prompts": "{}:sums", "prompts_options": {"begin": 1}},
            r"data\.prompts_options: sums does not take begin",
        ),
    ],
)
def test_a_function_that_does_not_serve_is_told(maker, values, told):
    values = {**values, "prompts": values["prompts"].format(maker)}
    with pytest.raises(ConfigError, match=told):
        training_prompts(DataConfig(**values))


def test_the_generators_that_ship_make_disjoint_prompts():
    for name in ("arithmetic/arithmetic.py", "countdown/countdown.py", "sat/sat.py"):
        source = f"share://datasets/{name}:problem"
        data = DataConfig(
            prompts=source,
            prompts_count=200,
            eval_prompts=source,
            eval_prompts_count=50,
            eval_prompts_options={"split": "heldout"},
        )
        train, held = training_prompts(data, ("answer",)), heldout_prompts(data, ("answer",))
        assert (len(train), len(held)) == (200, 50)
        assert not {p.text for p in train} & {p.text for p in held}


def test_a_task_of_reasoning_gym_is_a_function_of_the_index(tmp_path):
    pytest.importorskip("reasoning_gym")
    (tmp_path / "gym.py").write_text(
        "from functools import cache\n"
        "import reasoning_gym\n\n"
        "@cache\n"
        "def task(name, seed):\n"
        "    return reasoning_gym.create_dataset(name, size=100, seed=seed)\n\n"
        "def problem(index, name='chain_sum', seed=0):\n"
        "    item = task(name, seed)[index]\n"
        "    return {'prompt': item['question'], 'answer': item['answer']}\n"
    )
    prompts = training_prompts(DataConfig(prompts=f"{tmp_path}/gym.py:problem", prompts_count=20), ("answer",))
    assert len(prompts) == 20
    assert all(p.text and p.record["answer"] for p in prompts)


# -------------------------------------------------------------------- supervised records


class TextAdapter:
    def record_columns(self, objective):
        return {"sft": ("completion",), "pairs": ("chosen", "rejected")}[objective]


def test_the_adapter_says_which_columns_records_need():
    assert record_columns(TextAdapter(), ["sft"]) == ("completion",)
    assert record_columns(TextAdapter(), ["sft", "pairs", "sft"]) == ("completion", "chosen", "rejected")


@pytest.mark.parametrize("name", SOURCES)
def test_text_records_need_no_picture(tmp_path, name):
    source = SOURCES[name](tmp_path / name, ROWS)
    columns = {"prompt": "question", "completion": "solution"}
    records = Records(DataConfig(records=source, columns=columns), ("completion",))
    batch = records.batch(0, 5, seed=3)
    assert records.count == 5
    assert sorted((r["id"], r["prompt"], r["completion"]) for r in batch) == [
        (str(n + 1), f"{n} + 1 =", str(n + 1)) for n in range(5)
    ]
    with pytest.raises(ConfigError, match="lacks image"):
        Records(DataConfig(records=source, columns=columns), ("image",))


def test_records_of_a_source_without_a_good_one(tmp_path):
    source = jsonl(tmp_path / "rows.jsonl", [{"prompt": "a"}])
    with warnings.catch_warnings(), pytest.raises(ConfigError, match=r"holds no usable record \(1 bad\)"):
        warnings.simplefilter("ignore")
        Records(DataConfig(records=source, on_bad_record="skip"), ("completion",))


def test_pictures_stand_beside_the_file_or_in_the_table(tmp_path):
    picture = Image.new("RGB", (4, 2), (200, 10, 10))
    picture.save(tmp_path / "red.png")
    named = jsonl(tmp_path / "a.jsonl", [{"prompt": "red", "image": "red.png"}])
    beside = Records(DataConfig(records=named), ("image",))
    held = {"bytes": (tmp_path / "red.png").read_bytes(), "path": None}
    table = parquet(tmp_path / "a.parquet", [{"prompt": "red", "image": held}])
    inside = Records(DataConfig(records=table), ("image",))
    library = pytest.importorskip("datasets")
    table = library.Dataset.from_list([{"prompt": "red", "image": held}]).cast_column("image", library.Image())
    table.save_to_disk(tmp_path / "folder")
    decoded = Records(DataConfig(records=str(tmp_path / "folder")), ("image",))
    for records in (beside, inside, decoded):
        record = records.batch(0, 1, 0)[0]
        assert (record["prompt"], record["image"].size) == ("red", (4, 2))
        assert record["image"].getpixel((0, 0)) == (200, 10, 10)
    with pytest.raises(ConfigError, match=r"4x2 is over data\.max_pixels=7"):
        Records(DataConfig(records=str(tmp_path / "folder"), max_pixels=7), ("image",))
    with pytest.raises(ConfigError, match="expected a file name or a picture, got int"):
        Records(DataConfig(records=jsonl(tmp_path / "b.jsonl", [{"prompt": "red", "image": 3}])), ("image",))


@pytest.fixture
def pictured(tmp_path):
    """A file of two records with a picture as their target, of which one breaks when it is decoded."""
    Image.effect_noise((40, 30), 50).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    middle = whole.index(b"IDAT") + 12  # neither its head nor its end tells
    broken = bytes(255 - b for b in whole[middle : middle + 20])
    (tmp_path / "bad.png").write_bytes(whole[:middle] + broken + whole[middle + 20 :])
    return jsonl(tmp_path / "rows.jsonl", [{"id": n, "prompt": n, "image": f"{n}.png"} for n in ("bad", "good")])


def test_a_target_that_breaks_when_it_is_decoded_gives_way_to_the_next_record(pictured):
    records = Records(DataConfig(records=pictured, on_bad_record="skip"), ("image",))
    with pytest.warns(UserWarning, match=r"rows\.jsonl:1: picture 'bad\.png': cannot be read: .*; skipped"):
        assert {r["id"] for r in records.batch(0, 2, 0)} == {"good"}


def test_a_target_that_breaks_when_it_is_decoded_is_named(pictured):
    with pytest.raises(ConfigError, match=r"rows\.jsonl:1: picture 'bad\.png': .*on_bad_record: skip"):
        Records(DataConfig(records=pictured), ("image",)).batch(0, 2, 0)
