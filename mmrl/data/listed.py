"""Where a text shows the options of multiple choice."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJ"

Span = tuple[int, int]

# K goes on where J is not the last.
_LINE = re.compile(r"^[ \t]*[(\[]?([A-K])[)\].:][ \t]+(?=\S)", re.MULTILINE)
_BRACKET = re.compile(r"[(\[]([A-K])[)\]][ \t]*(?=\S)")
_POINT = re.compile(r"(?<![\w.])([A-K])[.):][ \t]+(?=\S)")
_SENTENCE = re.compile(r"(?<![A-Z])[.?!]\s+(?=[A-Z])")
_AFTER = dict(zip(LETTERS, LETTERS[1:] + "K"))


def spans_of(text: str, choices: Sequence[str] | None) -> list[Span] | None:
    """Where the options stand in a text, without their letters."""
    if choices is not None:
        items = [rf"(?<!\w)[(\[]?{letter}[)\].:]*\s*({re.escape(body)})" for letter, body in zip(LETTERS, choices)]
        found = re.search(r"(?!\w)[\s,;.|/]*(?:(?:or|and)\s+)?".join(items) + r"(?!\w)", text)
        if found:
            return [found.span(i + 1) for i in range(len(choices))]
        found = _without_letters(text, choices)
        return [found.span(2 * i + 1) for i in range(len(choices))] if found else None
    return next((spans for pattern in (_LINE, _BRACKET, _POINT) if (spans := _listed(text, pattern))), None)


def _without_letters(text: str, choices: Sequence[str]) -> re.Match[str] | None:
    """The last place where the options stand one after another, quotes around them being their own."""
    items = [rf"(?<!\w)((?P<q{i}>['\"]?){re.escape(body)}(?P=q{i}))(?!\w)" for i, body in enumerate(choices)]
    between = r"(?:\s*(?:[,;/|]|\n)\s*(?:[-*•]\s+)?(?:(?:or|and)\s+)?|\s+(?:or|and)\s+)"
    return next(iter(deque(re.finditer(between.join(items), text), maxlen=1)), None)


def unquoted(option: str) -> str:
    return option[1:-1] if len(option) > 2 and option[0] == option[-1] and option[0] in "'\"" else option


def _listed(text: str, pattern: re.Pattern[str]) -> list[Span] | None:
    """The last run of items that begin with A, B, C ...; the last item ends with its line or its first sentence."""
    marks = list(pattern.finditer(text))
    starts = [place for place, mark in enumerate(marks) if mark[1] == "A"]
    if not starts:
        return None
    run = [marks[starts[-1]]]
    for mark in marks[starts[-1] + 1 :]:
        if mark[1] == _AFTER.get(run[-1][1]):  # another letter is a part of an option, as in "B. E. coli"
            run.append(mark)
    if not 2 <= len(run) <= len(LETTERS):
        return None
    ends = [mark.start() for mark in run[1:]]
    line = text.find("\n", run[-1].end())
    last = text[run[-1].end() : line if line >= 0 else len(text)]
    sentence = _SENTENCE.search(last) if pattern is not _LINE else None
    ends.append(run[-1].end() + (sentence.start() if sentence else len(last)))
    return [(mark.end(), mark.end() + len(text[mark.end() : end].rstrip(" \t\r\n,;"))) for mark, end in zip(run, ends)]
