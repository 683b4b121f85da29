"""Programs without the statements that write files: `exporters.export(...)` and its kin."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

_NAMES = frozenset(("export", "exportShape", "exportStep", "exportStl", "exportBrep", "exportSvg", "exportDXF", "save"))
_CALL = rf"(?:\w+\.)*exporters\.(?:{'|'.join(sorted(_NAMES))})\("
_COMMENTED = re.compile(rf"^[ \t]*#[ \t]*{_CALL}[^\n]*(?:\n|\Z)", re.MULTILINE)
_LINE = re.compile(rf"^[ \t]*{_CALL}[^\n]*(?:\n|\Z)", re.MULTILINE)
_PASS = b"pass"


def unwritten(code: str) -> str:
    """The program without them, commented-out ones included; of what is no Python, without lines that begin so."""
    code = _COMMENTED.sub("", code)
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _LINE.sub("", code)
    lines = code.encode().splitlines(keepends=True)
    for statement, alone in sorted(_writing(tree), key=lambda found: _place(found[0]), reverse=True):
        _take_out(lines, statement, alone)
    return b"".join(lines).decode()


def _writing(tree: ast.Module) -> Iterator[tuple[ast.stmt, bool]]:
    """Statements that do nothing else, and whether nothing but them stands in their block."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if not isinstance(block, list):
                continue
            found = [statement for statement in block if _writes(statement)]
            alone = len(found) == len(block) and node is not tree
            yield from ((statement, alone and statement is found[0]) for statement in found)


def _writes(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.ImportFrom):
        return [name.name for name in statement.names] == ["exporters"]
    called = statement.value.func if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) else None
    return isinstance(called, ast.Attribute) and called.attr in _NAMES


def _place(statement: ast.stmt) -> tuple[int, int]:
    return statement.lineno, statement.col_offset


def _take_out(lines: list[bytes], statement: ast.stmt, alone: bool) -> None:
    first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
    before, behind = lines[first][: statement.col_offset], lines[last][statement.end_col_offset :]
    said, end = behind.strip(), behind[len(behind.rstrip(b"\r\n")) :]
    if before.strip() or (said and not said.startswith(b"#")):
        lines[first : last + 1] = [before + _PASS + behind]  # others share its line
    else:
        lines[first : last + 1] = [before + _PASS + end] if alone else []
