"""Published records of programs that build solids: a small file of each shape, read as prompts and as records."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from mmrl.config import ConfigError, DataConfig
from mmrl.data.formats import format_of, normalised
from mmrl.data.prompts import training_prompts
from mmrl.data.records import Records

CODE = "import cadquery as cq\nr = cq.Workplane('XY').box(4, 3, 2)\n"
DRAWN = "Generate the CADQuery code needed to create the CAD for the provided image."

EXECAD = {
    "id": "e-7", "prompt_nl": "A box of 4 by 3 by 2 mm.", "prompt_sdl": "box(4, 3, 2)", "cot": "A box.", "code": CODE,
    "unit": "mm", "gt": {"volume": 24.0, "n_solids": 1, "brep": "e-7.brep"},
}  # fmt: skip
CAD_CODER = {
    "model_path": "0035/00357061.pth",
    "messages": [
        {"role": "user", "content": "Create a box with Euler angles [0, 0, 0]."},
        {"role": "assistant", "content": f"<think>A box.\n```\nx\n```\n</think>\n```python\n{CODE}```\n"},
    ],
}
GENCAD = {"deepcad_id": "0000/00001", "cadquery": CODE, "token_count": 20, "prompt": DRAWN, "hundred_subset": False}
TEXT2CAD = {
    "uid": "0000/00000007", "beginner": "a brick", "intermediate": "a flat box", "expert": "a box, 4 by 3 by 2",
    "abstract": "a thing", "keywords": "box",
}  # fmt: skip


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def only(source, **data):
    (prompt,) = training_prompts(DataConfig(prompts=str(source), **data))
    return prompt


@pytest.fixture
def files(tmp_path):
    """Format -> where its one record is."""
    Image.new("RGB", (4, 2), (200, 10, 10)).save(tmp_path / "part.png")
    picture = {"bytes": (tmp_path / "part.png").read_bytes(), "path": "part.png"}
    table = pyarrow.Table.from_pylist([{**GENCAD, "image": picture}])
    pyarrow.parquet.write_table(table, tmp_path / "gencad.parquet")
    (tmp_path / "train" / "batch_49").mkdir(parents=True)
    (tmp_path / "train" / "batch_49" / "490024.py").write_text(CODE)
    (tmp_path / "coder.json").write_text(json.dumps([CAD_CODER]))
    cells = [",".join(f'"{cell}"' for cell in line) for line in (TEXT2CAD, TEXT2CAD.values())]
    (tmp_path / "text2cad_v1.1.csv").write_text("\n".join(cells) + "\n")
    return {
        "execad": jsonl(tmp_path / "execad.jsonl", EXECAD),
        "cad_coder": tmp_path / "coder.json",
        "gencad_code": tmp_path / "gencad.parquet",
        "cad_recode": tmp_path / "train" / "**" / "*.py",
        "text2cad": tmp_path / "text2cad_v1.1.csv",
    }


# Format -> (id, what is asked, what is learned, what the solid is measured against).
READ = {
    "execad": ("e-7", "A box of 4 by 3 by 2 mm.", f"<think>A box.</think>\n{CODE}", {"code": CODE, **EXECAD["gt"]}),
    "cad_coder": ("00357061", "Create a box with", CAD_CODER["messages"][1]["content"], {"code": CODE}),
    "gencad_code": ("0000/00001", DRAWN, CODE, {"code": CODE}),
    "cad_recode": ("490024", "Write the CadQuery program", CODE, {"code": CODE}),
    "text2cad": ("0000/00000007", "a box, 4 by 3 by 2", None, None),
}


@pytest.mark.parametrize("form", READ)
def test_a_record_of_each_as_prompt_and_as_answer(files, form):
    name, asked, learned, truth = READ[form]
    prompt = only(files[form])
    assert (prompt.id, prompt.record["unit"], prompt.record.get("gt")) == (name, "mm", truth)
    assert prompt.text.startswith(asked)
    assert only(files[form], format=form).record == prompt.record
    if learned is not None:
        (record,) = Records(DataConfig(records=str(files[form])), ("completion",)).batch(0, 1, 0)
        assert record["completion"] == learned
        assert record["code"] == CODE


def test_pictures_stay_with_their_part(files):
    assert len(only(files["gencad_code"]).record["images"]) == 1
    wanted = normalised({**EXECAD, "images": ["part.png", "side.png"]})
    assert wanted["images"] == ["part.png", "side.png"]


def test_another_level_of_words_is_a_choice(files):
    assert only(files["text2cad"], columns={"prompt": "beginner"}).text == "a brick"
    assert only(files["execad"], columns={"prompt": "prompt_sdl"}).text == "box(4, 3, 2)"


def test_words_without_a_program_can_bring_their_truth():
    made = normalised({**TEXT2CAD, "gt": {"step": "7.step"}})
    assert made["gt"] == {"step": "7.step"} and "completion" not in made
    assert normalised({**TEXT2CAD, "code": CODE})["gt"] == {"code": CODE}


@pytest.mark.parametrize(
    ("form", "change", "told"),
    [
        ("execad", {"unit": "inch"}, "`unit` is 'inch', and solids are measured in mm"),
        ("execad", {"unit": None}, "format execad needs `unit`"),
        ("execad", {"code": " "}, "format execad needs `code`"),
        ("execad", {"prompt_nl": None}, "format execad needs `prompt_nl`"),
        ("execad", {"gt": "e-7.brep"}, "`gt` is str, expected an object"),
        ("execad", {"cot": ["A", "box"]}, "`cot` is list, expected a text"),
        ("cad_coder", {"messages": CAD_CODER["messages"][:1]}, "needs `messages` that end with an answer"),
        ("cad_coder", {"messages": [CAD_CODER["messages"][0], {"role": "assistant", "content": "1"}]}, "no CadQuery"),
        ("cad_coder", {"model_path": None}, "format cad_coder needs `model_path`"),
        ("gencad_code", {"cadquery": "print(1)"}, "`code` is no CadQuery program: 'print"),
        ("gencad_code", {"image": None}, "format gencad_code needs `image`"),
        ("cad_recode", {"code": "x = 1"}, "is no CadQuery program"),
        ("text2cad", dict.fromkeys(("expert", "intermediate", "beginner", "abstract")), "text2cad needs `expert`"),
        ("text2cad", {"uid": None}, "text2cad needs `uid`"),
        ("text2cad", {"unit": "cm"}, "`unit` is 'cm'"),
    ],
)
def test_what_cannot_be_used_is_told(form, change, told):
    good = {
        "execad": EXECAD, "cad_coder": CAD_CODER, "gencad_code": {**GENCAD, "image": "part.png"},
        "cad_recode": {"code": CODE, "path": "490024.py"}, "text2cad": TEXT2CAD,
    }[form]  # fmt: skip
    assert format_of(good) == form
    with pytest.raises(ValueError, match=told):
        normalised({**good, **change}, form)


def test_lines_that_write_files_are_neither_learned_nor_run():
    """A sandbox refuses them; those that are commented out go, too."""
    writes = CODE + 'cq.exporters.export(r, "./stlcq/7.stl")  # done\n# cq.exporters.export(r, "b.stl")\ns = r'
    said = {"role": "assistant", "content": f"```python\n{writes}\n```"}
    made = normalised({**CAD_CODER, "messages": [CAD_CODER["messages"][0], said]})
    assert made["gt"]["code"] == CODE + "s = r\n"
    assert made["messages"][0]["content"] == CAD_CODER["messages"][0]["content"]
    assert made["completion"] == f"```python\n{CODE}s = r\n```"
    assert normalised({**GENCAD, "cadquery": writes, "image": "a.png"})["completion"] == CODE + "s = r"


def test_records_of_programs_of_another_kind_are_left_alone():
    stack = {"prompt": "Sort a list.", "code": "sorted(x)", "path": "a/b.py"}
    assert format_of(stack) == "plain"
    assert normalised(stack)["code"] == "sorted(x)"


def test_files_of_python_are_records_by_a_pattern_alone(tmp_path):
    """A script that lies beside a file of records is none of them, and one that is named has functions."""
    (tmp_path / "build.py").write_text(CODE)
    jsonl(tmp_path / "a.jsonl", {"prompt": "x"})
    assert only(tmp_path).text == "x"
    with pytest.raises(ConfigError, match=r"name its function, as in build\.py:record; .*\*\.py"):
        only(tmp_path / "build.py")


WRITES = "cq.exporters.export(\n    r,\n    'a.stl',\n)"


@pytest.mark.parametrize(
    ("written", "left"),
    [
        (f"{CODE}{WRITES}  # twice\n", CODE),
        (f"{CODE}{WRITES}; s = 'é'; {WRITES}\n", f"{CODE}pass; s = 'é'; pass\n"),
        (f"{CODE}if r:\n    cq.exporters.export(r, 'a.stl')\n", f"{CODE}if r:\n    pass\n"),
        (f"{CODE}if r: r.val().exportStep('a')\n", f"{CODE}if r: pass\n"),
        (f"{CODE}from cadquery import exporters\nexporters.exportShape(r, 'STL', 'a')\n", CODE),
        (CODE + "s = 'exporters.export(1)'\n", CODE + "s = 'exporters.export(1)'\n"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_statements_that_write_files_go_whole_and_nothing_else_does(written, left, end):
    """Of several lines, in a block of their own, beside others: what is left is Python still."""
    for form, column, rest in (("gencad_code", "cadquery", GENCAD | {"image": "a.png"}), ("execad", "code", EXECAD)):
        made = normalised({**rest, column: written.replace("\n", end)}, form)
        assert made["gt"]["code"] == left.replace("\n", end)
        compile(made["gt"]["code"], "<part>", "exec")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_fence_around_a_program_is_no_part_of_it(end):
    fenced = f"Here:\n```python\n{CODE}```\n".replace("\n", end)
    cells = [("gencad_code", "cadquery", GENCAD | {"image": "a.png"}), ("execad", "code", EXECAD)]
    cells += [("cad_recode", "code", {"path": "1.py"}), ("text2cad", "code", TEXT2CAD)]
    for form, column, rest in cells:
        made = normalised({**rest, column: fenced}, form)
        assert made["gt"]["code"] == made["code"] == CODE


def test_the_program_of_an_answer_is_the_one_that_a_reward_would_take():
    """Behind the thoughts, and in Python; see rewards/cad_records.py."""
    thought, said = (
        f"<think>\n```\ncq.Sketch()\n```\n</think>\n{CODE}",
        f"```python\n{CODE}```\nIt has\n```text\ncq.\n```\n",
    )
    for answer in (thought, said):
        messages = [CAD_CODER["messages"][0], {"role": "assistant", "content": answer}]
        assert normalised({**CAD_CODER, "messages": messages})["gt"]["code"].strip() == CODE.strip()


def test_an_empty_thought_is_none():
    assert normalised({**EXECAD, "cot": " \n"})["completion"] == CODE


def test_a_table_s_cell_can_hold_the_truth_as_json():
    assert normalised({**TEXT2CAD, "gt": '{"step": "7.step"}'})["gt"] == {"step": "7.step"}
    with pytest.raises(ValueError, match="`gt` begins as JSON and is none"):
        normalised({**TEXT2CAD, "gt": "{'step': 1}"})


def test_no_level_of_words_stands_in_for_another():
    with pytest.raises(ValueError, match="text2cad needs `expert`"):
        normalised({**TEXT2CAD, "expert": None}, "text2cad")
    with pytest.raises(ValueError, match="text2cad needs `prompt`"):
        normalised({**TEXT2CAD, "prompt": None}, "text2cad")
