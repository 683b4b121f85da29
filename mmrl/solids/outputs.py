"""Statements that write files or open viewers: published programs end with them, and here no file is written.

`exporters.export(x, "a.step")` and `x.exportStep("a.step")` become what shows x, for that is a result, too; imports of
viewers and their settings become nothing. Lines stay where they are, so that reasons find them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Set

_EXPORTS = """export exportShape exportStep exportSTEP exportStl exportBrep exportBin exportDXF exportSvg exportAssembly
save export_step export_stl export_brep export_gltf export_svg export_3mf"""
_WRITES = frozenset(_EXPORTS.split())  # their first argument, or else the object whose method they are
_LIBRARIES = frozenset(["cadquery", "build123d"])
_INSIDE = frozenset(["exporters", "assembly", "occ_impl"])  # modules of theirs, by which a file is written
_PACKAGES = "ocp_vscode cq_vscode jupyter_cadquery cadquery.vis cq_server cq_server.ui yacv_server ocp_viewer cq_viewer"
_VIEWERS = frozenset(_PACKAGES.split())
_SHOWS = frozenset(["show", "show_object", "show_all"])
_SETTINGS = frozenset(["set_port", "set_defaults", "set_viewer_config", "reset_show", "show_clear"])


def without_outputs(source: str, viewer: str) -> str:
    """The program with its files and viewers left out. viewer: the function by which results are shown."""
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # told by the sieve
        return source
    lines = [line.encode() for line in source.split("\n")]
    modules = _LIBRARIES | {"exporters"} | set(_names_of_modules(tree))
    found = [(node, said) for node in ast.walk(tree) if (said := _instead(node, source, viewer, modules)) is not None]
    for node, said in sorted(found, key=lambda one: -_start(one[0])[0] * 10**6 - _start(one[0])[1]):
        _put(lines, node, said)
    return b"\n".join(lines).decode()


def _names_of_modules(tree: ast.Module) -> Iterator[str]:
    """What the program calls the libraries and what writes their files."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (each.asname for each in node.names if each.asname and each.name in _LIBRARIES | _INSIDE)


def _instead(node: ast.AST, source: str, viewer: str, modules: Set[str]) -> str | None:
    """What is written in the statement's place; None where it stays."""
    if isinstance(node, ast.Import) and all(alias.name in _VIEWERS for alias in node.names):
        return "()"
    if isinstance(node, ast.ImportFrom) and not node.level:
        names = [alias for alias in node.names if alias.name != "exporters"]
        if node.module in _VIEWERS or not names or node.module == "cadquery.exporters":
            return "()"
        if len(names) < len(node.names):
            return f"from {node.module} import {', '.join(map(ast.unparse, names))}"
        return None
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return None
    called, given = node.value.func, [*node.value.args, *(each.value for each in node.value.keywords)]
    if isinstance(called, ast.Name) and called.id in _SETTINGS:
        return "()"
    if isinstance(called, ast.Name) and called.id in _SHOWS - {viewer}:
        return f"{viewer}({', '.join(_segment(source, one) for one in node.value.args)})"
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    if name not in _WRITES:
        return None
    if isinstance(called, ast.Attribute) and not _is_module(called.value, modules):
        return f"{viewer}({_segment(source, called.value)})"
    return f"{viewer}({_segment(source, given[0])})" if given else "()"


def _is_module(node: ast.expr, modules: Set[str]) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in _INSIDE and _is_module(node.value, modules)
    return isinstance(node, ast.Name) and node.id in modules


def _segment(source: str, node: ast.expr) -> str:
    return ast.get_source_segment(source, node) or ast.unparse(node)


def _start(node: ast.AST) -> tuple[int, int]:
    assert isinstance(node, ast.stmt)
    return node.lineno, node.col_offset


def _put(lines: list[bytes], node: ast.AST, said: str) -> None:
    """Replace the statement's text, on as many lines as it had."""
    assert isinstance(node, ast.stmt) and node.end_lineno is not None and node.end_col_offset is not None
    first, last = node.lineno - 1, node.end_lineno - 1
    lost = (last - first) - said.count("\n")
    if lost and said.endswith(")"):
        said = said[:-1] + "\n" * lost + ")"
    elif lost:
        said += " \\\n" * lost
    whole = lines[first][: node.col_offset] + said.encode() + lines[last][node.end_col_offset :]
    lines[first : last + 1] = whole.split(b"\n")
