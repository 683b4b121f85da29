"""CAD programs as published data sets and models write them: each builds 1 x 2 x 3, and is paid as such."""

from __future__ import annotations

import ast
import math

import pytest
from every import every
from known_solids import kernel

from mmrl.sandbox import Refused
from mmrl.solids import programs
from mmrl.solids.bodies import Body
from mmrl.solids.outputs import without_outputs
from mmrl.solids.packing import unpacked
from mmrl.solids.reading import read_shape
from mmrl.solids.runners import cadquery as runner

# ruff: noqa: E501 (programs of a line each)

CQ = "import cadquery as cq\n"
BOX = CQ + "result = cq.Workplane().box(1, 2, 3)\n"
ROUND = "".join(f".lineTo({math.cos(k / 50 * math.pi):.6f}, {math.sin(k / 50 * math.pi):.6f})" for k in range(1, 100))

WRITTEN = {
    "a STEP file at the end": BOX + "cq.exporters.export(result, 'box.step')",
    "an imported exporter": "from cadquery import exporters\n" + BOX + "exporters.export(result, 'a.stl', tolerance=.1)",
    "an exporter by another name": "from cadquery import Workplane, exporters as e\n" + BOX + "e.export(result, 'a.stl')",
    "a method that writes": BOX + "result.val().exportStep('a.step')\nresult.export('a.stl')",
    "an assembly that is saved": CQ + "assembly = cq.Assembly().add(cq.Workplane().box(1, 2, 3))\nassembly.save('a.step')",
    "nothing but a file": CQ + "cq.exporters.export(\n  cq.Workplane()  # here\n  .box(1, 2, 3),\n  'a.step',\n)",
    "a file in a main part": BOX + "if __name__ == '__main__':\n  cq.exporters.export(result, 'a.step'); x = 1",
    "a viewer": "from ocp_vscode import (\n  show,\n  set_port,  # which\n)\n" + BOX + "set_port(3939)\nshow(result)",
    "cadquery's viewer": "from cadquery.vis import show\n" + BOX + "show(result, title='ß')",
    "a radius r": CQ + "r = 2\nbody = cq.Workplane().box(1, r, 3)",
    "a face that was measured": CQ + "body = cq.Workplane().box(1, 2, 3)\ntop = body.faces('>Z')\nprint(top.val().Area())",
    "a part of parts": CQ + "part = 3\nr = cq.Workplane().rect(1, 1)\nbody = cq.Workplane().box(1, 2, part)",
    "a sketch": CQ + "result = cq.Workplane().sketch().rect(1, 2).finalize().extrude(3)",
    "a hull": CQ + "result = cq.Workplane().sketch().segment((0, 0), (1, 0)).segment((1, 2), (0, 2)).hull().finalize().extrude(3)",
    "a selector": BOX + "faces = result.faces(cq.selectors.BoxSelector((-1, -1, -1), (1, 1, 1)))",
    "a norm": CQ + "import numpy as np\nresult = cq.Workplane().box(1, 2, float(np.linalg.norm([2, 2, 1])))",
    "private fields": CQ + "class A:\n  def __init__(self): self._w = self.__h = 1\n  def made(self): return "
    "cq.Workplane().box(self._w, 2, 3 * self.__h)\nresult = A().made()",
    "annotations to come": "from __future__ import annotations\n" + CQ + "from dataclasses import dataclass\n@dataclass\n"
    "class P:\n  w: float = 1.0\n  def build(self) -> cq.Workplane:\n    return cq.Workplane().box(self.w, 2, 3)\n"
    "result: cq.Workplane = P().build()",
    "a name of a dunder in a comment's text": "'''What __init__ does.'''\n" + BOX,
    "shown within a function": CQ + "def main() -> None:\n  show_object(cq.Workplane().box(1, 2, 3), name='x')\nmain()",
    "CRLF": BOX.replace("\n", "\r\n") + "cq.exporters.export(\r\n  result, 'a')\r\n",
    "letters of others": CQ + "# Ø 5\nmaß = 1; result = cq.Workplane().box(maß, 2, 3); cq.exporters.export(result, 'ß')",
}  # fmt: skip


@every("name", WRITTEN)
def test_a_program_as_they_are_written_is_paid(name):
    kernel()
    _, parts = unpacked(runner.execute(WRITTEN[name]))
    assert Body.of(read_shape(parts[0])).volume == pytest.approx(6.0)


def test_a_long_chain_of_calls_is_no_depth_to_be_refused():
    kernel()
    _, parts = unpacked(runner.execute(CQ + f"result = cq.Workplane().moveTo(1, 0){ROUND}.close().extrude(1)"))
    assert Body.of(read_shape(parts[0])).volume == pytest.approx(50 * math.sin(math.pi / 50), rel=1e-4)


@every("name", WRITTEN)
def test_what_is_left_out_leaves_lines_where_they_are(name):
    source = WRITTEN[name].replace("\r\n", "\n")
    left = without_outputs(WRITTEN[name], "show_object")
    assert left.count("\n") == source.count("\n")
    kept = {(node.lineno, ast.unparse(node)) for node in ast.parse(source).body if isinstance(node, ast.Assign)}
    assert kept <= {(node.lineno, ast.unparse(node)) for node in ast.parse(left).body if isinstance(node, ast.Assign)}
    assert not {"exporters", "exportStep", "save", "ocp_vscode"} & set(left.replace(".", " ").replace("(", " ").split())


@every("source", ["x = (", "\0", "export()", "a.b.export()", "x.exporters.os.system('true')", "def export(): pass"])
def test_nothing_else_is_left_out(source):
    left = without_outputs(source, "show")
    assert left == {"export()": "()", "a.b.export()": "show(a.b)"}.get(source, source)


def test_a_result_that_is_no_solid_is_not_replaced_by_another():
    kernel()
    with pytest.raises(Refused, match="result holds a Workplane of a face") as refused:
        runner.execute(CQ + "body = cq.Workplane().box(1, 2, 3)\nresult = body.faces('>Z')")
    assert refused.value.status == "not_solid"


@every("options", [{"results": "result"}, {"results": ["a b"]}, {"results": [3]}, {"shown": "no"}, {"last": 0}])
def test_a_convention_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        programs.Convention.of(options)
