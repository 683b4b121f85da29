"""Programs of the dialects: where their result is, what the sieve says, what is refused."""

from __future__ import annotations

import inspect
import io
import json
import os
import types

import pytest
from every import every
from known_solids import kernel

from mmrl.sandbox import Refused
from mmrl.solids import programs
from mmrl.solids.bodies import Body
from mmrl.solids.dialects import DIALECTS, dialect
from mmrl.solids.packing import unpacked
from mmrl.solids.reading import read_shape
from mmrl.solids.runners import build123d as runner_b
from mmrl.solids.runners import cadquery as runner

CQ = "import cadquery as cq\n"
SMALL = "cq.Workplane().box(1, 2, 3)"
FIELDS = "from dataclasses import dataclass\n@dataclass\nclass P:\n  wide_one: float = 2\n"


def ran(source: str, **convention):
    """(the head, its volume)"""
    kernel()
    head, (brep, *_) = unpacked(runner.execute(source, json.dumps(convention).encode()))
    return head, Body.of(read_shape(brep)).volume


RESULTS = {
    "result": (CQ + "r = cq.Workplane().box(9, 9, 9)\nresult = cq.Workplane().box(1, 2, 3)", {}, "result", 6.0),
    "r": (CQ + "r = cq.Workplane().box(1, 2, 3)\nx = cq.Workplane().box(9, 9, 9)", {}, "r", 6.0),
    "shown": (CQ + "a = cq.Workplane().box(1, 2, 3)\nb = 5\nshow_object(a, 'a', {'alpha': 0.5})", {}, "shown", 6.0),
    "shown twice": (CQ + f"for i in (0, 5):\n  show_object({SMALL}.translate((i, 0, 0)))", {}, "shown", 12.0),
    "the last": (CQ + "a = cq.Workplane().box(9, 9, 9)\nb = cq.Workplane().box(1, 2, 3)\nc = 7", {}, "b", 6.0),
    "the last again": (CQ + "a = cq.Workplane().box(9, 9, 9)\nb = a\na = cq.Workplane().box(1, 2, 3)", {}, "a", 6.0),
    "names of ours": (CQ + "out = cq.Workplane().box(1, 2, 3)\nresult = 3", {"results": ["out"]}, "out", 6.0),
    "a shape": (CQ + "result = cq.Solid.makeBox(1, 2, 3)", {}, "result", 6.0),
    "a list": (CQ + f"result = [{SMALL}, cq.Solid.makeBox(1, 2, 3).translate((9, 0, 0))]", {}, "result", 12.0),
    "an assembly": (
        CQ + f"result = cq.Assembly().add({SMALL}, loc=cq.Location((5, 0, 0)), name='x')",
        {},
        "result",
        6.0,
    ),
    "several on the stack": (
        CQ + "result = cq.Workplane().rarray(5, 5, 2, 2).box(1, 2, 3, True, False)",
        {},
        "result",
        24.0,
    ),
    "a star": ("from cadquery import *\nresult = Workplane('XZ').box(1, 2, 3)", {}, "result", 6.0),
    "a main part": (CQ + f"def f():\n  return {SMALL}\nif __name__ == '__main__':\n  result = f()", {}, "result", 6.0),
    "fields of its own": (CQ + FIELDS + "result = cq.Workplane().box(1, P().wide_one, 3)", {}, "result", 6.0),
}


@every("name", RESULTS)
def test_the_result_is_where_the_convention_says(name):
    source, convention, where, volume = RESULTS[name]
    head, found = ran(source, **convention)
    assert (head["from"], found) == (where, pytest.approx(volume))


