"""Numbers as texts and LaTeX write them, read exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from .numerals import MOST, readable

_LONGEST = 4000  # characters; a number that stands before the last so many is no final answer
_NEAR = 60  # characters around a number that say what it belongs to

_NUMBER = re.compile(
    r"(?:(?<![\w)\]}?])[-+])?(?<!\?)(?<!\?/)(?<!\d)"
    r"(?:\d++(?:\.\d++)?|\.\d++)(?:[eE][-+]?\d++)?(?: ?/ ?\d++)?%?(?![\d)\]}]*\?)",
    re.ASCII,
)
_EQUALS = re.compile(r"(?<![<>!=:])=(?![=>])|≈")
_CARDINALS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_CALCULATION = re.compile(r"[\d\s()+*/×·÷.,?!$%-]+")
_ENDS_IN_ONE = re.compile(r"\d%?[\s$*]*$")

# -------------------------------------------------------------------- what a number belongs to

_JOINS = r"(?:, ?(?:or|and)\b|\b(?:or|and|to|oder|und|bis|ou|et|o|y|e|или|и)\b|[或和至到~±/|&,;–—-])"
_HEDGE = r"(?:\s*\b(?:maybe|perhaps|possibly|probably|even|vielleicht|peut-être|quizás)\b)?"
_LISTED = re.compile(rf"(?:[\s$]*{_JOINS}{_HEDGE}[\s$*({{]*(?:[A-Za-z]\??\s*=\s*)?|[\s$]+)\$?")
_LISTED_AFTER_OTHER = re.compile(rf"\?[\s$]*{_JOINS}[\s$]*(?:[A-Za-z]\??\s*=\s*)?$")
_UNITS = r"(?:h|hrs?|hours?|min|minutes?|ft|feet|foot|km|cm|m|kg|lbs?|pounds?|days?|weeks?|years?|months?|°|')"
_COMPOUND = re.compile(rf"\s{{0,3}}{_UNITS}\s*(?:and\s*|,\s*)?")
_DENIED = re.compile(
    r"(?:(?:\b(?:not|cannot|never|rather than|instead of|nicht|keine?|pas|не)|n['’]t)\s+(?:be\s+|the\s+|equal to\s+)?"
    r"|不(?:是|等于)|ではなく)[\s$*({]*$",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(r"\s*(?:or|oder|ou|o|或)\b")
_WHOLE_OF = re.compile(r"\d%? (?:out )?of (?:the |all )?$")
_LESS_OR_MORE = re.compile(
    r"(?:(?<![-=])>|<(?!-)|[≤≥≠±]|[<>!]=|\b(?:less|more|fewer|greater|larger|smaller|higher|lower|other) than"
    r"|\bat (?:least|most)|\bup to)[\s$*]*$",
    re.IGNORECASE,
)
_KNOWN = re.compile(r"\d[^.!?]* (?:in|of|for|from|among|across|with) (?:the|all|these|those|his|her|their|both|its) $")
_WHEN = re.compile(r"\d[^.!?]* (?:in|after|within|during|since|until|for) $")
_LABEL = re.compile(r"\b(?:step|question|problem|part|example|case|exercise|task) $", re.IGNORECASE)
_TERM_BEFORE = re.compile(r"[-+*/^\d)] ?[(\[]\s*$|(?:[\d)\]}?%¤]|(?<![A-Za-z])[A-Za-z]) ?[-+*/^×·÷][\s{$]*$")
_TERM_BEFORE_SIGN = re.compile(r"(?<![A-Za-z])[A-Za-z)?¤] +$")
_TERM_AFTER = re.compile(r"\s?(?:[-+*/×·÷]|\^)\s*(?:[\d(?]|(?![aAI] )[A-Za-z](?![A-Za-z]))|[abeinpqrxyz](?![A-Za-z])")


def number_in(text: str | None) -> Fraction | None:
    """The last number in `text`, exactly: 1,234.5, -3, 3/4, 1e-3, 12% (as 12/100), 3 million; None where there is none.

    Of LaTeX: \\frac{3}{4}, 2\\frac{1}{2}, 10^{5}, 1.6\\times 10^{-19}, 1{,}234. 5! is 120. A part of another expression
    is none (2\\sqrt{3}, x^2, 2x + 3, 10:30), nor is one of several (3 or 5, (3, 5), 5 ± 1), one that is compared
    (x > 5) or denied (not 5). Of an equation it is the last side, or else one that is a number: 8 in "7 + 1 = 8" and
    "8 = 7 + 1". Markdown's emphasis (**18**) is left out.

    A point or a comma is a decimal one, but for a comma before three digits: 1,234 is 1234, and 3,14 is 3.14. Where
    both occur the last is the decimal one (1.234,5). 1.234.567, 1 234 and 1'234 are thousands, 1,2,3 is a list.
    """
    text = _without_remark(readable((text or "")[-_LONGEST:]))
    sides = [span for span in _sides(text) if any(c.isdigit() or c == "?" for c in text[slice(*span)])]
    if not sides:
        bare = text.strip(" .!*$_\n").lower()
        return Fraction(_CARDINALS.index(bare)) if bare in _CARDINALS else None
    found = _last(text, *sides[-1])
    if found is not None or not _CALCULATION.fullmatch(text[slice(*sides[-1])]):
        return found
    results = (_last(text, *side) for side in reversed(sides[:-1]) if _ENDS_IN_ONE.search(text[slice(*side)]))
    return next((number for number in results if number is not None), None)


def numbers_named(text: str) -> bool:
    """Whether any number stands in the text, be it a part of a list or of a calculation."""
    return number_in(text) is not None or _NUMBER.search(readable(text[-_LONGEST:])) is not None


def _last(text: str, start: int, end: int) -> Fraction | None:
    """The last number of text[start:end] that is not denied; None where it is a part of something else."""
    tokens = list(_NUMBER.finditer(text, max(0, start - _NEAR), end))
    for place in reversed(range(len(tokens))):
        token = tokens[place]
        before, after = text[max(0, token.start() - _NEAR) : token.start()], text[token.end() : token.end() + _NEAR]
        if token.start() < start:
            return None
        if any(p.search(before) for p in (_DENIED, _WHOLE_OF, _KNOWN)):
            continue
        if _LABEL.search(before) and after[:1] in (":", ")"):
            continue
        if _TERM_AFTER.match(after) or any(p.search(before) for p in (_LESS_OR_MORE, _WHEN, _TERM_BEFORE)):
            return None
        if token[0][0] in "+-" and _TERM_BEFORE_SIGN.search(before):
            return None
        number = _value(token[0])
        if _LISTED_AFTER_OTHER.search(before):
            return None
        if place:
            between = text[tokens[place - 1].end() : token.start()]
            if (_LISTED.fullmatch(between) and _value(tokens[place - 1][0]) != number) or _COMPOUND.fullmatch(between):
                return None
        return number
    return None


def _value(token: str) -> Fraction | None:
    number, percent = token.rstrip("%"), token.endswith("%")
    above, _, below = number.replace(" ", "").partition("/")
    if len(number) > MOST or (below and not int(below)):
        return None
    exponent = re.search(r"[eE]([-+]?\d+)$", above)
    if exponent and abs(int(exponent[1])) > MOST:
        return None
    return Fraction(above) / int(below or 1) / (100 if percent else 1)


def _sides(text: str) -> Iterator[tuple[int, int]]:
    """Where the sides of an equation are, or all of the text."""
    start = 0
    for sign in _EQUALS.finditer(text):
        yield start, sign.start()
        start = sign.end()
    yield start, len(text)


def _without_remark(text: str) -> str:
    """The text without words in brackets at its end that explain a number before: "7 (see step 2)", not "7 (or 8)"."""
    bare = text.rstrip(" .!*$\n")
    start = bare.rfind("(")
    if not bare.endswith(")") or start < 1 or not bare[start - 1].isspace() or _ALTERNATIVE.match(bare, start + 1):
        return text
    explains = any(c.isalpha() or c == "=" for c in bare[start:])
    return text[:start] if explains and any(c.isdigit() for c in text[:start]) else text
