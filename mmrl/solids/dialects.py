"""Dialects of CAD programs: what one may import and name, where its result is, and which runner runs it.

These tables are for the sandbox's first sieve, which tells an honest program early and in words what will not do. They
are no boundary: what holds a dishonest one is the sandbox.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import ModuleType

from mmrl.sandbox import Dialect

_MATH = ("math", "cmath", "random", "itertools", "functools", "collections", "dataclasses", "typing", "enum", "numpy")
_BELOW = ("numpy.linalg", "numpy.random")  # modules by whose names programs reach functions that compute
_TYPES = (str, int, float, complex, bool, list, tuple, dict, set, frozenset)
# Builtins that reach files, other programs' variables, or attributes by a text that no sieve reads.
_NAMES = """eval exec compile open input breakpoint globals locals vars getattr setattr delattr memoryview help exit
quit"""
# Attributes of the libraries that read or write files, open viewers, or lead to the kernel below.
_NUMPY = """DataSource fromfile fromregex genfromtxt load loadtxt memmap save savetxt savez savez_compressed tofile dump
dumps frombuffer fromiter ctypes data show_config show_runtime info get_include"""
_CADQUERY = """wrapped toOCC toVTK toVTKPolyData toVtkPolyData toJSON toSvg getSVG text export exportBin exportBrep
exportDXF exportSTEP exportShape exportStep exportStl exportSvg importBin importBrep importDXF importSTEP importShape
importStep importStl load loadBrep plot save show exporters importers occ_impl assembly cq cqgi vis func"""
_BUILD123D = """wrapped export_brep export_gltf export_step export_stl export_svg export_3mf import_brep import_step
import_stl import_svg import_svg_as_buildline_code import_svg_document importers exporters Mesher ExportDXF ExportSVG
Text make_text serialize_shape deserialize_shape show_topology to_splines pack"""
# Attributes that objects get when they are made, and no class has.
_MADE = {
    "cadquery": "objects ctx parent plane origin xDir yDir zDir children loc name obj color metadata tag tags",
    "build123d": "part sketch line children parent label color location position orientation edges faces",
}


@dataclass(frozen=True)
class CadDialect:
    """library: what its programs import. runner: the module that runs them. refused: attributes that they may not use.
    results: variables that hold the result, the first that is there. viewer: the function whose argument is a result.
    """

    library: str
    runner: str
    refused: frozenset[str]
    results: tuple[str, ...]
    viewer: str

    def sieve(self, library: ModuleType) -> Dialect:
        """What the sandbox lets through: all public attributes of the library's classes, of numbers and texts, and of
        the modules that compute, but for the refused ones and those that are modules. library: imported."""
        computing = [importlib.import_module(name) for name in (*_MATH, *_BELOW)]
        starred = set(getattr(library, "__all__", None) or dir(library))  # what `from library import *` brings
        attributes = _public([library, *computing], _TYPES) | set(_MADE[self.library].split()) | {"linalg", "random"}
        return Dialect(
            imports=frozenset({*_MATH, self.library}),
            stars=frozenset({"math", self.library}),
            names=frozenset(_NAMES.split()) | (self.refused & starred),
            attributes=frozenset(attributes - self.refused),
            dunders=frozenset({"__name__", "__init__", "__post_init__"}),
            characters=50_000,
            nodes=10_000,
            depth=1000,  # a chain of calls is two deep for each
        )

    def sieve_for(self, source: str, sieve: Dialect) -> Dialect:
        """The same with the attributes that the program itself makes: fields of its classes, what it assigns."""
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # told by the sieve
            return sieve
        own = {name for name in _own(tree) if not (name.startswith("__") and name.endswith("__"))} - self.refused
        return replace(sieve, attributes=(sieve.attributes or frozenset()) | own)


DIALECTS = {
    "cadquery": CadDialect(
        "cadquery",
        "mmrl.solids.runners.cadquery",
        frozenset(f"{_CADQUERY} {_NUMPY}".split()),
        ("result", "r", "solid", "part"),
        "show_object",
    ),
    "build123d": CadDialect(
        "build123d",
        "mmrl.solids.runners.build123d",
        frozenset(f"{_BUILD123D} {_NUMPY}".split()),
        ("result", "part"),
        "show",
    ),
}
LANGUAGES = ("python", "py", "python3", *DIALECTS)  # of the fenced blocks that hold a program


def dialect(name: str) -> CadDialect:
    """Raises ValueError for an unknown one."""
    if name not in DIALECTS:
        raise ValueError(f"dialect={name!r:.60} is none of {', '.join(DIALECTS)}")
    return DIALECTS[name]


def tamed(library: ModuleType) -> None:
    """Take modules out of CadQuery's namespace whose names are those of methods, too (`sketch`, `hull`); of one whose
    classes programs name by it (`cq.selectors.BoxSelector`) only these classes are left."""
    for name in ("sketch", "hull"):
        if inspect.ismodule(getattr(library, name, None)):
            delattr(library, name)
    held = vars(library).get("selectors")
    if inspect.ismodule(held):
        classes = {name: value for name, value in vars(held).items() if inspect.isclass(value) and name[0] != "_"}
        setattr(library, "selectors", type("selectors", (), classes))  # noqa: B010 (a module's attribute)


def _public(modules: Iterable[ModuleType], types: Iterable[type]) -> set[str]:
    """Names that stand in the modules and in their classes; of those that are a module anywhere, none."""
    found, reach = set[str](), set[str]()
    classes = list(types)
    for module in modules:
        held = vars(module)
        reach |= {name for name, value in held.items() if inspect.ismodule(value)}
        for name in getattr(module, "__all__", None) or [name for name in held if not name.startswith("_")]:
            found.add(name)
            classes += [held[name]] if inspect.isclass(held.get(name)) else []
    for kind in classes:
        for name in {*dir(kind), *getattr(kind, "__annotations__", ())}:
            if not name.startswith("_"):
                (reach if inspect.ismodule(getattr(kind, name, None)) else found).add(name)
    return found - reach


def _own(tree: ast.Module) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                    yield statement.name
                elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    yield statement.target.id
                elif isinstance(statement, ast.Assign):
                    yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
