"""Programs and measures in the sandbox itself: booleans, whose threads a fork does not have, and forged geometry."""

from __future__ import annotations

import math

import pytest
from known_solids import kernel

from mmrl.solids.measures import Options
from mmrl.solids.workshop import Made, Workshop

CQ = "import cadquery as cq\n"
CUBE = CQ + "result = cq.Workplane().box(10, 10, 10)\n"
DRILLED = CQ + "result = cq.Workplane().box(10, 10, 10).faces('>Z').workplane().hole(4).edges('|Z').fillet(1)\n"
OTHERS = {
    "import os\n": "blocked",
    "x = [0] * 10**12\n": "memory",
    "raise SystemExit(3)\n": "exception",
    "result = (\n": "syntax",
    CQ + "result = cq.Workplane().rect(1, 2)\n": "not_solid",
    CQ + "result = cq.Workplane().box(float('nan'), 1, 1)\n": "invalid_solid",
}


def test_programs_run_and_forged_solids_end_no_measurer():
    kernel()
    shop = Workshop(seconds=60.0, workers=2)
    try:
        made = shop.made([DRILLED, CUBE, *OTHERS])
        found = shop.compared(made, shop.target_of_program(DRILLED), Options())
        good = made[1].brep
        forged = [
            good[:400],
            good.replace(b"Surfaces 6", b"Surfaces 6000"),
            good[:60] + b"9 " * 5000 + b"*\n\n+1 1 ",
            good.replace(b"5", b"nan"),
            good.replace(b"+34 0", b"+9999 0"),
            good.replace(b"Ed", b"So"),
            good,
        ]
        statuses = [one.status for one in shop.described([Made("ok", brep=data) for data in forged])]
    finally:
        shop.close()
    assert [one.status for one in found[2:]] == list(OTHERS.values())
    assert found[0].measures["iou"] == pytest.approx(1.0, abs=1e-6)
    # of the square of 10 a circle of 2 is gone, and of each corner what a quarter of a circle of 1 leaves
    assert found[1].measures["iou"] == pytest.approx((100 - 4 * math.pi - (4 - math.pi)) / 100, abs=1e-6)
    assert statuses[-1] == "ok" and "ok" not in statuses[:-1] and "lost" not in statuses, statuses
