"""What is refused, and why; files of others; messages; small meshes and pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from every import every
from known_solids import box, bracket, cylinder, kernel, sphere

from mmrl.sandbox import Refused
from mmrl.solids.bodies import Body, compound
from mmrl.solids.checks import checked
from mmrl.solids.nouns import INVALID, NO_RESULT, NOT_SOLID, STATUSES, TOO_LARGE, UNREADABLE, Limits
from mmrl.solids.packing import packed, unpacked
from mmrl.solids.properties import bounding_box, volume
from mmrl.solids.reading import kind_of, read_shape, write_brep, write_step
from mmrl.solids.render import render
from mmrl.solids.runners import measure
from mmrl.solids.shown import Solid, record_of


def kernels(shape):
    return shape.wrapped


def open_solid():
    cq = kernel()
    return cq.Solid.makeSolid(cq.Shell.makeShell(box(1, 1, 1).Faces()[:5])).wrapped


def half_space():
    from OCP.BRepPrimAPI import BRepPrimAPI_MakeHalfSpace
    from OCP.gp import gp_Pnt

    return BRepPrimAPI_MakeHalfSpace(kernel().Face.makePlane(1, 1).wrapped, gp_Pnt(0, 0, 5)).Solid()


def twisted():
    """A prism over a figure of eight: its skin crosses itself."""
    cq = kernel()
    points = [(0, 0), (4, 4), (4, 0), (0, 4)]
    wire = cq.Wire.makePolygon([cq.Vector(x, y) for x, y in points], close=True)
    return cq.Solid.extrudeLinear(wire, [], cq.Vector(0, 0, 1)).wrapped


def loosely_made():
    """A box whose faces may be 2 mm apart where they meet."""
    from OCP.ShapeFix import ShapeFix_ShapeTolerance

    made = box(10, 10, 10).wrapped
    ShapeFix_ShapeTolerance().SetTolerance(made, 2.0)
    return made


def inside_out():
    """A box whose faces look inwards, as a solid of its own and not as a turned reference to one."""
    from OCP.BRep import BRep_Builder
    from OCP.TopoDS import TopoDS_Solid

    made, builder = TopoDS_Solid(), BRep_Builder()
    builder.MakeSolid(made)
    builder.Add(made, box(1, 2, 3).Shells()[0].wrapped.Reversed())
    return made


REFUSED = {
    "nothing": (lambda: None, NO_RESULT, "no shape"),
    "a shell": (lambda: box(1, 1, 1).Shells()[0].wrapped, NOT_SOLID, "a shell"),
    "a face": (lambda: box(1, 1, 1).Faces()[0].wrapped, NOT_SOLID, "a face"),
    "a wire": (lambda: kernel().Workplane().rect(1, 2).val().wrapped, NOT_SOLID, "a wire"),
    "faces": (lambda: compound([f.wrapped for f in box(1, 1, 1).Faces()]), NOT_SOLID, "a compound of faces"),
    "an empty compound": (lambda: compound([]), NOT_SOLID, "a compound of nothing"),
    "an open skin": (open_solid, INVALID, "open"),
    "half of everything": (half_space, INVALID, ""),
    "no number": (lambda: box(math.nan, 1, 1).wrapped, INVALID, "not finite"),
    "without an end": (lambda: box(math.inf, 1, 1).wrapped, INVALID, "not finite"),
    "a kilometre": (lambda: box(1e6, 1, 1).wrapped, TOO_LARGE, "500,?000|5e.05"),
    "1e9": (lambda: box(1e9, 1e9, 1e9).wrapped, TOO_LARGE, "5e.08"),
    "far away": (lambda: box(1, 1, 1, at=(1e9, 0, 0)).wrapped, TOO_LARGE, "1e.09"),
    "a film": (lambda: box(10, 10, 1e-5).wrapped, INVALID, "thick"),
    "a loose one": (loosely_made, INVALID, "within 2 mm"),
    "one good, one bad": (lambda: compound([box(1, 1, 1).wrapped, open_solid()]), INVALID, "open"),
}


@every("name", REFUSED)
def test_what_cannot_be_measured_is_refused_with_its_reason(name):
    made, status, words = REFUSED[name]
    with pytest.raises(Refused, match=words) as refused:
        Body.of(made())
    assert refused.value.status == status
    assert status in STATUSES and "\n" not in refused.value.reason and len(refused.value.reason) < 200


def test_a_skin_that_crosses_itself_is_invalid():
    with pytest.raises(Refused):
        Body.of(twisted())


@every("made", [inside_out, lambda: box(1, 2, 3).wrapped.Reversed()])
def test_a_solid_that_is_inside_out_is_turned_and_told(made):
    assert volume(made()) == pytest.approx(-6)
    body = Body.of(made())
    assert body.volume == pytest.approx(6)
    assert body.facts()["turned"] == 1
    assert Body.of(box(1, 2, 3).wrapped).facts()["turned"] == 0


def test_limits_and_what_lies_beside_a_solid():
    cq = kernel()
    many = cq.Workplane().rarray(3, 3, 5, 5).box(1, 1, 1, combine=False)
    shape = compound([solid.wrapped for solid in many.vals()])
    assert len(checked(shape).solids) == 25
    for limits, words in ((Limits(solids=24), "25 solids"), (Limits(faces=149), "150 faces")):
        with pytest.raises(Refused, match=words):
            checked(shape, limits)
    beside = compound([box(1, 1, 1).wrapped, kernel().Workplane().rect(9, 9).val().wrapped])
    assert Body.of(beside).facts() | {"loose": 1} == Body.of(beside).facts()
    with pytest.raises(ValueError, match="thickness"):
        Limits(thickness=0)


# -------------------------------------------------------------------- files


def test_a_step_file_in_inches_is_read_in_millimetres():
    inches = write_step(box(25.4, 50.8, 25.4).wrapped, "INCH")
    assert b"INCH" in inches and b"25.4" in inches
    assert bounding_box(read_shape(inches)) == (pytest.approx((-12.7, -25.4, -12.7)), pytest.approx((12.7, 25.4, 12.7)))
    # its points are written in inches: half an inch, an inch
    assert b"-0.5,-1.,-0.5" in inches.replace(b" ", b"")
    plain = write_step(bracket().wrapped)
    assert b"INCH" not in plain
    assert Body.of(read_shape(plain)).volume == pytest.approx(180 - 3 * math.pi, rel=1e-6)
    with pytest.raises(ValueError, match="furlong"):
        write_step(bracket().wrapped, "furlong")


def brep() -> bytes:
    return write_brep(box(1, 2, 3).wrapped)


BROKEN = {
    "nothing": lambda: b"",
    "text": lambda: b"solid cube\nfacet normal 0 0 1\n",
    "a STEP file without its end": lambda: write_step(box(1, 1, 1).wrapped)[:2000],
    "a STEP file of nothing": lambda: b"ISO-10303-21;\nHEADER;\nENDSEC;\nDATA;\nENDSEC;\nEND-ISO-10303-21;\n",
    "a STEP file's head": lambda: b"ISO-10303-21;\n" + b"#1=(" * 2000,
    "half a BREP": lambda: brep()[:900],
    "all but the end of a BREP": lambda: brep()[:-8],
    "a BREP's head": lambda: brep()[:60] + b"9 " * 3000 + b"*\n\n+1 1",
    "a binary BREP's head": lambda: b"Open CASCADE Topology V4, (c) Open Cascade\n" + bytes(range(256)) * 40,
}


@every("name", BROKEN)
def test_a_file_that_is_no_shape_is_refused(name):
    pytest.importorskip("OCP", reason="pip install 'mmrl[cad]'")
    with pytest.raises(Refused) as refused:
        Body.of(read_shape(BROKEN[name]()))
    assert refused.value.status in (UNREADABLE, NOT_SOLID, NO_RESULT)


def test_a_file_that_is_too_long_is_not_parsed():
    with pytest.raises(Refused, match="at most 1,000") as refused:
        read_shape(b"ISO-10303-21;" + b" " * 1000, most=1000)
    assert refused.value.status == TOO_LARGE
    kinds = {
        b"\nCASCADE Topology V3, (c)": "brep",
        b"\xef\xbb\xbfISO-10303-21;": "step",
        b"Open CASCADE Topology V4": "brep",
    }
    assert {data: kind_of(data) for data in kinds} == kinds
    assert kind_of(b"PK\x03\x04") == kind_of(b"") == ""


# -------------------------------------------------------------------- messages


def test_messages_come_back_as_they_went():
    parts = [b"", b"\x00" * 5, bytes(range(256))]
    assert unpacked(packed({"a": [1, None, "ü"]}, *parts)) == ({"a": [1, None, "ü"]}, parts)
    with pytest.raises(ValueError, match="JSON compliant"):
        packed({"a": math.nan})


@every(
    "data",
    [
        b"",
        b"SOL1",
        b"SOL1\xff\xff\xff\xff{}",
        packed({}, b"abc")[:-1],
        packed({}, b"abc") + b"x",
        b"SOL1\0\0\0\2[]",
        b'SOL1\0\0\0\x1c{"head": 1, "sizes": [-1, 1]}',
        b"\x80\x04K\x01.",  # a pickle
    ],
)
def test_what_is_no_message_is_told(data):
    with pytest.raises(ValueError, match="no message"):
        unpacked(data)


def test_the_measurer_tells_whose_file_it_refuses():
    whole = brep()
    ok = packed({"task": "compare"}, whole, whole)
    assert unpacked(measure.execute("", ok))[0]["measures"]["iou"] == pytest.approx(1.0)
    for files, side in (((b"x", whole), "answer"), ((whole, b"x"), "target")):
        told = unpacked(measure.execute("", packed({"task": "compare"}, *files)))[0]["refused"]
        assert (told["side"], told["status"]) == (side, UNREADABLE)
    head, (united,) = unpacked(measure.execute("", packed({"task": "describe", "mesh": 12}, whole)))
    assert head["facts"]["volume"] == pytest.approx(6) and len(Solid.of(head["mesh"]).triangles) == 12
    steps = unpacked(measure.execute("", packed({"task": "compare"}, whole, united, whole, b"x")))[0]["steps"]
    assert steps == [pytest.approx(1.0), None]
    with pytest.raises(ValueError, match="none of describe, compare, view"):
        measure.execute("", packed({"task": "exec"}, whole))


# -------------------------------------------------------------------- small meshes and pictures


@every("most", [12, 300, 4000])
def test_a_small_mesh_is_stored_within_a_step_of_its_grid(most):
    body = Body.of(box(10, 20, 40).wrapped if most == 12 else cylinder(3, 40).wrapped)
    record = record_of(body, most)
    assert record is not None
    solid = Solid.of(record)
    assert 0 < len(solid.triangles) <= most
    assert record["step"] == pytest.approx(40 / 65535)
    low, high = solid.vertices.min(axis=0), solid.vertices.max(axis=0)
    assert low == pytest.approx(np.array(body.box[0]), abs=0.1) and high == pytest.approx(
        np.array(body.box[1]), abs=0.1
    )
    assert Solid.of(solid.record()).vertices == pytest.approx(solid.vertices, abs=record["step"])


def test_a_mesh_that_takes_too_many_triangles_is_none():
    assert record_of(Body.of(sphere(5).wrapped), 10) is None
    assert record_of(Body.of(sphere(5).wrapped), 0) is None
    none = Solid.none("timeout")
    assert Solid.of(none.record()).status == "timeout" and len(Solid.of(none.record()).triangles) == 0


@every(
    "wrong",
    [
        {"vertices": "!"},
        {"triangles": "AAAA"},
        {"low": [0, 0]},
        {"low": [math.nan, 0, 0]},
        {"step": "x"},
        {"triangles": None},
    ],
)
def test_a_record_that_does_not_fit_together_is_refused(wrong):
    solid = Solid(np.eye(3), np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match="no record of a solid"):
        Solid.of(solid.record() | wrong)


def test_a_solid_is_stored_and_read_by_the_report(tmp_path):
    from mmrl.reporting.artifacts import load_artifact, save_artifact

    solid = Solid(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), np.array([[0, 2, 1], [0, 1, 3]]))
    name = save_artifact(solid, tmp_path, "a")
    assert name == "a.solid.json"
    again = load_artifact(tmp_path / name)
    assert again.vertices[again.triangles] == pytest.approx(solid.vertices[solid.triangles], abs=1e-4)


CUBE = np.array([[x, y, z] for x in (0.0, 1) for y in (0.0, 1) for z in (0.0, 1)])
SIDES = np.array(
    [
        [0, 1, 3],
        [0, 3, 2],
        [4, 6, 7],
        [4, 7, 5],
        [0, 4, 5],
        [0, 5, 1],
        [2, 3, 7],
        [2, 7, 6],
        [0, 2, 6],
        [0, 6, 4],
        [1, 5, 7],
        [1, 7, 3],
    ]
)


def covered(picture) -> float:
    return float((np.asarray(picture) < 250).any(axis=2).mean())


def test_a_cube_fills_what_it_fills_from_each_side():
    """From in front a square of 0.9 x 0.9 of the picture; from a corner a hexagon, of which 0.9 is the longer width."""
    cube = Solid(CUBE, SIDES)
    assert covered(render(cube, view=(0, -1, 0))) == pytest.approx(0.81, abs=0.02)
    # seen along (1, 1, 1): a regular hexagon of height 2 s and width sqrt(3) s has the area 3 sqrt(3) / 2 s^2
    assert covered(render(cube, view=(1, 1, 1))) == pytest.approx(3 * math.sqrt(3) / 2 * 0.45**2, abs=0.02)
    shades = {tuple(c) for c in np.asarray(render(cube, view=(1, -1, 1), edges=False)).reshape(-1, 3)[::7].tolist()}
    assert len([c for c in shades if max(c) < 250]) >= 3  # three sides of three shades


def test_what_is_nearer_hides_what_is_behind():
    """A small square before a large one, each alone in its colour by where it stands."""
    square = np.array([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    near = np.concatenate([square, square / 4 + [0, -5, 0]])
    for first in (0, 1):  # in whichever order they are drawn
        order = [faces, faces + 4] if not first else [faces + 4, faces]
        picture = np.asarray(
            render(Solid(near, np.concatenate(order)), 64, (0, -1, 0), edges=False, frame=([-1] * 3, [1] * 3))
        )
        assert covered(picture) == pytest.approx(0.81, abs=0.03)
    behind = Solid(near, np.concatenate([faces, faces[:, ::-1] + 4]))  # turned away: not drawn
    assert covered(render(behind, 64, (0, -1, 0), edges=False, frame=([-1] * 3, [1] * 3))) == pytest.approx(
        0.81, abs=0.03
    )


def test_pictures_share_a_frame_and_nothing_is_an_empty_picture():
    small = Solid(CUBE / 2, SIDES)
    assert covered(render(small, 64, view=(0, -1, 0), frame=([0] * 3, [1] * 3))) == pytest.approx(0.81 / 4, abs=0.03)
    assert covered(render(Solid.none("timeout"))) == 0.0
    assert render(small, 100).size == (100, 100)
    for view in ((0, 0, 0), (1, 0), (math.nan, 0, 1)):
        with pytest.raises(ValueError, match="no direction"):
            render(small, view=view)
