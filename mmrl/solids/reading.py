"""Shapes as bytes: BREP, text or binary, and STEP. Nothing is read from or written to a disk."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from mmrl.solids.nouns import TOO_LARGE, UNREADABLE, Refused, one_line

if TYPE_CHECKING:
    from OCP.TopoDS import TopoDS_Shape

_TEXT, _BINARY, _OTHER = b"CASCADE Topology V", b"Open CASCADE Topology V", b"DBRep_DrawableShape"
_STEP = b"ISO-10303-21"
_LAST = re.compile(rb"\*\s+[+-]\d+\s+\d+\s*\Z")  # how BREP text ends: its last shape, and which one it is about
_HEAD = 4096  # bytes in which the name of a format stands


def kind_of(data: bytes) -> str:
    """ "brep", "step" or "" for neither, by the first bytes."""
    head = data[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith((_TEXT, _BINARY, _OTHER)):
        return "brep"
    return "step" if head.startswith(_STEP) else ""


def read_shape(data: bytes, most: int = 32 << 20) -> TopoDS_Shape:
    """The shape of a BREP (text or binary) or STEP file, in mm. most: bytes. Raises Refused."""
    if len(data) > most:
        raise Refused(TOO_LARGE, f"{len(data):,} bytes; at most {most:,} are read")
    kind = kind_of(data)
    if not kind:
        raise Refused(UNREADABLE, f"neither BREP nor STEP: it begins with {bytes(data[:16])!r}")
    shape = read_brep(data) if kind == "brep" else read_step(data)
    if shape.IsNull():
        raise Refused(UNREADABLE, f"the {kind.upper()} file holds no shape")
    return shape


def read_brep(data: bytes) -> TopoDS_Shape:
    """The shape of a BREP, whose numbers are mm. Raises Refused.

    The kernel trusts such a file: a forged one may end the process, so what others wrote is read in a sandbox.
    """
    from OCP.BinTools import BinTools
    from OCP.BRep import BRep_Builder
    from OCP.BRepTools import BRepTools
    from OCP.TopoDS import TopoDS_Shape

    text = data.lstrip()[: len(_BINARY)] != _BINARY
    if text and not _LAST.search(data[-64:]):  # the kernel would look for its end for ever
        raise Refused(UNREADABLE, "a BREP without its end: it is cut off")
    shape = TopoDS_Shape()
    try:
        if text:
            BRepTools.Read_s(shape, io.BytesIO(data), BRep_Builder())
        else:
            BinTools.Read_s(shape, io.BytesIO(data))
    except Exception as error:  # of the kernel's, of many kinds
        raise Refused(UNREADABLE, f"a BREP that the kernel cannot read: {one_line(error)}") from None
    return shape


def read_step(data: bytes) -> TopoDS_Shape:
    """The shape of a STEP file; lengths in other units, inches say, become mm by its header. Raises Refused."""
    from OCP.IFSelect import IFSelect_ReturnStatus
    from OCP.Interface import Interface_Static
    from OCP.STEPControl import STEPControl_Reader

    Interface_Static.SetCVal_s("xstep.cascade.unit", "MM")
    reader = STEPControl_Reader()
    try:
        status = reader.ReadStream("shape.step", io.BytesIO(data))
        if status != IFSelect_ReturnStatus.IFSelect_RetDone:
            raise Refused(UNREADABLE, f"a STEP file that does not parse ({str(status).rpartition('_')[2]})")
        reader.TransferRoots()
        return reader.OneShape()
    except Refused:
        raise
    except Exception as error:
        raise Refused(UNREADABLE, f"a STEP file that the kernel cannot read: {one_line(error)}") from None


def write_brep(shape: TopoDS_Shape) -> bytes:
    """The shape as BREP text without triangles: kernels of other versions read it, too."""
    from OCP.BRepTools import BRepTools
    from OCP.TopTools import TopTools_FormatVersion

    file = io.BytesIO()
    BRepTools.Write_s(shape, file, False, False, TopTools_FormatVersion.TopTools_FormatVersion_VERSION_1)
    return file.getvalue()


def write_step(shape: TopoDS_Shape, unit: str = "MM") -> bytes:
    """The shape, whose lengths are mm, as a STEP file. unit: in which its numbers are written, such as "INCH"."""
    from OCP.IFSelect import IFSelect_ReturnStatus
    from OCP.Interface import Interface_Static
    from OCP.STEPControl import STEPControl_StepModelType, STEPControl_Writer

    writer = STEPControl_Writer()  # sets the library up, which the units need
    before = Interface_Static.CVal_s("write.step.unit")
    if not Interface_Static.SetCVal_s("write.step.unit", unit):
        raise ValueError(f"unit={unit!r} is none that STEP files are written in; MM, CM, M and INCH are")
    try:
        writer.Transfer(shape, STEPControl_StepModelType.STEPControl_AsIs)
        file = io.BytesIO()
        if writer.WriteStream(file) != IFSelect_ReturnStatus.IFSelect_RetDone:
            raise ValueError("the kernel could not write this shape as STEP")
    finally:
        Interface_Static.SetCVal_s("write.step.unit", before)
    return file.getvalue()
