"""Measures solids: BREP or STEP in, numbers out. It runs nothing that a policy wrote, and reads what one made."""

from __future__ import annotations

from typing import Any

from mmrl.solids.bodies import Body
from mmrl.solids.measures import Options, measured
from mmrl.solids.nouns import Limits, Refused
from mmrl.solids.packing import packed, unpacked
from mmrl.solids.reading import read_shape, write_brep
from mmrl.solids.shown import record_of
from mmrl.solids.threads import one_thread
from mmrl.solids.views import viewed


def prepare() -> None:
    """Import what is slow, and measure a first pair."""
    import manifold3d  # noqa: F401
    import scipy.spatial  # noqa: F401
    from OCP.BRepPrimAPI import BRepPrimAPI_MakeBox
    from OCP.Message import Message

    one_thread()
    Message.DefaultMessenger_s().ChangePrinters().Clear()  # a file that does not parse is told by its status
    box = Body.of(BRepPrimAPI_MakeBox(1.0, 2.0, 3.0).Shape())
    for way in ("exact", "mesh"):
        measured(box, box, Options(way=way, chamfer=True, points=8))
    read_shape(write_brep(box.shape))


def execute(source: str, argument: bytes) -> bytes:
    """argument: packed {"task", "limits", ...} and files.

    "describe", one file: packed {"facts", "mesh"} and the BREP of its union, which is quicker to compare with. "mesh":
    the most triangles that are told; 0 for none. "compare", an answer and a target that was described, with "options":
    packed {"facts", "mesh", "measures"}. "mesh" as before, of the answer. "steps": files behind these two, each
    compared with the target: "steps" has their IoU, null for what is no solid. "view": the same two files and options,
    packed {"facts": {}, "view"}, see mmrl.solids.views, each part of at most "mesh" triangles.
    source: nothing. A file that is refused gives {"refused": {"side", "status", "reason"}}, side "answer" or "target".
    Raises ValueError for another argument.
    """
    head, files = unpacked(argument)
    limits = Limits(**head.get("limits", {}))
    most = int(head.get("mesh", 0))
    if head["task"] == "describe":
        (file,) = files
        try:
            body = Body.of(read_shape(file, limits.size), limits)
            return packed({"facts": body.facts(), "mesh": record_of(body, most)}, write_brep(body.shape))
        except Refused as error:
            return _refused("answer", error)
    if head["task"] not in ("compare", "view"):
        raise ValueError(f"task {head['task']!r:.40} is none of describe, compare, view")
    answer, target, *steps = files
    view, options = head["task"] == "view", Options.of(head.get("options", {}))
    return _compared(answer, target, steps, options, limits, most, view)


def _compared(
    answer: bytes, target: bytes, steps: list[bytes], options: Options, limits: Limits, most: int, view: bool
) -> bytes:
    try:
        theirs = Body.of(read_shape(target, limits.size), limits)
    except Refused as error:
        return _refused("target", error)
    try:
        ours = Body.of(read_shape(answer, limits.size), limits)
        if view:
            return packed({"facts": {}, "view": viewed(ours, theirs, options, most)})
        found: dict[str, Any] = {"facts": ours.facts(), "mesh": record_of(ours, most)}
        found["measures"] = measured(ours, theirs, options)
    except Refused as error:
        return _refused("answer", error)
    found["steps"] = [_iou(step, theirs, options, limits) for step in steps]
    return packed(found)


def _iou(step: bytes, theirs: Body, options: Options, limits: Limits) -> float | None:
    try:
        body = Body.of(read_shape(step, limits.size), limits)
        return float(measured(body, theirs, options)["iou"])
    except Refused:
        return None


def _refused(side: str, error: Refused) -> bytes:
    return packed({"refused": {"side": side, "status": error.status, "reason": error.reason}})