REFUSED = {
    "nothing": ("x = 1", {}, "no_result", "nothing is in result"),
    "nothing shown": (CQ + "a = cq.Workplane().box(1, 2, 3)", {"last": False}, "no_result", "nothing is shown"),
    "no viewer": (CQ + "show_object(cq.Workplane().box(1, 2, 3))", {"shown": False}, "no_result", "nothing is in"),
    "a number": ("result = 3", {}, "no_result", "result holds a int"),
    "an empty list": ("result = []", {}, "no_result", "a list"),
    "a sketch": (CQ + "result = cq.Sketch().rect(1, 2)", {}, "not_solid", "extrude it"),
    "a wire": (CQ + "result = cq.Workplane().rect(1, 2)", {}, "not_solid", "a wire"),
    "a face": (CQ + "result = cq.Workplane().box(1, 2, 3).faces('>Z')", {}, "not_solid", "a face"),
    "a shell": (CQ + "result = cq.Workplane().box(1, 2, 3).val().Shells()[0]", {}, "not_solid", "a shell"),
    "a plane": (CQ + "result = cq.Workplane().box(1, 2, 3).faces('>Z').workplane()", {}, "no_result", "Workplane"),
    "no Python": ("result = (", {}, "syntax", "line 1"),
    "another module": ("import os", {}, "blocked", "import of os"),
    "a way out": (CQ + "cq.exporters.os.system('true')", {}, "blocked", "is not allowed"),
    "a star that brings a module": ("from cadquery import *\nx = exporters", {}, "blocked", "the name exporters"),
    "a file": (CQ + "x = cq.Workplane().box(1, 2, 3).val().exportStep('x')", {}, "blocked", "exportStep"),
    "a way out that it defines": (CQ + "class A:\n  exporters = 1\ncq.exporters", {}, "blocked", "exporters"),
    "letters": (CQ + "result = cq.Workplane().text('a', 1, 1)", {}, "blocked", "text"),
    "a name as a text": (CQ + "getattr(cq, 'exporters')", {}, "blocked", "getattr"),
    "the kernel": (CQ + "result = cq.Workplane().box(1, 2, 3).val().wrapped", {}, "blocked", "wrapped"),
    "numpy's files": ("import numpy as np\nnp.load('x')", {}, "blocked", "load"),
}


@every("name", REFUSED)
def test_what_is_no_solid_is_refused_with_a_status(name):
    source, convention, status, words = REFUSED[name]
    kernel()
    with pytest.raises(Refused, match=words) as refused:
        runner.execute(source, json.dumps(convention).encode())
    assert refused.value.status == status


def test_what_a_program_raises_is_raised():
    kernel()
    with pytest.raises(ZeroDivisionError):
        runner.execute(CQ + "x = 1 / 0")
    with pytest.raises(ValueError, match="unknown options speed"):
        runner.execute(CQ, b'{"speed": 1}')


def test_no_public_name_of_cadquery_that_is_a_module_passes():
    """Modules are the way from the library to everything else; what the sieve lets through leads to none."""
    cq = kernel()
    allowed = runner.sieve().attributes
    assert allowed is not None and {"Workplane", "box", "faces", "cutBlind", "sqrt", "append", "sin", "xDir"} <= allowed
    seen, left, modules = set(), [cq], []
    while left:
        thing = left.pop()
        for name in dir(thing):
            value = None if name not in allowed else inspect.getattr_static(thing, name, None)
            if isinstance(value, types.ModuleType):
                modules.append((thing, name))
            elif inspect.isclass(value) and value.__module__.startswith("cadquery") and value not in seen:
                seen.add(value)
                left.append(value)
    assert len(seen) > 20
    assert not modules
    assert not {"os", "sys", "open", "exporters", "importers", "wrapped", "exportStep", "importStep"} & allowed


def test_what_each_statement_makes_is_told():
    source = "\n".join(
        [
            "import cadquery as cq",
            "w = 2",
            "a = cq.Workplane().box(2, w, 2)",
            "b = cq.Workplane().rect(1, 1)",
            "a = a.union(cq.Workplane().box(2, 2, 2).translate((2, 0, 0)))",
            "result = a",
            "result = a.cut(cq.Workplane().box(9, 9, 2).translate((0, 0, 1)))",
        ]
    )
    kernel()
    head, (whole, *steps) = unpacked(runner.execute(source, b'{"steps": true}'))
    assert head["lines"] == [3, 5, 7]  # a number, a sketch and another name of the same make none
    assert [Body.of(read_shape(step)).volume for step in steps] == [pytest.approx(v) for v in (8, 16, 8)]
    assert Body.of(read_shape(whole)).volume == pytest.approx(8)


