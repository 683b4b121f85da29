"""What judges of pictures write, read: marks on a scale, shares of two, the better one, a table of winners.

Each reader gives None where the words do not say it, or say it twice and differently: then there is no verdict.
Thoughts do not count.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmrl.thoughts import behind_thoughts

_SCALE = r"(?:\s*[(\[]\s*\d+\s*(?:-|\N{EN DASH}|to)\s*\d+\s*[)\]])?"  # "(1-5)" after the name of a mark
_GAP = r"[^\w.,\-\N{MINUS SIGN}]{0,8}"  # a colon, spaces, emphasis, a bracket
_NUMBER = r"(-?\d+(?:[.,]\d+)?)"
_RANGE = r"(?![ \t]*(?:[-\N{EN DASH}~,;]|to\b|or\b|and\b)[ \t]*-?\d)"  # "3 or 4" is no mark
_OF = r"(?:[*_]{{0,3}}(?:\s*/\s*|\s+(?:out\s+)?of\s+){most:g}(?:\.0+)?)?"  # "4/5"
_END = r"(?!\w|[.,]\d|[*_]{0,3}(?:\s*[/%]|\s+(?:(?:out\s+)?of|percent)\b))"  # "4 / 10" is a mark on another scale
_BETTER = re.compile(r"\b(?:image|picture)\s*([12])\s+is\s+(?:the\s+)?better\b", re.IGNORECASE)
_NAMED = re.compile(r"\b(?:image|picture)\s*([12])\b(?!\s*/\s*[12])", re.IGNORECASE)  # "Image 1/2" names neither
# What denies a verdict, or leaves it open, in the words before it.
_DOUBT = re.compile(
    r"\b(?:not|no|nor|neither|never|cannot|unable|unclear|unsure|if|whether|refuse|decline|doubt|hard|difficult)\b"
    r"|n['\u2019]t\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[.!?;,:\n]")
_BEFORE = 200  # characters in which a clause begins
_TOLERANCE = 0.02  # of the sum of two shares, which judges round


def said_mark(reply: str, name: str, low: float, high: float) -> float | None:
    """The number after every `name` of the reply, such as "Final Score: 4" or "Alignment Score (1-5): 3,5"."""
    found = _numbers(behind_thoughts(reply), re.escape(name).replace(r"\ ", r"\s+"), high)
    return found.pop() if len(found) == 1 and low <= min(found) <= high else None


def said_marks(reply: str, names: Sequence[str], low: float, high: float) -> list[float] | None:
    """One such mark for each name, in order."""
    marks = [said_mark(reply, name, low, high) for name in names]
    return [mark for mark in marks if mark is not None] if None not in marks else None


def said_shares(reply: str, names: Sequence[str]) -> list[float] | None:
    """For each name, what image 1 has of the 1 that it shares with image 2.

    A name stands before two lines, "Image 1: 0.4" and "Image 2: 0.6".
    """
    text = behind_thoughts(reply)
    shares = []
    for name in names:
        blocks = re.findall(rf"{re.escape(name)}\s*:?(.*?)(?=\n[^\n]*?score\b|\Z)", text, re.IGNORECASE | re.DOTALL)
        pair = [_numbers(block, rf"image\s*{place}", 1) for block in blocks for place in (1, 2)]
        if len(pair) != 2 or any(len(found) != 1 for found in pair):
            return None
        first, second = (found.pop() for found in pair)
        if min(first, second) < 0 or abs(first + second - 1) > _TOLERANCE:
            return None
        shares.append(first / (first + second))
    return shares


def said_better(reply: str) -> float | None:
    """1 for "Image 1 is better", 0 for "Image 2 is better": in every <answer>, or without one anywhere.

    A clause that denies or doubts it ("I cannot say that ...") is no verdict.
    """
    text = behind_thoughts(reply)
    answers = [piece.partition("</answer>")[0] for piece in text.split("<answer>")[1:] if "</answer>" in piece]
    found = {_better(piece) for piece in answers or [text]}
    return found.pop() if len(found) == 1 else None


def _better(text: str) -> float | None:
    found = list(_BETTER.finditer(text))
    if len({name[1] for name in found}) != 1 or any(_doubted(text, name) for name in found):
        return None
    return float(found[0][1] == "1")


def _doubted(text: str, name: re.Match[str]) -> bool:
    before = _CLAUSE.split(text[max(0, name.start() - _BEFORE) : name.start()])[-1]
    return bool(_DOUBT.search(before)) or text[name.end() : name.end() + 3].lstrip(" *").startswith("?")


@dataclass(frozen=True)
class Winners:
    """1 where image 1 wins, 0 where image 2 does, 0.5 where the words name neither or both."""

    overall: float
    categories: tuple[float, ...]


def said_winners(reply: str) -> Winners | None:
    """The winners of the JSON object {"categories": [{"cat_winner": "Image 1"}, ...], "winner": "Image 2"}.

    None without a clear winner overall.
    """
    told = _object(behind_thoughts(reply))
    overall = None if told is None else _winner(told.get("winner"))
    if told is None or overall is None:
        return None
    categories = told.get("categories")
    listed = categories if isinstance(categories, list) else []
    found = [_winner(category.get("cat_winner")) for category in listed if isinstance(category, dict)]
    return Winners(overall, tuple(0.5 if winner is None else winner for winner in found))


def _numbers(text: str, name: str, most: float) -> set[float]:
    pattern = rf"\b{name}\b{_SCALE}{_GAP}{_NUMBER}{_RANGE}{_OF.format(most=most)}{_END}"
    found = {float(number.replace(",", ".")) for number in re.findall(pattern, text, re.IGNORECASE)}
    return {number for number in found if math.isfinite(number)}


def _winner(said: Any) -> float | None:
    found = set(_NAMED.findall(said)) if isinstance(said, str) and not _DOUBT.search(said) else set()
    return float(found == {"1"}) if len(found) == 1 else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if any(found[name] != value for name, value in pairs):
        raise ValueError("a name has two values")
    return found


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object in the text, from its first brace to its last."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        found = json.loads(text[start : end + 1], object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
