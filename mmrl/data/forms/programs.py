"""Formats of programs that build a solid: ExeCAD, CAD-Coder, GenCAD-Code, CAD-Recode, Text2CAD.

Ours: `prompt`, `code`, `completion` (the program, behind its chain of thought where there is one), `unit`, and `gt`,
what the solid is measured against: {code, brep, step, volume, bbox, n_solids}, of which one of the first three says the
shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mmrl.data.forms.columns import text_in
from mmrl.data.forms.writing import unwritten
from mmrl.fences import blocks, last_of
from mmrl.near import short
from mmrl.thoughts import without_thoughts

_LANGUAGES = ("python", "py", "python3", "cadquery")
_ASKED = "Write the CadQuery program of this part."  # where a data set has no words of its own


def execad(record: Mapping[str, Any]) -> dict[str, Any]:
    """CAD-RL's ExeCAD: `prompt_nl`, `prompt_sdl`, `images`, `cot`, `code`, `unit` and `gt`."""
    code = program_in(text_in(record, "code", "execad"))
    if record.get("unit") is None:
        raise ValueError("format execad needs `unit`, which is mm")
    prompt = record.get("prompt") or text_in(record, "prompt_nl", "execad")
    return {"prompt": prompt, "completion": thought(record.get("cot"), code)} | _built(record, code)


def cad_coder(record: Mapping[str, Any]) -> dict[str, Any]:
    """CAD-Coder (Guan et al.): `messages` of a description and an answer with the program in its last fence, and
    `model_path`, the name of the part."""
    messages = record.get("messages")
    said = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(said, Mapping) or said.get("role") != "assistant" or not isinstance(said.get("content"), str):
        raise ValueError("format cad_coder needs `messages` that end with an answer, which has the program")
    answer = said["content"]
    for block in reversed(blocks(answer)):
        if block.language in ("", *_LANGUAGES):
            answer = answer[: block.start] + unwritten(answer[block.start : block.end]) + answer[block.end :]
    code = _program(without_thoughts(answer), "cad_coder")
    made = {"id": _stem(text_in(record, "model_path", "cad_coder"))}
    return made | {"messages": [*record["messages"][:-1], {**said, "content": answer}]} | _built(record, code)


def gencad_code(record: Mapping[str, Any]) -> dict[str, Any]:
    """GenCAD-Code and Fusion 360 in its form: `image`, `deepcad_id`, `cadquery`, and, in the first, `prompt`."""
    code = _program(text_in(record, "cadquery", "gencad_code"), "gencad_code")
    if record.get("image") is None and record.get("images") is None:
        raise ValueError("format gencad_code needs `image`, a picture of the part")
    made = {"id": text_in(record, "deepcad_id", "gencad_code"), "prompt": record.get("prompt") or _ASKED}
    return made | {"completion": code} | _built(record, code)


def cad_recode(record: Mapping[str, Any]) -> dict[str, Any]:
    """CAD-Recode: a file of Python for each part, as `code` and `path`; there are no words, so all are asked alike."""
    code = _program(text_in(record, "code", "cad_recode"), "cad_recode")
    made = {"prompt": record.get("prompt") or _ASKED, "completion": code}
    return made | {"id": _stem(text_in(record, "path", "cad_recode"))} | _built(record, code)


def text2cad(record: Mapping[str, Any]) -> dict[str, Any]:
    """Text2CAD: `uid` and four descriptions, of which `expert` is the most exact and the prompt, unless `data.columns`
    takes another as `prompt`; there is no program, and one in `code` is the truth. A level stands in for no other."""
    level = "prompt" if "prompt" in record else "expert"
    made = {"id": text_in(record, "uid", "text2cad"), "prompt": text_in(record, level, "text2cad")}
    if record.get("code") is None:
        return made | _measured(record)
    code = program_in(text_in(record, "code", "text2cad"))
    return made | {"completion": code} | _built(record, code)


# Format -> columns that records of it have, all of them.
_SIGNS: dict[str, set[str]] = {
    "execad": {"prompt_nl", "code"},
    "cad_coder": {"messages", "model_path"},
    "gencad_code": {"deepcad_id", "cadquery"},
    "text2cad": {"uid", "expert"},
}
_FILE = {"code", "path"}  # of a file of Python, and no others


def program_format_of(has: set[str]) -> str | None:
    """The format of programs that these columns are of; None for none."""
    if has == _FILE:
        return "cad_recode"
    return next((name for name, columns in _SIGNS.items() if columns <= has), None)


def thought(cot: Any, code: str) -> str:
    """The program behind its chain of thought, where there is one. Raises ValueError for one that is no text."""
    if cot is not None and not isinstance(cot, str):
        raise ValueError(f"`cot` is {type(cot).__name__}, expected a text")
    if cot is None or not cot.strip():
        return code
    return f"<think>{cot}</think>\n{code}"


def _built(record: Mapping[str, Any], code: str) -> dict[str, Any]:
    """{code, unit, gt} of a record whose truth is a program."""
    made = _measured(record)
    return made | {"code": code, "gt": {"code": code, **made.get("gt", {})}}


def _measured(record: Mapping[str, Any]) -> dict[str, Any]:
    """{unit, gt} as the record has them. Raises ValueError for another unit than mm, and for a `gt` that is none."""
    unit, truth = record.get("unit"), _object(record.get("gt"))
    if unit is not None and str(unit).strip().lower() not in ("mm", "millimetre", "millimeter", "millimetres"):
        raise ValueError(f"`unit` is {short(unit)}, and solids are measured in mm; convert the program and its truth")
    if truth is not None and not isinstance(truth, Mapping):
        raise ValueError(f"`gt` is {type(truth).__name__}, expected an object such as {{brep, volume}}")
    return {"unit": "mm"} | ({} if truth is None else {"gt": dict(truth)})


def _object(value: Any) -> Any:
    """What a cell of a table holds as JSON, where that is an object."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`gt` begins as JSON and is none: {error}") from None


def program_in(text: str) -> str:
    """A program without the fence that it may stand in and the lines that write files: a sandbox refuses them, and a
    policy would learn them."""
    block = last_of(text, _LANGUAGES)
    return unwritten(text if block is None else block.code(text))


def _program(text: str, form: str) -> str:
    code = program_in(text)
    if "cadquery" not in code and "cq." not in code:
        raise ValueError(f"format {form}: `code` is no CadQuery program: {short(code.strip())}")
    return code


def _stem(path: str) -> str:
    return re.split(r"[/\\]", path)[-1].rpartition(".")[0] or path