@every(
    ("source", "assigned"),
    [
        ("a = 1\nb = 2\na = 3", ["b", "a"]),
        ("a, (b, c) = 1, (2, 3)\nc += 1", ["a", "b", "c"]),
        ("for i in (1, 2):\n  x = i", ["i", "x"]),
        ("def f():\n  y = 1\nclass A:\n  z = 1\nf()", []),
        ("if True:\n  a = 1\nelse:\n  b = 1", ["a", "b"]),
    ],
)
def test_names_in_the_order_in_which_they_were_assigned_last(source, assigned):
    from mmrl.sandbox import Dialect

    assert programs.run(source, "show", Dialect(imports=frozenset())).assigned == assigned


def test_unknown_dialects_are_refused():
    assert dialect("build123d") is DIALECTS["build123d"]
    with pytest.raises(ValueError, match="cadquery, build123d"):
        dialect("openscad")


# -------------------------------------------------------------------- build123d, which has another environment


class _Shape:
    def __init__(self, solids: int = 1) -> None:
        self.count = solids

    def solids(self) -> list[int]:
        return list(range(self.count))


class _BuildPart:
    def __init__(self, part: _Shape | None) -> None:
        self.part = part


def _stub() -> types.ModuleType:
    """As much of build123d as the runner touches."""
    stub = types.ModuleType("build123d")
    stub.Shape, stub.BuildPart, stub.Box = _Shape, _BuildPart, lambda *sides: _Shape()
    stub.Sketch = lambda: _Shape(0)
    stub.Compound = lambda children: _Shape(sum(child.count for child in children))

    def export_brep(shape: _Shape, file: io.BytesIO) -> None:
        file.write(b"brep of %d" % shape.count)

    stub.export_brep = export_brep
    return stub


@every(
    ("source", "brep"),
    [
        ("result = Box(1, 2, 3)", b"brep of 1"),
        ("part = BuildPart(Box(1, 2, 3))", b"brep of 1"),
        ("part = [Box(1, 2, 3), BuildPart(Box(1, 2, 3))]", b"brep of 2"),
        ("x = Box(1, 2, 3)", b"brep of 1"),
        ("show(Box(1, 2, 3), names=['a'])\nshow_object(3)", b"brep of 1"),
    ],
)
def test_results_of_build123d(source, brep, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "build123d", _stub())
    runner_b.sieve.cache_clear()
    _, parts = unpacked(runner_b.execute("from build123d import *\n" + source))
    assert parts == [brep]


@every(
    ("source", "status"), [("result = Sketch()", "not_solid"), ("x = 1", "no_result"), ("result = 'a'", "no_result")]
)
def test_what_is_no_solid_of_build123d(source, status, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "build123d", _stub())
    runner_b.sieve.cache_clear()
    with pytest.raises(Refused) as refused:
        runner_b.execute("from build123d import *\n" + source)
    assert refused.value.status == status


@pytest.mark.skipif("MMRL_BUILD123D_PYTHON" not in os.environ, reason="names an interpreter that has build123d")
def test_a_program_of_build123d_in_its_own_environment():
    """Its kernel is newer than CadQuery's, which reads what it writes."""
    from mmrl.solids.workshop import Workshop

    kernel()
    shop = Workshop("build123d", python=os.environ["MMRL_BUILD123D_PYTHON"], seconds=60, workers=1)
    programs_ = [
        "from build123d import *\nwith BuildPart() as part:\n  Box(10, 10, 10)\n  Hole(2)\n",
        "from build123d import *\nresult = Box(1, 2, 3) + Pos(5, 0, 0) * Box(1, 2, 3)\n",
        "from build123d import *\nresult = Rectangle(1, 2)\n",
        "from build123d import *\nimport_step('x')\n",
    ]
    try:
        made = shop.made(programs_)
        assert [one.status for one in made] == ["ok", "ok", "not_solid", "blocked"], [one.reason for one in made]
        volumes = [found.facts["volume"] for found in shop.described(made[:2])]
    finally:
        shop.close()
    assert volumes == [pytest.approx(1000 - 40 * 3.14159265, rel=1e-6), pytest.approx(12)]
