"""The form of a completion: sections in tags such as <think>...</think><answer>...</answer>, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmrl.types import Sample, Score

from .answers import normalised, readings, text_of
from .boxes import NoBoxes, items_in
from .places import tagged

SATORI = ("caption", "bbox", "(think)", "answer")


def segments(
    samples: list[Sample],
    names: Sequence[str] = SATORI,
    boxes: Sequence[str] = ("bbox",),
    empty: bool = False,
    opened: str | None = None,
) -> list[Score]:
    """1 where the completion is exactly these sections in this order, one each, white space between them; else 0.

    names: of the tags; one in round brackets may be left out. The default is SATORI's, whose paper has the section
    think and whose released code has not; ["think", "answer"] is the format of R1, R1-Reward and VLM-R1.
    boxes: sections that must hold at least one box. empty: whether sections may be empty. opened: the tag that the
    model's template opens already, so that the policy only closes it ("think").
    A tag of these names inside another section, or twice, is a fault. Details say which fault was found first.
    """
    if not names or len({_bare(name) for name in names}) < len(names):
        raise ValueError(f"names={list(names)} must name one or more different tags")
    return [_score(_fault(_begun(text_of(sample), opened), names, boxes, empty)) for sample in samples]


def turns(
    samples: list[Sample],
    think: str = "think",
    call: str = "tool_call",
    answer: str = "answer",
    strict: bool = False,
    opened: str | None = None,
) -> list[Score]:
    """1 where every turn of the policy has the form that its place asks for, else 0: VisionThink, there times 0.5.

    The last turn is one <think> and one <answer>, every earlier one is one <think> and one <call> without an answer,
    in this order. A conversation of one turn therefore has no call. strict: nothing may stand around the sections,
    either; VisionThink counts tags only. opened: as in `segments`, for every turn.
    """
    return [_score(_fault_of_turns(sample, think, call, answer, strict, opened)) for sample in samples]


def label(samples: list[Sample], tag: str = "class", labels: Sequence[str] | None = None) -> list[Score]:
    """1 where the last whole <tag> holds one of `labels`, else 0: TimeMaster's format, a legal class was named.

    labels: those that are legal; without them the record's column `choices`. Case, outer white
    space and emphasis do not count, nor does what stands in a thought.
    """
    return [_legal(sample, tag, labels) for sample in samples]


def _legal(sample: Sample, tag: str, labels: Sequence[str] | None) -> Score:
    known = labels or sample.prompt.record.get("choices")
    if not known:
        return Score(None, f"prompt {sample.prompt.id!r} lacks `choices`, and there is no option `labels`", "na")
    said = next(iter(readings(text_of(sample), f"tag:{tag}")), None)
    named = said is not None and normalised(said) in {normalised(str(name)) for name in known}
    return Score.of(float(named), label=said or "")


def _score(fault: str | None) -> Score:
    return Score.of(0.0, why=fault) if fault else Score.of(1.0)


def _fault(text: str, names: Sequence[str], boxes: Sequence[str], empty: bool) -> str | None:
    bare = [_bare(name) for name in names]
    expected = [name for name in bare if name in names or f"<{name}>" in text]
    if fault := _fault_of_order(text, bare, expected):
        return fault
    rest = text
    for name in expected:
        inside = tagged(text, name) or ""
        rest = rest.replace(f"<{name}>{inside}</{name}>", "", 1)
        if not (empty or inside.strip()):
            return f"<{name}> is empty"
        if name in boxes and not _holds_box(inside):
            return f"<{name}> holds no box"
    return f"text outside the tags: {rest.strip()[:40]!r}" if rest.strip() else None


def _fault_of_order(text: str, names: Sequence[str], expected: Sequence[str]) -> str | None:
    """What is wrong with the tags of these names, where the `expected` ones should stand one after the other."""
    found = re.findall(rf"</?(?:{'|'.join(map(re.escape, names))})>", text)
    if found == [tag for name in expected for tag in (f"<{name}>", f"</{name}>")]:
        return None
    for name in expected:
        opened, closed = found.count(f"<{name}>"), found.count(f"</{name}>")
        if (opened, closed) != (1, 1):
            return f"<{name}> is opened {opened} times and closed {closed} times"
    return f"tags in another order: {' '.join(found)}"


def _fault_of_turns(sample: Sample, think: str, call: str, answer: str, strict: bool, opened: str | None) -> str | None:
    said = [turn.text for turn in sample.turns if turn.trained] or [text_of(sample)]
    for number, text in enumerate((_begun(text, opened) for text in said), 1):
        expected = (think, answer if number == len(said) else call)
        fault = _fault_of_order(text, (think, call, answer), expected)
        if not fault and strict:
            fault = _fault(text, expected, (), empty=True)
        if fault:
            return f"turn {number} of {len(said)}: {fault}"
    return None


def _begun(text: str, opened: str | None) -> str:
    return text if opened is None else f"<{opened}>{text}"


def _holds_box(text: str) -> bool:
    try:
        return bool(items_in(text, "whole"))
    except NoBoxes:
        return False


def _bare(name: str) -> str:
    return name[1:-1] if name.startswith("(") and name.endswith(")") else name
