"""What two solids have together and apart, as meshes: against closed forms."""

from __future__ import annotations

import math

import pytest
from every import every
from known_solids import box, cylinder, kernel, sphere

from mmrl.solids.bodies import Body
from mmrl.solids.booleans import parted
from mmrl.solids.measures import Options
from mmrl.solids.meshes import Mesh
from mmrl.solids.packing import packed, unpacked
from mmrl.solids.properties import volume
from mmrl.solids.reading import write_brep
from mmrl.solids.runners import measure
from mmrl.solids.shown import Solid
from mmrl.solids.views import NOTHING, PARTS, TOO_FINE, viewed


def of(shape) -> Body:
    return Body.of(shape.wrapped)


def volumes(view) -> dict[str, float]:
    """Of each part; 0 where there is nothing."""
    solids = {name: Solid.of(view[name]) for name in PARTS}
    assert all((solid.status == NOTHING) == (not len(solid.triangles)) for solid in solids.values())
    return {name: Mesh(solid.vertices, solid.triangles).volume for name, solid in solids.items()}


# name: what the answer is, what it has with a cube of 10 together, what it lacks, what it has too much
BOXES = {
    "the same": (lambda: box(10, 10, 10), 1000, 0, 0),
    "shifted by 4": (lambda: box(10, 10, 10, at=(4, 0, 0)), 600, 400, 400),
    "inside": (lambda: box(6, 6, 6), 216, 784, 0),
    "around": (lambda: box(20, 20, 20), 1000, 0, 7000),
    "elsewhere": (lambda: box(10, 10, 10, at=(30, 0, 0)), 0, 1000, 1000),
    "side by side": (lambda: box(10, 10, 10, at=(10, 0, 0)), 0, 1000, 1000),
}


@every("way", [None, "mesh"])
@every("name", BOXES)
def test_the_parts_of_boxes_have_their_volumes(name, way):
    make, common, missing, extra = BOXES[name]
    view = viewed(of(make()), of(box(10, 10, 10)), Options(way=way), 500)
    assert view["way"] == (way or "exact")
    found = volumes(view)
    assert found["answer"] == pytest.approx(common + extra, rel=1e-3)
    assert [found[part] for part in ("common", "missing", "extra")] == pytest.approx([common, missing, extra], abs=1)


def test_a_curved_face_that_both_have_leaves_no_skin():
    """Two tubes of one hole, one of them higher: what is missing is a tube, and its mesh is no more than that."""

    def tube(height):
        return kernel().Workplane().circle(10).circle(4).extrude(height).val()

    view = viewed(of(tube(10)), of(tube(16)), Options(), 2000)
    found = volumes(view)
    assert view["way"] == "exact" and view["extra"]["status"] == NOTHING
    assert found["missing"] == pytest.approx(math.pi * (100 - 16) * 6, rel=0.03)
    missing = Solid.of(view["missing"]).vertices
    assert missing[:, 2].min() == pytest.approx(10, abs=1e-3)  # nothing along the walls below
    again = viewed(of(tube(10)), of(tube(16)), Options(way="mesh"), 2000)
    assert again["extra"]["status"] == NOTHING  # skins of the triangles are left out there, too


@every("alignment", ["bounding_box", "inertia"])
def test_an_answer_is_drawn_where_its_alignment_lays_it(alignment):
    """Twice as large and elsewhere, it lies over the target, which stays where it is."""
    target, answer = of(box(10, 20, 30, at=(7, 0, 0))), of(box(20, 40, 60, at=(-50, 3, 9)))
    view = viewed(answer, target, Options(alignment=alignment), 500)
    drawn = Solid.of(view["answer"]).vertices
    for found, wanted in ((drawn.min(axis=0), target.box[0]), (drawn.max(axis=0), target.box[1])):
        assert found == pytest.approx(wanted, abs=1e-2)
    found = volumes(view)
    assert found["common"] == pytest.approx(6000, rel=1e-3)
    assert found["missing"] + found["extra"] < 1
    assert view["alignment"] == alignment


def test_a_part_of_too_many_triangles_is_named_and_not_drawn():
    view = viewed(of(sphere(5)), of(box(20, 20, 20)), Options(), 20)
    assert {view[part]["status"] for part in ("answer", "common", "missing")} == {TOO_FINE}
    assert view["extra"]["status"] == NOTHING


def test_parts_sum_up_to_each_side():
    ours, theirs = of(cylinder(4, 20)), of(box(6, 6, 6))
    both, only_ours, only_theirs = (sum(map(volume, part)) for part in parted(ours.parts, theirs.parts))
    assert both + only_ours == pytest.approx(ours.volume, rel=1e-6)
    assert both + only_theirs == pytest.approx(theirs.volume, rel=1e-6)


def test_the_measurer_tells_a_view():
    files = [write_brep(box(10, 10, 10, at=(x, 0, 0)).wrapped) for x in (4, 0)]
    head, rest = unpacked(measure.execute("", packed({"task": "view", "mesh": 100, "options": {}}, *files)))
    assert rest == [] and volumes(head["view"])["common"] == pytest.approx(600, rel=1e-3)
    head, _ = unpacked(measure.execute("", packed({"task": "view", "mesh": 100}, b"nothing", files[0])))
    assert head["refused"]["side"] == "answer"
