"""Chains of thought: a record's `cot`, as sections or as one text, with its answer as what is learned."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.config import ChainConfig
from mmrl.data.forms.columns import ANSWERS
from mmrl.sections import chained, structured

COT = "cot"


def with_completion(record: Mapping[str, Any], chain: ChainConfig) -> dict[str, Any]:
    """The record with the `completion` that its chain and answer make; itself where it has one, and no chain.

    `cot` is an object of sections, a text with their tags (around which others may stand, such as <THINK>), or a text
    without any, which can only be learned as it is: `style: free`.
    Raises ValueError for a record with neither or both, without an answer, whose sections are not those of `chain`, and
    for a part that is empty or holds one of the tags.
    """
    cot = record.get(COT)
    if cot is None:
        if record.get("completion") is None:
            raise ValueError(f"lacks `{COT}`, of which data.chain makes the `completion`")
        return dict(record)
    if record.get("completion") is not None:
        raise ValueError(f"has `{COT}` and `completion`; leave one of them out")
    answer = _answer(record)
    parts = _parts(cot, chain)
    names = [*chain.sections, chain.answer, *([chain.inside] if chain.inside else [])]
    for name, said in {**(parts if isinstance(parts, dict) else {COT: parts}), "answer": answer}.items():
        _check_part(name, said, names)
    if chain.style == "structured":
        if isinstance(parts, str):
            raise ValueError(f"`{COT}` is a text without the tags of {', '.join(chain.sections)}; see data.chain.style")
        made = structured(parts, answer, chain.sections, chain.inside, chain.answer)
    else:
        thought = parts if isinstance(parts, str) else "\n".join(parts[name].strip() for name in chain.sections)
        made = chained(thought.strip(), answer, chain.inside, chain.answer)
    return {**record, "completion": made}


def _parts(cot: Any, chain: ChainConfig) -> dict[str, str] | str:
    """What each section says, by the names of `chain`; or the thought, where it has no sections."""
    if isinstance(cot, str):
        cot = _tagged(cot, [*chain.sections, *([chain.inside] if chain.inside else [])], chain.sections)
        if isinstance(cot, str):
            return cot
    if not isinstance(cot, Mapping):
        raise ValueError(f"`{COT}` is {type(cot).__name__}, expected a text or an object of sections")
    found = {str(name).casefold(): said for name, said in cot.items() if said is not None}
    missing = [name for name in chain.sections if name.casefold() not in found]
    unknown = sorted(set(found) - {name.casefold() for name in chain.sections})
    if missing or unknown:
        told = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)}"
        raise ValueError(f"`{COT}` {told}; data.chain.sections are {', '.join(chain.sections)}")
    for name, said in found.items():
        if not isinstance(said, str):
            raise ValueError(f"`{COT}`: {name} is {type(said).__name__}, expected a text")
    return {name: found[name.casefold()] for name in chain.sections}


def _tagged(text: str, names: Sequence[str], sections: Sequence[str]) -> dict[str, str] | str:
    """The sections that a text has in tags, in whatever case; the text without the outer tag, where it has none."""
    outer = [name for name in names if name not in sections]
    for name in outer:
        text = re.sub(rf"^\s*<{re.escape(name)}>(.*)</{re.escape(name)}>\s*$", r"\1", text, flags=re.DOTALL | re.I)
    one = "|".join(map(re.escape, sections))
    found = re.findall(rf"<({one})>(.*?)</\1>", text, flags=re.DOTALL | re.I)
    if not found:
        return text
    rest = re.sub(rf"<({one})>.*?</\1>", "", text, flags=re.DOTALL | re.I).strip()
    if rest or len({name.casefold() for name, _ in found}) < len(found):
        raise ValueError(f"`{COT}` has " + (f"text outside its sections: {rest[:40]!r}" if rest else "a section twice"))
    return dict(found)


def _check_part(name: str, said: str, names: Sequence[str]) -> None:
    if not (said.strip() if name == "answer" else any(map(str.isalnum, said))):
        raise ValueError(f"`{COT}`: {name} is empty" if name != "answer" else "`answer` is empty")
    held = re.search(rf"</?(?:{'|'.join(map(re.escape, names))})>", said, re.I)
    if held:
        raise ValueError(f"{name} holds {held[0]}, a tag of data.chain")


def _answer(record: Mapping[str, Any]) -> str:
    """The answer that is learned: the first that the record holds."""
    held = next((record[name] for name in ANSWERS if record.get(name) is not None), None)
    first = held[0] if isinstance(held, list) and held else held
    if isinstance(first, bool) or not isinstance(first, str | int | float):
        raise ValueError(f"lacks `answer`, a text or a number, which stands behind its `{COT}`")
    return str(first)
