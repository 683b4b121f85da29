"""What of an answer with a cadquery or build123d program has to be exact: its numbers, and its geometric operations.

For `model.precise`: `share://rewards/cad_spans.py:spans`.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator, Sequence
from itertools import accumulate
from keyword import iskeyword
from tokenize import NAME, NUMBER, TokenInfo

from mmrl.fences import last_of
from mmrl.solids.dialects import LANGUAGES
from mmrl.thoughts import said_at

Span = tuple[int, int]
Place = tuple[int, int]  # line, from 1, and column

# Names of calls that change the solid, of CadQuery's Workplane and of build123d.
_CALLS = {
    "solids": "box cylinder sphere wedge cone torus Box Cylinder Sphere Wedge Cone Torus",
    "outlines": "rect circle ellipse polygon slot2D polyline spline lineTo line hLine vLine hLineTo vLineTo radiusArc "
    "threePointArc tangentArcPoint sagittaArc close trapezoid Rectangle Circle Ellipse RegularPolygon Polygon "
    "Polyline Line Spline SlotOverall SlotCenterToCenter ThreePointArc RadiusArc JernArc Trapezoid make_face",
    "outlines to solids": "extrude twistExtrude revolve sweep loft hole cboreHole cskHole cutBlind cutThruAll Hole "
    "CounterBoreHole CounterSinkHole thicken",
    "solids to solids": "union cut intersect combine fillet chamfer shell split offset2D offset",
    "places": "workplane transformed center moveTo move translate rotate rotateAboutCenter mirror mirrorX mirrorY "
    "pushPoints rarray polarArray Plane Pos Rot Location Locations GridLocations PolarLocations",
}
OPERATIONS = frozenset(name for names in _CALLS.values() for name in names.split())


def spans(text: str) -> list[Span]:
    """(start, end) of the numeric literals, with their sign, and of the names of OPERATIONS that are called.

    The program is the last fenced block behind the thoughts, or all that stands there; Python's own tokenizer reads it,
    up to the place from which on it is no Python.
    """
    start, end = program_span(text)
    code = text[start:end]
    lines = [0, *accumulate(len(line) + 1 for line in code.split("\n"))]  # where each begins

    def at(place: Place) -> int:
        return start + lines[place[0] - 1] + place[1]

    return [(at(first), at(last)) for first, last in _exact(list(_tokens(code)))]


def program_span(text: str) -> Span:
    """Where in an answer its program stands: the one that is run and paid, see cad_records.program_of."""
    start, end = said_at(text)
    block = last_of(text[start:end], LANGUAGES)
    return (start, end) if block is None else (start + block.start, start + block.end)


def _exact(tokens: Sequence[TokenInfo]) -> Iterator[tuple[Place, Place]]:
    nothing = TokenInfo(tokenize.ENDMARKER, "", (0, 0), (0, 0), "")
    padded = [nothing, nothing, *tokens, nothing]
    for earlier, before, token, after in zip(padded, padded[1:], padded[2:], padded[3:]):
        if token.type == NUMBER:
            signed = before.string == "-" and not _is_operand(earlier)
            yield before.start if signed else token.start, token.end
        elif token.type == NAME and token.string in OPERATIONS and after.string == "(":
            yield token.start, token.end


def _is_operand(token: TokenInfo) -> bool:
    """Whether a minus behind this token is one between two numbers."""
    named = token.type == NAME and not iskeyword(token.string)
    return named or token.type == NUMBER or token.string in (")", "]")


def _tokens(code: str) -> Iterator[TokenInfo]:
    try:
        yield from tokenize.generate_tokens(io.StringIO(code).readline)
    except (tokenize.TokenError, SyntaxError):  # the answer ends within a bracket, or is no Python from here on
        return
