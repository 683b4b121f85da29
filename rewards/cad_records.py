"""What the rewards of CAD read: the program in a completion, and the target in a record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmrl.fences import last_of
from mmrl.located import cut_short, file_at, path_of
from mmrl.solids.dialects import LANGUAGES
from mmrl.solids.reading import kind_of
from mmrl.thoughts import without_thoughts
from mmrl.types import Prompt, Sample

from .answers import text_of
from .places import said_in_tag

LARGEST = 32 << 20  # bytes of a target's file
KINDS = ("brep", "step", "code")  # the first that a record has is its target
_NUMBERS = ("volume", "bbox", "n_solids")  # what a record may tell of it, and what then has to be true
_CLOSE = 1e-3  # relative


def program_of(sample: Sample, extract: str = "auto") -> str:
    """The program in a completion, behind its thoughts; "" without one.

    extract: "fence", the last block between ``` that is marked as Python, or else as nothing; "tag:code", what stands
    in the last whole <code>; "whole", all of it; "auto", the last block, or else all. Raises ValueError for another
    word.
    """
    text = text_of(sample)
    if extract == "whole":
        return text
    if extract.startswith("tag:") and extract[4:].isidentifier():
        return _unfenced(said_in_tag(text, extract[4:]) or "")
    if extract not in ("auto", "fence"):
        raise ValueError(f"extract={extract!r} is none of auto, fence, whole, tag:name")
    said = without_thoughts(text)
    if (program := _last(said)) is not None:
        return program
    return said if extract == "auto" else ""


def _unfenced(text: str) -> str:
    program = _last(text)
    return text if program is None else program


def _last(text: str) -> str | None:
    """The last block of a program, or else of no language; None without one."""
    block = last_of(text, LANGUAGES)
    return None if block is None else block.code(text)


# -------------------------------------------------------------------- targets


def target_in(prompt: Prompt) -> tuple[str, str | bytes]:
    """("brep" or "step", a file's bytes) or ("code", a program): what the record's answer is compared with.

    It is in the column `gt`, a mapping, or in the columns `brep`, `step` and `code` themselves; brep and step hold the
    file's text or bytes, or its name below the record's folder, code the program's text or such a name of a .py file.
    Raises ValueError, in one line, where there is none, and for what cannot be read.
    """
    kind, value = _given(prompt)
    if isinstance(value, bytes | bytearray):
        return kind, bytes(value) if kind != "code" else value.decode("utf-8", "replace")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"prompt {prompt.id!r}: `{kind}` is {type(value).__name__}; a text, bytes or a file's name is it"
        )
    if kind == "code":
        return kind, _file(value, prompt, kind).decode("utf-8") if _is_name(value, (".py",)) else value
    if kind_of(value[:4096].encode("utf-8", "replace")) == kind:
        return kind, value.encode()
    if not _is_name(value, (".brep", ".brp", ".bin", ".step", ".stp")):
        raise ValueError(
            f"prompt {prompt.id!r}: `{kind}` {cut_short(value)} is neither such a file's text nor its name"
        )
    return kind, _file(value, prompt, kind)


def target_problem(prompt: Prompt) -> str | None:
    """Why a record has no target that can be compared with, as far as it is told without running anything; or None."""
    gt = prompt.record.get("gt")
    unit = prompt.record.get("unit") or (gt.get("unit") if isinstance(gt, Mapping) else None) or "mm"
    if unit != "mm":
        return f"prompt {prompt.id!r}: `unit` is {unit!r:.40}; targets are compared in mm, so write the record in mm"
    try:
        kind, data = target_in(prompt)
    except ValueError as error:  # of which errors of places are a kind
        return str(error)
    if isinstance(data, bytes) and len(data) > LARGEST:
        return f"prompt {prompt.id!r}: its target has {len(data):,} bytes; at most {LARGEST:,} are read"
    if isinstance(data, bytes) and kind_of(data) == "":
        return f"prompt {prompt.id!r}: `{kind}` begins as neither a BREP nor a STEP file does"
    return None


def disagreement(prompt: Prompt, facts: Mapping[str, Any]) -> str | None:
    """What a record tells of its target (volume, bbox, n_solids of `gt`) and is not so; None where all is.

    bbox: three sides, or two corners of three numbers. Relative differences of a thousandth are none.
    """
    gt = prompt.record.get("gt")
    told = {name: gt[name] for name in _NUMBERS if gt.get(name) is not None} if isinstance(gt, Mapping) else {}
    low, high = facts["box"]
    sides = [b - a for a, b in zip(low, high)]
    for name, value in told.items():
        numbers = _numbers(value)
        found = {"volume": [facts["volume"]], "n_solids": [float(facts["parts"])]}.get(name)
        if found is None:
            found = [*low, *high] if len(numbers) == 6 else sides
        slack = _CLOSE * max(map(abs, found))
        if len(numbers) != len(found) or any(not abs(a - b) <= slack for a, b in zip(numbers, found)):
            was = ", ".join(f"{number:.6g}" for number in found)
            return f"`{name}` of its `gt` is {str(value)[:60]}, and the target's is {was}"
    return None


def _given(prompt: Prompt) -> tuple[str, Any]:
    record, gt = prompt.record, prompt.record.get("gt")
    if gt is not None and not isinstance(gt, Mapping):
        raise ValueError(
            f"prompt {prompt.id!r}: `gt` is {type(gt).__name__}; expected a mapping with {' or '.join(KINDS)}"
        )
    for source in (gt or {}, record):
        for kind in KINDS:
            if source.get(kind) not in (None, "", b""):
                return kind, source[kind]
    raise ValueError(f"prompt {prompt.id!r} lacks a target: {', '.join(KINDS)}, in `gt` or as columns")


def _is_name(value: str, suffixes: tuple[str, ...]) -> bool:
    return "\n" not in value and value.lower().endswith(suffixes)


def _file(name: str, prompt: Prompt, kind: str) -> bytes:
    told = f"prompt {prompt.id!r}: `{kind}` {cut_short(name)}"
    path = file_at(path_of(name, prompt.root, f"prompt {prompt.id!r}: `{kind}`"), told)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{told} has {path.stat().st_size:,} bytes; at most {LARGEST:,} are read")
    return path.read_bytes()


def _numbers(value: Any) -> list[float]:
    """All numbers of a number or of nested lists."""
    if isinstance(value, list | tuple):
        return [number for each in value for number in _numbers(each)]
    return [float(value)] if isinstance(value, int | float) else [math.nan]
