"""Solids that the kernel's check passes, and whose volume is a lie: an overlap divided by it would be anything."""

from __future__ import annotations

import numpy as np
import pytest
from every import every
from known_solids import box, cylinder, kernel, sphere

from mmrl.sandbox import Refused
from mmrl.solids import booleans
from mmrl.solids.bodies import Body
from mmrl.solids.checks import is_valid
from mmrl.solids.meshes import joined, tessellated
from mmrl.solids.nouns import INVALID
from mmrl.solids.properties import volume
from mmrl.solids.reading import read_shape, write_brep
from mmrl.solids.windings import crossed, windings

WANTED = 1000.0  # what a forger wants the volume to be, whatever the shape is


def skin(shape, reverse=False):
    shell = shape.Shells()[0].wrapped
    return shell.Reversed() if reverse else shell


def of_skins(*shells):
    from OCP.BRep import BRep_Builder
    from OCP.TopoDS import TopoDS_Solid

    made, builder = TopoDS_Solid(), BRep_Builder()
    builder.MakeSolid(made)
    for shell in shells:
        builder.Add(made, shell)
    return made


def hollow_many_times():
    """A block of 60 x 30 x 60 with one hollow beside its middle, counted until its volume is what is wanted."""
    size = 18 * 28 * 58
    count, rest = divmod(60 * 30 * 60 - WANTED, size)
    at = (-20.5, 0, 0)
    hollows = [box(18, 28, 58, at) for _ in range(int(count))] + [box(18, 28, rest / (18 * 28), at)]
    return of_skins(skin(box(60, 30, 60)), *(skin(hollow, True) for hollow in hollows))


def pushed_through(height=50.0):
    """A block whose foot is a spike that reaches out of its top, where it is inside out."""
    cq = kernel()
    tip = 3 * height - 3 * WANTED / 100**2
    foot, top = ([(x, y, z) for x, y in ((-50, -50), (50, -50), (50, 50), (-50, 50))] for z in (0, height))
    points = [*foot, *top, (0, 0, tip)]
    sides = [(i, (i + 1) % 4, (i + 1) % 4 + 4, i + 4) for i in range(4)]
    spike = [((i + 1) % 4, i, 8) for i in range(4)]
    faces = [
        cq.Face.makeFromWires(cq.Wire.makePolygon([cq.Vector(*points[i]) for i in corners], close=True))
        for corners in [(4, 5, 6, 7), *sides, *spike]
    ]
    made = cq.Solid.makeSolid(cq.Shell.makeShell(faces))
    return made.wrapped if volume(made.wrapped) > 0 else of_skins(skin(made, True))


@every("made", [hollow_many_times, pushed_through])
def test_a_volume_that_is_a_lie_is_refused(made):
    shape = read_shape(write_brep(made()))
    assert is_valid(shape) and volume(shape) == pytest.approx(WANTED, rel=1e-6)
    with pytest.raises(Refused, match="crosses itself") as refused:
        Body.of(shape)
    assert refused.value.status == INVALID


HONEST = {
    "a hollow": (lambda: of_skins(skin(box(10, 10, 10)), skin(box(4, 4, 4), True)), 936.0),
    "two hollows": (
        lambda: of_skins(
            skin(box(20, 10, 10)), skin(box(4, 4, 4, (-5, 0, 0)), True), skin(box(4, 4, 4, (5, 0, 0)), True)
        ),
        1872.0,
    ),
    "a thin tube": (
        lambda: cylinder(50, 30).cut(cylinder(49.9, 30)).wrapped,
        30 * np.pi * (50**2 - 49.9**2),
    ),
    "a thin sphere": (lambda: sphere(20).cut(sphere(19.9)).wrapped, 4 / 3 * np.pi * (20**3 - 19.9**3)),
    "a torus": (lambda: kernel().Solid.makeTorus(10, 3).wrapped, 180 * np.pi**2),
}


@every("name", HONEST)
def test_what_is_hollow_or_thin_is_no_lie(name):
    made, size = HONEST[name]
    assert Body.of(made()).volume == pytest.approx(size, rel=1e-4)


def test_a_skin_winds_once_inside_and_nowhere_outside():
    one, other = (tessellated(box(2, 2, 2, (x, 0, 0)).wrapped, 0.1, 0.5) for x in (0, 1))
    points = np.array([[-0.5, 0.1, 0.2], [0.5, 0.1, 0.2], [1.5, 0.1, 0.2], [2.5, 0.1, 0.2]])
    assert windings(one, points) == pytest.approx([1, 1, 0, 0], abs=1e-9)
    assert windings(joined([one, other]), points) == pytest.approx([1, 2, 1, 0], abs=1e-9)
    # of each cube's skin a half lies in the other one, but for the two ends and what lies upon each other
    assert crossed(one) == 0.0 and crossed(joined([one, other])) > 0.3


def test_a_union_that_lost_a_part_is_not_believed(monkeypatch):
    large, small = box(10, 10, 10).wrapped, box(1, 1, 1, (20, 0, 0)).wrapped
    monkeypatch.setattr(booleans, "_built", lambda *_: [large])
    with pytest.raises(booleans.BooleanFailed, match="reaches"):
        booleans.united([large, small], [1000.0, 1.0])
