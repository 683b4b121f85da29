"""The form of a completion: sections in tags such as <think>...</think><answer>...</answer>, and nothing else."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence

from mmrl.sections import ANSWER, INSIDE, SECTIONS, checked_names
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


def structured(
    samples: list[Sample],
    sections: Sequence[str] = SECTIONS,
    inside: str | None = INSIDE,
    answer: str = ANSWER,
    graded: bool = False,
    opened: str | None = None,
) -> list[Score]:
    """1 where the completion is a structured answer and nothing else: each section once, in order, then the answer.

    The sections stand in the tag `inside` (null: in none), the answer behind it. A section holds a word at least, the
    answer is not blank, and nothing but white space stands around them. The names are Audio-Reasoner's, which brought
    in planning, caption, reasoning and summary; SARI has the same four and does not tell its tags.
    graded: k / n in place of 0, of n sections with the answer: k of them stand once, are not empty and follow one
    another; where all do and something else is wrong, k is n - 1. opened: the tag that the model's template opens.
    Details say which fault was found first.
    """
    names = checked_names(sections, inside, answer)
    return [_structure(_begun(text_of(s), opened), [*sections, answer], names, inside, graded) for s in samples]


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


def _structure(text: str, parts: Sequence[str], names: Sequence[str], inside: str | None, graded: bool) -> Score:
    pieces = re.split(rf"(</?(?:{'|'.join(map(re.escape, names))})>)", text)
    fault = _fault_of_order(text, names, _whole(parts, inside)) or _fault_of_pieces(pieces, parts)
    if fault is None or not graded:
        return _score(fault)
    right = min(_in_order(pieces, parts), len(parts) - 1)
    return Score.of(right / len(parts), why=fault, parts=right)


def _whole(parts: Sequence[str], inside: str | None) -> list[str]:
    """The tags of a structured answer, in order."""
    *sections, answer = parts
    thought = _after_another(sections)
    return [*(thought if inside is None else [f"<{inside}>", *thought, f"</{inside}>"]), *_after_another([answer])]


def _fault_of_pieces(pieces: Sequence[str], parts: Sequence[str]) -> str | None:
    """What is wrong between the tags of a text whose tags are right; pieces: texts and tags in turn."""
    for before, said in zip(["", *pieces[1::2]], pieces[::2]):
        name = before.strip("<>")
        if name in parts and not _says(name, said, parts):
            return f"<{name}> is empty"
        if name not in parts and said.strip():
            return f"text outside the tags: {said.strip()[:40]!r}"
    return None


def _in_order(pieces: Sequence[str], parts: Sequence[str]) -> int:
    """How many of the parts stand once, say something and follow one another in their order."""
    tags = pieces[1::2]
    found = [
        name
        for tag, said, end in zip(tags, pieces[2::2], tags[1:])
        if (name := tag.strip("<>")) in parts
        and end == f"</{name}>"
        and (tags.count(tag), tags.count(end)) == (1, 1)
        and _says(name, said, parts)
    ]
    longest: list[int] = []  # of the rising sequences of each length, the lowest end
    for place in map(list(parts).index, found):
        at = bisect_left(longest, place)
        longest[at : at + 1] = [place]
    return len(longest)


def _says(name: str, said: str, parts: Sequence[str]) -> bool:
    """Whether a part is not empty: a section has a word, an answer may be a sign."""
    if name == parts[-1]:  # what has no width is blank, too
        return any(not c.isspace() and unicodedata.category(c) not in ("Cf", "Cc") for c in said)
    return any(character.isalnum() for character in said)


def _fault(text: str, names: Sequence[str], boxes: Sequence[str], empty: bool) -> str | None:
    bare = [_bare(name) for name in names]
    expected = [name for name in bare if name in names or f"<{name}>" in text]
    if fault := _fault_of_order(text, bare, _after_another(expected)):
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


def _after_another(names: Sequence[str]) -> list[str]:
    """The tags of names that stand one after the other."""
    return [tag for name in names for tag in (f"<{name}>", f"</{name}>")]


def _fault_of_order(text: str, names: Sequence[str], expected: Sequence[str]) -> str | None:
    """What is wrong with the tags of these names, where the `expected` ones should be all, in this order."""
    found = re.findall(rf"</?(?:{'|'.join(map(re.escape, names))})>", text)
    if found == list(expected):
        return None
    for opening in (tag for tag in expected if not tag.startswith("</")):
        opened, closed = found.count(opening), found.count(f"</{opening[1:]}")
        if (opened, closed) != (1, 1):
            return f"{opening} is opened {opened} times and closed {closed} times"
    return f"tags in another order: {' '.join(found)}"


def _fault_of_turns(sample: Sample, think: str, call: str, answer: str, strict: bool, opened: str | None) -> str | None:
    said = [turn.text for turn in sample.turns if turn.trained] or [text_of(sample)]
    for number, text in enumerate((_begun(text, opened) for text in said), 1):
        expected = (think, answer if number == len(said) else call)
        fault = _fault_of_order(text, (think, call, answer), _after_another(expected))
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
