"""Parts that begin as a disc: tubes, shafts, flanges, pins, nuts."""

from __future__ import annotations

import math
import random
from pathlib import Path

from mmrl.importing import import_file

nouns = import_file(Path(__file__).with_name("nouns.py"))
Family, Numbers, Slips, disc = nouns.Family, nouns.Numbers, nouns.Slips, nouns.disc
START, ON_TOP = nouns.START, nouns.ON_TOP


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


def _pin(rng: random.Random) -> dict[str, int]:
    diameter = rng.randint(4, 60)
    return {"diameter": diameter, "height": rng.randint((diameter + 1) // 2 + 1, 120)}


def _nut(rng: random.Random) -> dict[str, int]:
    corners = rng.randint(10, 80)
    return {"corners": corners, "height": rng.randint(3, 40), "hole": rng.randint(3, corners * 2 // 3)}


ROUND: dict[str, Family] = {
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
        lambda n, s: (
            f"{START}{s.circle(n['lower'])}.extrude({n['lower_height']}){ON_TOP}"
            f"{s.circle(n['upper'])}.extrude({n['upper_height']})"
        ),
        lambda n: disc(n["lower"], n["lower_height"]) + disc(n["upper"], n["upper_height"]),
        lambda n: (n["lower"], n["lower"], n["lower_height"] + n["upper_height"]),
        (
            "A stepped shaft: below {lower} mm diameter, {lower_height} mm high, above {upper} mm diameter, "
            "{upper_height} "
            "mm high.",
            "Shaft, {lower} mm diameter for {lower_height} mm, then {upper} mm diameter for {upper_height} mm.",
        ),
        ("parameter",),
    ),
    "flange": Family(
        _flange,
        lambda n, s: (
            f"{START}{s.circle(n['disc'])}.extrude({n['thickness']}){ON_TOP}"
            f"{s.circle(n['hub'])}.extrude({n['hub_height']}){ON_TOP}.hole({n['bore']})"
        ),
        lambda n: (
            disc(n["disc"], n["thickness"])
            + disc(n["hub"], n["hub_height"])
            - disc(n["bore"], n["thickness"] + n["hub_height"])
        ),
        lambda n: (n["disc"], n["disc"], n["thickness"] + n["hub_height"]),
        (
            "A flange: a disc of {disc} mm diameter, {thickness} mm thick, on it a hub of {hub} mm diameter, "
            "{hub_height} mm "
            "high, with a bore of {bore} mm through both.",
            "Flange, disc {disc} mm diameter, {thickness} mm thick, hub {hub} mm diameter, {hub_height} mm high, "
            "bore {bore} "
            "mm.",
        ),
        ("parameter",),
    ),
    "bolted": Family(
        _bolted,
        lambda n, s: (
            f"{START}{s.circle(n['disc'])}.extrude({n['thickness']}){ON_TOP}"
            f".polarArray({n['circle']}{'' if s.parameter else '/2'},0,360,{n['holes']}).hole({n['hole']})"
        ),
        lambda n: disc(n["disc"], n["thickness"]) - n["holes"] * disc(n["hole"], n["thickness"]),
        lambda n: (n["disc"], n["disc"], n["thickness"]),
        (
            "A disc of {disc} mm diameter, {thickness} mm thick, with {holes} holes of {hole} mm on a circle of "
            "{circle} mm "
            "diameter, the first at positive x.",
            "Disc, {disc} mm diameter, {thickness} mm thick, {holes} holes {hole} mm on a {circle} mm circle "
            "from positive "
            "x.",
        ),
        ("parameter",),
    ),
    "pin": Family(
        _pin,
        lambda n, s: (
            f"{START}{s.circle(n['diameter'])}.extrude({n['height']}){ON_TOP}"
            f".sphere({n['diameter']}{'' if s.parameter else '/2'})"
        ),
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
            "A hexagonal nut, {corners} mm over its corners, two of which are on the x axis, {height} mm high, "
            "with a hole of "
            "{hole} mm.",
            "Hexagonal nut, {corners} mm over corners on x, {height} mm high, hole {hole} mm.",
        ),
        (),
    ),
}
