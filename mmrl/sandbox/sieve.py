"""The first sieve: what of a program's grammar a dialect allows. It tells early and in words; it is no boundary.

Public attributes of one module lead to any other, so that a program can always be written which passes and escapes
into Python. What holds is what the process may do at all: see worker/confine.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

from .outcome import Refused, Status

PROGRAM = "<program>"  # the file name by which reasons find a program's line
_DUNDER = re.compile(r"__\w+__")

# Ways from any object to the interpreter's own; no program that computes something needs them.
INNER = frozenset(
    [
        *("__subclasses__", "__globals__", "__builtins__", "__code__", "__closure__", "__bases__", "__base__"),
        *("__mro__", "mro", "__import__", "__loader__", "__spec__", "__getattribute__", "__reduce__", "__reduce_ex__"),
        *("__self__", "__func__", "__wrapped__", "gi_frame", "gi_code", "cr_frame", "cr_code", "ag_frame", "f_globals"),
        *("f_locals", "f_builtins", "f_back", "f_code", "tb_frame", "tb_next", "co_code", "co_consts", "func_globals"),
    ]
)


@dataclass(frozen=True)
class Dialect:
    """What programs of one kind may say.

    imports: modules that may be imported, with what is below them. stars: of them, those of which `*` may be. names:
    that may not be used, such as eval. attributes: those that may, beside the program's own; None: all but INNER.
    dunders: names between double underscores that may be used, beside being defined. without: kinds of grammar by the
    names of `ast`, such as ClassDef. dunder_texts: whether a text may hold such a name, by which format() would reach
    it. characters, nodes, depth: of the source and its tree. digits: of an integer, and of a power of two integers
    that are written out. text: characters of one literal.
    """

    imports: frozenset[str]
    stars: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    attributes: frozenset[str] | None = None
    dunders: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    dunder_texts: bool = True
    characters: int = 100_000
    nodes: int = 20_000
    depth: int = 100
    digits: int = 1000
    text: int = 20_000


def compiled(source: str, dialect: Dialect) -> CodeType:
    """The program, ready to be run. Raises Refused: syntax, or blocked with the line and what is wrong there."""
    if len(source) > dialect.characters:
        raise Refused(Status.BLOCKED, f"{len(source)} characters, {dialect.characters} are allowed")
    try:
        tree = ast.parse(source, PROGRAM)
    except (SyntaxError, ValueError) as error:  # a null byte, half a surrogate
        raise Refused(Status.SYNTAX, f"{type(error).__name__}: {error}") from None
    except (RecursionError, MemoryError):
        raise Refused(Status.SYNTAX, "nested too deeply to be parsed") from None
    check(tree, dialect)
    try:
        return compile(tree, PROGRAM, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise Refused(Status.SYNTAX, f"{type(error).__name__}: {error}") from None
    except (RecursionError, MemoryError):
        raise Refused(Status.SYNTAX, "nested too deeply to be compiled") from None


def check(tree: ast.Module, dialect: Dialect) -> None:
    """Raises Refused(blocked) for the first thing that the dialect does not allow."""
    line, count = 1, 0
    below: list[tuple[ast.AST, int]] = [(tree, 0)]
    while below:  # no recursion: the tree is a stranger's
        node, depth = below.pop()
        line, count = getattr(node, "lineno", line), count + 1
        if count > dialect.nodes:
            raise Refused(Status.BLOCKED, f"over {dialect.nodes} nodes of grammar")
        if depth > dialect.depth:
            raise Refused(Status.BLOCKED, f"line {line}: nested over {dialect.depth} deep")
        if why := next(_wrong(node, dialect), None):
            raise Refused(Status.BLOCKED, f"line {line}: {why}")
        below += [(child, depth + 1) for child in reversed(list(ast.iter_child_nodes(node)))]


def _wrong(node: ast.AST, dialect: Dialect) -> Iterator[str]:
    """What is wrong with one node, without those below it."""
    if type(node).__name__ in dialect.without:
        yield f"{type(node).__name__} is not allowed"
    if isinstance(node, ast.Import):
        yield from (_import(alias.name) for alias in node.names if not _may_import(alias.name, dialect))
    elif isinstance(node, ast.ImportFrom):
        yield from _from(node, dialect)
    elif isinstance(node, ast.Name):
        yield from _name(node.id, dialect)
    elif isinstance(node, ast.Attribute):
        yield from _attribute(node.attr, dialect)
    elif isinstance(node, ast.MatchClass):
        for attribute in node.kwd_attrs:
            yield from _attribute(attribute, dialect)
    elif isinstance(node, ast.Constant):
        yield from _constant(node.value, dialect)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.LShift):
        yield from _power(node, dialect)


def _import(name: str) -> str:
    return f"import of {name[:60]} is not allowed"


def _may_import(name: str, dialect: Dialect) -> bool:
    parts = name.split(".")
    above = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return bool(above & dialect.imports) and not any(part.startswith("_") for part in parts)


def _from(node: ast.ImportFrom, dialect: Dialect) -> Iterator[str]:
    module = node.module or ""
    if node.level or not (module == "__future__" or _may_import(module, dialect)):
        yield _import("." * node.level + module)
    for alias in node.names:
        if alias.name == "*":
            if module not in dialect.stars:
                yield f"import of * from {module[:60]} is not allowed"
        elif module != "__future__":
            yield from _attribute(alias.name, dialect)


def _name(name: str, dialect: Dialect) -> Iterator[str]:
    inner = name in INNER or (_DUNDER.fullmatch(name) and name not in dialect.dunders)
    if name in dialect.names or inner:
        yield f"the name {name[:60]} is not allowed"


def _attribute(name: str, dialect: Dialect) -> Iterator[str]:
    known = dialect.attributes is None or name in dialect.attributes
    inner = name in INNER or (_DUNDER.fullmatch(name) and name not in dialect.dunders)
    if inner or not (known or name in dialect.dunders):
        yield f"the attribute {name[:60]} is not allowed"


def _constant(value: object, dialect: Dialect) -> Iterator[str]:
    if isinstance(value, int) and value.bit_length() > dialect.digits * 3.33:
        yield f"an integer of over {dialect.digits} digits"
    if isinstance(value, str | bytes) and len(value) > dialect.text:
        yield f"a text of {len(value)} characters, {dialect.text} are allowed"
    if isinstance(value, str) and not dialect.dunder_texts and _DUNDER.search(value):
        yield "a text with a name between double underscores"


def _power(node: ast.BinOp, dialect: Dialect) -> Iterator[str]:
    """2 ** 10 ** 9, which the compiler would not work out, and the program would until its time is over."""
    base, exponent = (_whole(side) for side in (node.left, node.right))
    if base is None or exponent is None or exponent < 0:
        return
    bits = exponent + base.bit_length() if isinstance(node.op, ast.LShift) else exponent * base.bit_length()
    if bits > dialect.digits * 3.33:
        yield f"a number of over {dialect.digits} digits"


def _whole(node: ast.expr) -> int | None:
    """The integer that is written there, a power of integers included; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base, exponent = _whole(node.left), _whole(node.right)
        if base is not None and exponent is not None and 0 <= exponent * base.bit_length() <= 4096:
            return base**exponent
    return None
