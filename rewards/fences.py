"""Blocks of code in a completion, between ``` or ~~~."""

from __future__ import annotations

import re

# A block may lack its end where the completion has none.
_BLOCK = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>```+|~~~+)[ \t]*(?P<language>[\w+#.-]*)[^\n`]*\n"
    r"(?P<code>.*?)(?:^[ \t]*(?P=fence)[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)


def blocks(text: str) -> list[tuple[str, str]]:
    """(language in small letters, code) of each block. What stands in a list is moved left with its fence."""
    found = _BLOCK.finditer(text.replace("\r\n", "\n"))
    return [(one["language"].lower(), _moved(one["code"], len(one["indent"]))) for one in found]


def _moved(code: str, indent: int) -> str:
    """Lines without as much of their indentation as the fence has."""
    return re.sub(rf"^[ \t]{{1,{indent}}}", "", code, flags=re.MULTILINE) if indent else code
