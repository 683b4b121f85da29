"""Runs CadQuery programs: source in, BREP out."""

from __future__ import annotations

import functools
import json
from typing import Any

from mmrl.sandbox import Dialect
from mmrl.solids import programs
from mmrl.solids.bodies import compound
from mmrl.solids.dialects import DIALECTS, tamed
from mmrl.solids.nouns import NO_RESULT, NOT_SOLID, Refused
from mmrl.solids.outputs import without_outputs
from mmrl.solids.packing import packed
from mmrl.solids.properties import kind_of_shape, solids_in
from mmrl.solids.reading import write_brep
from mmrl.solids.threads import one_thread

DIALECT = DIALECTS["cadquery"]
_MORE = {"debug": lambda *_, **__: None}  # of the viewer, as show_object


@functools.cache
def sieve() -> Dialect:
    import cadquery

    tamed(cadquery)
    return DIALECT.sieve(cadquery)


def prepare() -> None:
    """Import what is slow, and make and write a first solid: parts of the kernel are loaded when they are used."""
    import cadquery

    one_thread()
    sieve()
    made = cadquery.Workplane().box(1, 1, 1).cut(cadquery.Workplane().circle(0.2).extrude(1)).edges("|Z").fillet(0.1)
    write_brep(made.findSolid().wrapped)


def execute(source: str, argument: bytes = b"") -> bytes:
    """The result of a program, see mmrl.solids.programs: packed {"from", "solids"} and its BREP.

    argument: a Convention as JSON, or nothing for the dialect's. With `steps`, the head also has "lines" and a BREP
    follows for each. Raises Refused where the program is not to be run, and where
    its result is no solid; and what it raises.
    """
    import cadquery

    convention = programs.Convention.of({"results": DIALECT.results, **json.loads(argument or b"{}")})
    source = without_outputs(source, DIALECT.viewer)
    allowed = DIALECT.sieve_for(source, sieve())
    steps: list[tuple[int, bytes]] = []
    if convention.steps:
        for line, made in programs.steps_of(source, DIALECT.viewer, allowed, _is_shape, _MORE):
            shape = _shape_of(made, cadquery)
            if shape is not None and solids_in(shape):
                steps.append((line, write_brep(shape)))
    ran = programs.run(source, DIALECT.viewer, allowed, _MORE)
    found, where = programs.result_of(ran, convention, _is_shape, _count)
    shape = _shape_of(found, cadquery)
    if shape is None and isinstance(found, cadquery.Sketch):
        raise Refused(NOT_SOLID, f"{where} is a Sketch, and no solid; extrude it")
    if shape is None:
        raise Refused(NO_RESULT, f"{where} holds {_named(found)}, and no shape")
    count = _count(found)
    if not count:
        raise Refused(NOT_SOLID, f"{where} holds {_named(found)} of a {kind_of_shape(shape)}, and no solid")
    head = {"from": where, "solids": count, "lines": [line for line, _ in steps]}
    return packed(head, write_brep(shape), *(brep for _, brep in steps))


def _count(value: Any) -> int:
    """Its solids."""
    import cadquery

    shape = _shape_of(value, cadquery)
    return 0 if shape is None else len(solids_in(shape))


def _is_shape(value: Any) -> bool:
    import cadquery

    return isinstance(value, cadquery.Workplane | cadquery.Shape | cadquery.Assembly)


def _shape_of(value: Any, cadquery: Any) -> Any:
    """The kernel's shape of a Workplane (what stands on its stack), Shape or Assembly, or of a list of them."""
    shapes = [shape.wrapped for shape in _shapes(value, cadquery) if shape.wrapped is not None]
    if len(shapes) == 1:
        return shapes[0]
    return compound(shapes) if shapes else None


def _shapes(value: Any, cadquery: Any) -> list[Any]:
    if isinstance(value, cadquery.Workplane):
        value = value.vals()
    elif isinstance(value, cadquery.Assembly):
        value = value.toCompound()
    if isinstance(value, list | tuple):
        return [shape for each in value for shape in _shapes(each, cadquery)]
    return [value] if isinstance(value, cadquery.Shape) else []


def _named(value: Any) -> str:
    """Its kind, in words that no program chose."""
    name = type(value).__name__
    return f"a {name}" if name.isidentifier() and len(name) < 40 else "an object"
