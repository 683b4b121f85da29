"""Parts that begin as a block: plates, pockets, frames, sheets."""

from __future__ import annotations

import random
from pathlib import Path

from mmrl.importing import import_file

nouns = import_file(Path(__file__).with_name("nouns.py"))
Family, Numbers, Slips, disc = nouns.Family, nouns.Numbers, nouns.Slips, nouns.disc
START, ON_TOP = nouns.START, nouns.ON_TOP


def _flat(rng: random.Random) -> dict[str, int]:
    length = rng.randint(24, 120)
    return {"length": length, "width": rng.randint(16, length), "thickness": rng.randint(2, 20)}


def _plate(rng: random.Random) -> dict[str, int]:
    flat = _flat(rng)
    return {**flat, "hole": rng.randint(3, flat["width"] - 8)}


def _drilled(rng: random.Random) -> dict[str, int]:
    flat, hole = _flat(rng), rng.randint(3, 6)
    apart = {
        name: rng.randint(hole + 2, flat[of] - hole - 2) for name, of in (("along", "length"), ("across", "width"))
    }
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


def _bracket(rng: random.Random) -> dict[str, int]:
    length, thick = rng.randint(20, 120), rng.randint(2, 10)
    return {"length": length, "width": rng.randint(10, 99), "height": rng.randint(thick + 6, 99), "thickness": thick}


def _channel(rng: random.Random) -> dict[str, int]:
    wall = rng.randint(2, 8)
    sides = {"width": rng.randint(2 * wall + 4, 80), "height": rng.randint(wall + 4, 80)}
    return {"length": rng.randint(20, 120), **sides, "wall": wall}


def _box_size(n: Numbers) -> tuple[float, float, float]:
    return (n["length"], n["width"], n["height"] if "height" in n else n["thickness"])


def _bracket_code(n: Numbers, s: Slips) -> str:
    base, upright = s.block(n["length"], n["width"], n["thickness"]), s.block(n["thickness"], n["width"], n["height"])
    place = f".center(({n['thickness']}-{n['length']})/2,0)"
    return f'{START}{base}.union(cq.Workplane("XY"){place}{upright})'


FLAT: dict[str, Family] = {
    "plate": Family(
        _plate,
        lambda n, s: f"{START}{s.block(n['length'], n['width'], n['thickness'])}{ON_TOP}.hole({n['hole']})",
        lambda n: n["length"] * n["width"] * n["thickness"] - disc(n["hole"], n["thickness"]),
        _box_size,
        (
            "A plate {length} mm long, {width} mm wide and {thickness} mm thick, with a hole of {hole} mm in its "
            "centre.",
            "Plate, {length} x {width} x {thickness} mm, centre hole {hole} mm.",
            "A {thickness} mm thick plate of {length} by {width} mm. A hole of {hole} mm goes through its centre.",
        ),
        ("frame",),
    ),
    "drilled": Family(
        _drilled,
        lambda n, s: (
            f"{START}{s.block(n['length'], n['width'], n['thickness'])}{ON_TOP}"
            f".rect({n['along']},{n['across']},forConstruction=True).vertices().hole({n['hole']})"
        ),
        lambda n: n["length"] * n["width"] * n["thickness"] - 4 * disc(n["hole"], n["thickness"]),
        _box_size,
        (
            "A plate {length} mm long, {width} mm wide and {thickness} mm thick, with four holes of {hole} mm, "
            "{along} by "
            "{across} mm apart.",
            "Plate, {length} x {width} x {thickness} mm, four holes {hole} mm at {along} x {across} mm.",
        ),
        ("frame",),
    ),
    "slot": Family(
        _slotted,
        lambda n, s: (
            f"{START}{s.block(n['length'], n['width'], n['thickness'])}{ON_TOP}"
            f".slot2D({n['slot']},{n['slot_width']}).cutThruAll()"
        ),
        lambda n: (
            n["thickness"] * (n["length"] * n["width"] - (n["slot"] - n["slot_width"]) * n["slot_width"])
            - disc(n["slot_width"], n["thickness"])
        ),
        _box_size,
        (
            "A plate {length} mm long, {width} mm wide and {thickness} mm thick, with a round-ended slot {slot} "
            "mm long and "
            "{slot_width} mm wide in its centre.",
            "Plate, {length} x {width} x {thickness} mm, centre slot {slot} x {slot_width} mm.",
        ),
        ("frame",),
    ),
    "pocket": Family(
        _pocket,
        lambda n, s: (
            f"{START}{s.block(n['length'], n['width'], n['height'])}{ON_TOP}"
            f".rect({n['pocket_length']},{n['pocket_width']}).cutBlind(-{n['depth']})"
        ),
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
        lambda n, s: (
            f"{START}{s.block(n['length'], n['width'], n['thickness'])}{ON_TOP}"
            f"{s.circle(n['boss'])}.extrude({n['boss_height']})"
        ),
        lambda n: n["length"] * n["width"] * n["thickness"] + disc(n["boss"], n["boss_height"]),
        lambda n: (n["length"], n["width"], n["thickness"] + n["boss_height"]),
        (
            "A plate {length} mm long, {width} mm wide and {thickness} mm thick, with a round boss of {boss} mm "
            "diameter, "
            "{boss_height} mm high, on its centre.",
            "Plate, {length} x {width} x {thickness} mm, centre boss {boss} mm diameter, {boss_height} mm high.",
        ),
        ("frame", "parameter"),
    ),
    "frame": Family(
        _frame,
        lambda n, s: (
            f"{START}.rect({n['length']},{n['width']}).rect({n['inner_length']},{n['inner_width']})"
            f".extrude({n['height']}{',both=True' if s.frame else ''})"
        ),
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
            "An L-bracket {length} mm long, {width} mm wide and {height} mm high, of {thickness} mm thick sheet, "
            "its upright "
            "on the side of negative x.",
            "L-bracket, {length} x {width} x {height} mm, {thickness} mm thick, upright at negative x.",
        ),
        ("frame",),
    ),
    "channel": Family(
        _channel,
        lambda n, s: (
            f"{START}{s.block(n['length'], n['width'], n['height'])}{ON_TOP}"
            f".rect({n['length']},{n['width']}-2*{n['wall']}).cutBlind({n['wall']}-{n['height']})"
        ),
        lambda n: n["length"] * (n["width"] * n["height"] - (n["width"] - 2 * n["wall"]) * (n["height"] - n["wall"])),
        _box_size,
        (
            "A U-channel {length} mm long, {width} mm wide and {height} mm high with walls of {wall} mm, open to "
            "the top.",
            "U-channel, {length} x {width} x {height} mm, walls {wall} mm, open to the top.",
        ),
        ("frame",),
    ),
}
