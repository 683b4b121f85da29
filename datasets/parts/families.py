"""Families of mechanical parts: how their numbers are drawn, said and built, and their volume in closed form.

Every part stands on the plane z = 0 with its outline centred on the z axis; lengths are whole millimetres. A program is
one chain of cadquery calls. Its numbers are those of the words, and what follows from them is written as a term
(`circle(34/2)`), so that nobody has to calculate to write it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Numbers = Mapping[str, int]
START = 'result = cq.Workplane("XY")'
ON_TOP = '.faces(">Z").workplane()'


@dataclass(frozen=True)
class Slips:
    """Two mistakes of beginners, which CAD-RL's judge is told to punish: a parameter that is another (a diameter where a
    radius is due), and a frame that is another (`box` and `cylinder` are centred in z, too)."""

    parameter: bool = False
    frame: bool = False

    def circle(self, diameter: int) -> str:
        return f".circle({diameter})" if self.parameter else f".circle({diameter}/2)"

    def block(self, length: int, width: int, height: int) -> str:
        whole = f".box({length},{width},{height})"
        return whole if self.frame else f".rect({length},{width}).extrude({height})"


@dataclass(frozen=True)
class Family:
    """One shape with its numbers.

    draw: the numbers of a part, by name, in mm. code: its program, with mistakes where they are asked for. volume: in
    mm^3. size: of the bounding box along x, y and z, in mm; it is centred in x and y and begins at z = 0.
    words: ways to ask for it. slips: names of the mistakes that its program can hold.
    """

    draw: Callable[[random.Random], dict[str, int]]
    code: Callable[[Numbers, Slips], str]
    volume: Callable[[Numbers], float]
    size: Callable[[Numbers], tuple[float, float, float]]
    words: tuple[str, ...]
    slips: tuple[str, ...]


def disc(diameter: float, height: float) -> float:
    """Volume of a cylinder."""
    return math.pi / 4 * diameter**2 * height


def _flat(rng: random.Random) -> dict[str, int]:
    length = rng.randint(24, 120)
    return {"length": length, "width": rng.randint(16, length), "thickness": rng.randint(2, 20)}


def _plate(rng: random.Random) -> dict[str, int]:
    flat = _flat(rng)
    return {**flat, "hole": rng.randint(3, flat["width"] - 8)}


def _drilled(rng: random.Random) -> dict[str, int]:
    flat, hole = _flat(rng), rng.randint(3, 6)
    apart = {name: rng.randint(hole + 2, flat[of] - hole - 2) for name, of in (("along", "length"), ("across", "width"))}
    return {**flat, **apart, "hole": hole}


def _slotted(rng: random.Random) -> dict[str, int]:
    flat = _flat(rng)
    wide = rng.randint(3, flat["width"] // 2)
    return {**flat, "slot": rng.randint(wide + 2, flat["length"] - 4), "slot_width": wide}


def _pocket(rng: random.Random) -> dict[str, int]:
    length, height = rng.randint(24, 120), rng.randint(6, 60)
    width = rng.randint(16, length)
    inner = {"pocket_length": rng.randint(6, length - 4), "pocket_width": rng.randint(6, width - 4)}
    return {"length": length, "width": width, "height": height, **inner, "depth": rng.randint(2, height - 2)}


def _boss(rng: random.Random) -> dict[str, int]:
    flat = _flat(rng)
    return {**flat, "boss": rng.randint(6, flat["width"] - 2), "boss_height": rng.randint(2, 60)}


def _frame(rng: random.Random) -> dict[str, int]:
    flat = _flat(rng)
    inner = {"inner_length": rng.randint(6, flat["length"] - 4), "inner_width": rng.randint(6, flat["width"] - 4)}
    return {"length": flat["length"], "width": flat["width"], **inner, "height": flat["thickness"]}


def _tube(rng: random.Random) -> dict[str, int]:
    outer = rng.randint(8, 99)
    return {"outer": outer, "inner": rng.randint(3, outer - 2), "height": rng.randint(3, 120)}


def _shaft(rng: random.Random) -> dict[str, int]:
    lower = rng.randint(8, 80)
    heights = {"lower_height": rng.randint(4, 80), "upper_height": rng.randint(4, 80)}
    return {"lower": lower, "upper": rng.randint(4, lower - 2), **heights}


def _flange(rng: random.Random) -> dict[str, int]:
    disc_ = rng.randint(24, 120)
    hub = rng.randint(10, disc_ - 6)
    heights = {"thickness": rng.randint(3, 20), "hub_height": rng.randint(4, 60)}
    return {"disc": disc_, "hub": hub, "bore": rng.randint(4, hub - 4), **heights}


def _bolted(rng: random.Random) -> dict[str, int]:
    disc_, hole, count = rng.randint(40, 120), rng.randint(3, 6), rng.randint(3, 8)
    return {
        "disc": disc_,
        "thickness": rng.randint(3, 20),
        "holes": count,
        "hole": hole,
        "circle": rng.randint(disc_ // 2, disc_ - hole - 4),
    }


def _bracket(rng: random.Random) -> dict[str, int]:
    length, thick = rng.randint(20, 120), rng.randint(2, 10)
    return {"length": length, "width": rng.randint(10, 99), "height": rng.randint(thick + 6, 99), "thickness": thick}


def _channel(rng: random.Random) -> dict[str, int]:
    wall = rng.randint(2, 8)
    sides = {"width": rng.randint(2 * wall + 4, 80), "height": rng.randint(wall + 4, 80)}
    return {"length": rng.randint(20, 120), **sides, "wall": wall}


def _pin(rng: random.Random) -> dict[str, int]:
    diameter = rng.randint(4, 60)
    return {"diameter": diameter, "height": rng.randint((diameter + 1) // 2 + 1, 120)}


def _nut(rng: random.Random) -> dict[str, int]:
    corners = rng.randint(10, 80)
    return {"corners": corners, "height": rng.randint(3, 40), "hole": rng.randint(3, corners * 2 // 3)}


def _box_size(n: Numbers) -> tuple[float, float, float]:
    return (n["length"], n["width"], n["height"] if "height" in n else n["thickness"])


def _bracket_code(n: Numbers, s: Slips) -> str:
    base, upright = s.block(n["length"], n["width"], n["thickness"]), s.block(n["thickness"], n["width"], n["height"])
    place = f".center(({n['thickness']}-{n['length']})/2,0)"
    return f'{START}{base}.union(cq.Workplane("XY"){place}{upright})'


FAMILIES: dict[str, Family] = {
    "plate": Family(
        _plate,
        lambda n, s: f"{START}{s.block(n['length'], n['width'], n['thickness'])}{ON_TOP}.hole({n['hole']})",
        lambda n: n["length"] * n["width"] * n["thickness"] - disc(n["hole"], n["thickness"]),
        _box_size,
        (
            "A plate {length} mm long, {width} mm wide and {thickness} mm thick, with a hole of {hole} mm in its centre.",
            "Plate, {length} x {width} x {thickness} mm, centre hole {hole} mm.",
            "A {thickness} mm thick plate of {length} by {width} mm. A hole of {hole} mm goes through its centre.",
        ),
        ("frame",),
    ),
    "drilled": Family(
        _drilled,
        lambda n, s: f"{START}{s.block(n['length'], n['width'], n['thickness'])}{ON_TOP}"
        f".rect({n['along']},{n['across']},forConstruction=True).vertices().hole({n['hole']})",
        lambda n: n["length"] * n["width"] * n["thickness"] - 4 * disc(n["hole"], n["thickness"]),
        _box_size,
        (
            "A plate {length} mm long, {width} mm wide and {thickness} mm thick, with four holes of {hole} mm, {along} by "
            "{across} mm apart.",
            "Plate, {length} x {width} x {thickness} mm, four holes {hole} mm at {along} x {across} mm.",
        ),
        ("frame",),
    ),
    "slot": Family(
        _slotted,
        lambda n, s: f"{START}{s.block(n['length'], n['width'], n['thickness'])}{ON_TOP}"
        f".slot2D({n['slot']},{n['slot_width']}).cutThruAll()",
        lambda n: n["thickness"] * (n["length"] * n["width"] - (n["slot"] - n["slot_width"]) * n["slot_width"])
        - disc(n["slot_width"], n["thickness"]),
        _box_size,
        (
            "A plate {length} mm long, {width} mm wide and {thickness} mm thick, with a round-ended slot {slot} mm long and "
            "{slot_width} mm wide in its centre.",
            "Plate, {length} x {width} x {thickness} mm, centre slot {slot} x {slot_width} mm.",
        ),
        ("frame",),
    ),
    "pocket": Family(
        _pocket,
        lambda n, s: f"{START}{s.block(n['length'], n['width'], n['height'])}{ON_TOP}"
        f".rect({n['pocket_length']},{n['pocket_width']}).cutBlind(-{n['depth']})",
        lambda n: n["length"] * n["width"] * n["height"] - n["pocket_length"] * n["pocket_width"] * n["depth"],
        _box_size,
        (
            "A block {length} mm long, {width} mm wide and {height} mm high, with a pocket {pocket_length} mm long, "
            "{pocket_width} mm wide and {depth} mm deep in its top.",
            "Block, {length} x {width} x {height} mm, top pocket {pocket_length} x {pocket_width} mm, {depth} mm deep.",
        ),
        ("frame",),
    ),
    "boss": Family(
        _boss,
        lambda n, s: f"{START}{s.block(n['length'], n['width'], n['thickness'])}{ON_TOP}"
        f"{s.circle(n['boss'])}.extrude({n['boss_height']})",
        lambda n: n["length"] * n["width"] * n["thickness"] + disc(n["boss"], n["boss_height"]),
        lambda n: (n["length"], n["width"], n["thickness"] + n["boss_height"]),
        (
            "A plate {length} mm long, {width} mm wide and {thickness} mm thick, with a round boss of {boss} mm diameter, "
            "{boss_height} mm high, on its centre.",
            "Plate, {length} x {width} x {thickness} mm, centre boss {boss} mm diameter, {boss_height} mm high.",
        ),
        ("frame", "parameter"),
    ),
    "frame": Family(
        _frame,
        lambda n, s: f"{START}.rect({n['length']},{n['width']}).rect({n['inner_length']},{n['inner_width']})"
        f".extrude({n['height']}{',both=True' if s.frame else ''})",
        lambda n: (n["length"] * n["width"] - n["inner_length"] * n["inner_width"]) * n["height"],
        _box_size,
        (
            "A frame {length} mm long, {width} mm wide and {height} mm high, open inside over {inner_length} by "
            "{inner_width} mm.",
            "Frame, {length} x {width} x {height} mm, opening {inner_length} x {inner_width} mm.",
        ),
        ("frame",),
    ),
    "bracket": Family(
        _bracket,
        _bracket_code,
        lambda n: n["width"] * n["thickness"] * (n["length"] + n["height"] - n["thickness"]),
        _box_size,
        (
            "An L-bracket {length} mm long, {width} mm wide and {height} mm high, of {thickness} mm thick sheet, its upright "
            "on the side of negative x.",
            "L-bracket, {length} x {width} x {height} mm, {thickness} mm thick, upright at negative x.",
        ),
        ("frame",),
    ),
    "channel": Family(
        _channel,
        lambda n, s: f"{START}{s.block(n['length'], n['width'], n['height'])}{ON_TOP}"
        f".rect({n['length']},{n['width']}-2*{n['wall']}).cutBlind({n['wall']}-{n['height']})",
        lambda n: n["length"]
        * (n["width"] * n["height"] - (n["width"] - 2 * n["wall"]) * (n["height"] - n["wall"])),
        _box_size,
        (
            "A U-channel {length} mm long, {width} mm wide and {height} mm high with walls of {wall} mm, open to the top.",
            "U-channel, {length} x {width} x {height} mm, walls {wall} mm, open to the top.",
        ),
        ("frame",),
    ),
    "tube": Family(
        _tube,
        lambda n, s: f"{START}{s.circle(n['outer'])}{s.circle(n['inner'])}.extrude({n['height']})",
        lambda n: disc(n["outer"], n["height"]) - disc(n["inner"], n["height"]),
        lambda n: (n["outer"], n["outer"], n["height"]),
        (
            "A tube of {outer} mm outer and {inner} mm inner diameter, {height} mm high.",
            "Tube, {outer} mm outside, {inner} mm inside, {height} mm high.",
            "A {height} mm high tube. Its outer diameter is {outer} mm, its inner diameter {inner} mm.",
        ),
        ("parameter",),
    ),
    "shaft": Family(
        _shaft,
        lambda n, s: f"{START}{s.circle(n['lower'])}.extrude({n['lower_height']}){ON_TOP}"
        f"{s.circle(n['upper'])}.extrude({n['upper_height']})",
        lambda n: disc(n["lower"], n["lower_height"]) + disc(n["upper"], n["upper_height"]),
        lambda n: (n["lower"], n["lower"], n["lower_height"] + n["upper_height"]),
        (
            "A stepped shaft: below {lower} mm diameter, {lower_height} mm high, above {upper} mm diameter, {upper_height} "
            "mm high.",
            "Shaft, {lower} mm diameter for {lower_height} mm, then {upper} mm diameter for {upper_height} mm.",
        ),
        ("parameter",),
    ),
    "flange": Family(
        _flange,
        lambda n, s: f"{START}{s.circle(n['disc'])}.extrude({n['thickness']}){ON_TOP}"
        f"{s.circle(n['hub'])}.extrude({n['hub_height']}){ON_TOP}.hole({n['bore']})",
        lambda n: disc(n["disc"], n["thickness"])
        + disc(n["hub"], n["hub_height"])
        - disc(n["bore"], n["thickness"] + n["hub_height"]),
        lambda n: (n["disc"], n["disc"], n["thickness"] + n["hub_height"]),
        (
            "A flange: a disc of {disc} mm diameter, {thickness} mm thick, on it a hub of {hub} mm diameter, {hub_height} mm "
            "high, with a bore of {bore} mm through both.",
            "Flange, disc {disc} mm diameter, {thickness} mm thick, hub {hub} mm diameter, {hub_height} mm high, bore {bore} "
            "mm.",
        ),
        ("parameter",),
    ),
    "bolted": Family(
        _bolted,
        lambda n, s: f"{START}{s.circle(n['disc'])}.extrude({n['thickness']}){ON_TOP}"
        f".polarArray({n['circle']}{'' if s.parameter else '/2'},0,360,{n['holes']}).hole({n['hole']})",
        lambda n: disc(n["disc"], n["thickness"]) - n["holes"] * disc(n["hole"], n["thickness"]),
        lambda n: (n["disc"], n["disc"], n["thickness"]),
        (
            "A disc of {disc} mm diameter, {thickness} mm thick, with {holes} holes of {hole} mm on a circle of {circle} mm "
            "diameter, the first at positive x.",
            "Disc, {disc} mm diameter, {thickness} mm thick, {holes} holes {hole} mm on a {circle} mm circle from positive "
            "x.",
        ),
        ("parameter",),
    ),
    "pin": Family(
        _pin,
        lambda n, s: f"{START}{s.circle(n['diameter'])}.extrude({n['height']}){ON_TOP}"
        f".sphere({n['diameter']}{'' if s.parameter else '/2'})",
        lambda n: disc(n["diameter"], n["height"]) + math.pi / 12 * n["diameter"] ** 3,
        lambda n: (n["diameter"], n["diameter"], n["height"] + n["diameter"] / 2),
        (
            "A pin of {diameter} mm diameter, {height} mm high, with a half sphere of the same diameter on top.",
            "Pin, {diameter} mm diameter, {height} mm high, half sphere on top.",
        ),
        ("parameter",),
    ),
    "nut": Family(
        _nut,
        lambda n, s: f"{START}.polygon(6,{n['corners']}).extrude({n['height']}){ON_TOP}.hole({n['hole']})",
        lambda n: 3 * math.sqrt(3) / 8 * n["corners"] ** 2 * n["height"] - disc(n["hole"], n["height"]),
        lambda n: (n["corners"], n["corners"] * math.sqrt(3) / 2, n["height"]),
        (
            "A hexagonal nut, {corners} mm over its corners, two of which are on the x axis, {height} mm high, with a hole of "
            "{hole} mm.",
            "Hexagonal nut, {corners} mm over corners on x, {height} mm high, hole {hole} mm.",
        ),
        (),
    ),
}
