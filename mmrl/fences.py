"""Fenced blocks of an answer: what stands between lines of ``` or ~~~."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

# Only a line of its own opens or closes one, so that ``` in a program's texts does not; lines may end as in Windows. A
# block may lack its end where the completion has none.
_BLOCK = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>```+|~~~+)[ \t]*(?P<language>[\w+#.-]*)[^\n`]*\n"
    r"(?P<code>.*?)(?:^[ \t]*(?P=fence)[ \t\r]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """language: in small letters, "" without one. start, end: where its inside stands in the text. indent: of its
    fence, in letters."""

    language: str
    start: int
    end: int
    indent: int

    def code(self, text: str) -> str:
        """Its inside, with the line ends of Python. What stands in a list is moved left with its fence."""
        code = text[self.start : self.end].replace("\r\n", "\n")
        return re.sub(rf"^[ \t]{{1,{self.indent}}}", "", code, flags=re.MULTILINE) if self.indent else code


def blocks(text: str) -> list[Block]:
    """Of a text, in order."""
    found = _BLOCK.finditer(text)
    return [Block(one["language"].lower(), *one.span("code"), len(one["indent"])) for one in found]


def last_of(text: str, languages: Collection[str]) -> Block | None:
    """The last block of these languages, or else of no language; None without one."""
    found = blocks(text)
    marked = [block for block in found if block.language in languages]
    of_nobody = [block for block in found if not block.language]
    return next(iter([*marked[-1:], *of_nobody[-1:]]), None)
