"""Runs build123d programs: source in, BREP out. build123d and CadQuery need other kernels: each has its environment."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterable
from typing import Any

from mmrl.sandbox import Dialect
from mmrl.solids import programs
from mmrl.solids.dialects import DIALECTS
from mmrl.solids.nouns import NO_RESULT, NOT_SOLID, Refused
from mmrl.solids.outputs import without_outputs
from mmrl.solids.packing import packed
from mmrl.solids.threads import one_thread

DIALECT = DIALECTS["build123d"]
_MORE = {"show_object": lambda *_, **__: None}  # of another viewer


@functools.cache
def sieve() -> Dialect:
    import build123d

    return DIALECT.sieve(build123d)


def prepare() -> None:
    """Import what is slow, and make and write a first solid."""
    import build123d

    one_thread()
    sieve()
    _brep(build123d.fillet(build123d.Box(1, 1, 1).edges(), 0.1), build123d)


def execute(source: str, argument: bytes = b"") -> bytes:
    """As mmrl.solids.runners.cadquery does: of a Shape, of the `part` of a BuildPart, of a list of them."""
    import build123d

    convention = programs.Convention.of({"results": DIALECT.results, **json.loads(argument or b"{}")})
    source = without_outputs(source, DIALECT.viewer)
    allowed = DIALECT.sieve_for(source, sieve())
    steps: list[tuple[int, bytes]] = []
    if convention.steps:
        for line, made in programs.steps_of(source, DIALECT.viewer, allowed, _is_shape, _MORE):
            shape, count = _shape_of(made, build123d)
            if count:
                steps.append((line, _brep(shape, build123d)))
    ran = programs.run(source, DIALECT.viewer, allowed, _MORE)
    found, where = programs.result_of(ran, convention, _is_shape, lambda value: _shape_of(value, build123d)[1])
    shape, count = _shape_of(found, build123d)
    if shape is None:
        raise Refused(NO_RESULT, f"{where} holds no shape")
    if not count:
        raise Refused(NOT_SOLID, f"{where} is a {type(shape).__name__}, and no solid")
    head = {"from": where, "solids": count, "lines": [line for line, _ in steps]}
    return packed(head, _brep(shape, build123d), *(brep for _, brep in steps))


def _is_shape(value: Any) -> bool:
    import build123d

    return isinstance(value, build123d.Shape | build123d.BuildPart)


def _shape_of(value: Any, build123d: Any) -> tuple[Any, int]:
    """(a Shape, how many solids it has); None for no shape."""
    shapes = list(_shapes(value, build123d))
    if not shapes:
        return None, 0
    shape = shapes[0] if len(shapes) == 1 else build123d.Compound(children=shapes)
    return shape, len(shape.solids())


def _shapes(value: Any, build123d: Any) -> Iterable[Any]:
    if isinstance(value, build123d.BuildPart):
        value = value.part
    if isinstance(value, build123d.Shape):
        return [value]
    if isinstance(value, list | tuple):
        return [shape for each in value for shape in _shapes(each, build123d)]
    return []


def _brep(shape: Any, build123d: Any) -> bytes:
    file = io.BytesIO()
    build123d.export_brep(shape, file)
    return file.getvalue()
