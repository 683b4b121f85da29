"""Programs in colour, where what colours them is installed; rich brings it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"^([ \t]*```[^\n]*)$", re.MULTILINE)
_KINDS = (  # the first that a token's type is in: its class in the stylesheet
    ("Token.Comment", "comment"),
    ("Token.Keyword", "keyword"),
    ("Token.Literal.String", "string"),
    ("Token.Literal.Number", "number"),
    ("Token.Operator.Word", "keyword"),
    ("Token.Name.Function", "name"),
    ("Token.Name.Builtin", "name"),
    ("Token.Error", ""),
)


@dataclass(frozen=True)
class Bit:
    """A part of a program; kind: how it is coloured, or ""."""

    text: str
    kind: str = ""


def bits(text: str) -> tuple[Bit, ...]:
    """A text that is Python, or has some between lines of ```, in parts that make it up again."""
    try:
        from pygments import lex
        from pygments.lexers import PythonLexer
    except ImportError:
        return (Bit(text),)
    lexer = PythonLexer(stripnl=False, ensurenl=False)
    parts = _FENCE.split(text)
    found: list[Bit] = []
    for place, part in enumerate(parts):
        program = len(parts) == 1 or place % 4 == 2
        for kind, word in lex(part, lexer) if program else [("", part)]:
            bit = Bit(word, next((name for head, name in _KINDS if str(kind).startswith(head)), ""))
            if found and found[-1].kind == bit.kind:
                bit = Bit(found.pop().text + word, bit.kind)
            found.append(bit)
    return tuple(found)
