"""Scenes of emoji on a photograph, each with a digit on a small badge: how one is laid out and drawn.

Nothing of a scene is stored: a `Scene` is a few numbers, and a `Picture` draws it, or a part of it, when it is called.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter

HERE = Path(__file__).resolve().parent
PLACES = ("top left", "top right", "bottom left", "bottom right")  # also the reading order
SIZE = 160  # side in pixels at which the sizes below are meant
EMOJI = (36, 52)  # longer side of an emoji
OVERHANG = 2  # of the badge over the emoji's lower right corner
BADGE, GLYPH = (18, 22), (5, 7)
COLOURS = {"black": (0, 0, 0), "red": (190, 0, 0), "blue": (0, 0, 210), "green": (0, 110, 0)}  # of badges
GLYPHS = (
    ".XXX. X...X X..XX X.X.X XX..X X...X .XXX.",
    "..X.. .XX.. ..X.. ..X.. ..X.. ..X.. .XXX.",
    ".XXX. X...X ....X ...X. ..X.. .X... XXXXX",
    "XXXXX ...X. ..X.. ...X. ....X X...X .XXX.",
    "...X. ..XX. .X.X. X..X. XXXXX ...X. ...X.",
    "XXXXX X.... XXXX. ....X ....X X...X .XXX.",
    "..XX. .X... X.... XXXX. X...X X...X .XXX.",
    "XXXXX ....X ...X. ..X.. .X... .X... .X...",
    ".XXX. X...X X...X .XXX. X...X X...X .XXX.",
    ".XXX. X...X X...X .XXXX ....X ...X. .XX..",
)

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Item:
    """One emoji with its badge, in pixels of the scene."""

    kind: str
    digit: int
    place: str  # one of PLACES: the quarter that it lies in
    emoji: Box
    badge: Box
    colour: str = "black"  # one of COLOURS: of the badge

    @property
    def box(self) -> Box:
        """Around emoji and badge."""
        (a, b, c, d), (e, f, g, h) = self.emoji, self.badge
        return (min(a, e), min(b, f), max(c, g), max(d, h))


@dataclass(frozen=True)
class Scene:
    """`items` in reading order over the part of a photograph that begins at `corner`.

    size: width in pixels. rows: 2 is a square, 1 its upper half.
    """

    size: int
    photo: str
    corner: tuple[int, int]
    items: tuple[Item, ...]
    rows: int = 2

    @property
    def extent(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return (self.size, self.size * self.rows // 2)


@dataclass(frozen=True)
class Picture:
    """Draws a scene when it is called: all of it, or `crop` of it, scaled to `shown` (width, height)."""

    scene: Scene
    crop: Box | None = None
    shown: tuple[int, int] | None = None

    def __call__(self) -> Image.Image:
        """RGB."""
        picture = render(self.scene)
        if self.crop is not None:
            picture = picture.crop(self.crop)
        return picture if self.shown in (None, picture.size) else picture.resize(self.shown, Image.Resampling.BICUBIC)


# -------------------------------------------------------------------- layout


def layout(
    rng: random.Random,
    kinds: Sequence[str],
    size: int = SIZE,
    count: tuple[int, int] = (2, 4),
    parity: int = 0,
    badge_size: float = 1.0,
    rows: int = 2,
) -> Scene:
    """A scene of count[0] to count[1] emoji of different kinds with different digits and colours, at most one in each
    quarter.

    size: side in pixels, to which everything scales. parity: 0 or 1, of the first column of the photograph that shows.
    badge_size: of the badges; 1 is BADGE. rows: of quarters; 1 has the two upper ones alone.
    """
    number = rng.randint(*count)
    places = sorted(rng.sample(range(2 * rows), number))
    features = (list(kinds), range(10), list(COLOURS))
    drawn = zip(places, *(rng.sample(feature, number) for feature in features))
    items = tuple(_item(rng, size, badge_size, *each) for each in drawn)
    photo = rng.choice(sorted(photographs()))
    width, height = photographs()[photo].size
    corner = (2 * rng.randrange((width - SIZE) // 2) + parity, rng.randrange(height - SIZE + 1))
    return Scene(size, photo, corner, items, rows)


def _item(rng: random.Random, size: int, badge_size: float, place: int, kind: str, digit: int, colour: str) -> Item:
    unit = size / SIZE
    left, top, right, bottom = sprite_boxes()[kind]
    scale = rng.uniform(*EMOJI) * unit / max(right - left, bottom - top)
    width, height = round((right - left) * scale), round((bottom - top) * scale)
    hang, quarter = round(OVERHANG * unit), size // 2
    x = (place % 2) * quarter + rng.randint(1, quarter - width - hang - 1)
    y = (place // 2) * quarter + rng.randint(1, quarter - height - hang - 1)
    badge_width, badge_height = (max(1, round(side * unit * badge_size)) for side in BADGE)
    corner = (x + width + hang, y + height + hang)
    badge = (corner[0] - badge_width, corner[1] - badge_height, *corner)
    return Item(kind, digit, PLACES[place], (x, y, x + width, y + height), badge, colour)


# -------------------------------------------------------------------- drawing


def render(scene: Scene) -> Image.Image:
    """The whole scene, RGB."""
    x, y = scene.corner
    canvas = photographs()[scene.photo].crop((x, y, x + SIZE, y + SIZE * scene.rows // 2))
    if scene.size != SIZE:
        canvas = canvas.resize(scene.extent, Image.Resampling.BICUBIC)
    for item in scene.items:
        left, top, right, bottom = item.emoji
        emoji = sprite(item.kind, right - left, bottom - top)
        canvas.paste(emoji, (left, top), emoji)
        left, top, right, bottom = item.badge
        canvas.paste(badge(item.digit, right - left, bottom - top, item.colour), (left, top))
    return canvas


@cache
def photographs() -> dict[str, Image.Image]:
    """Name -> the photograph, dimmed and a little blurred, so that what is in front stands out."""
    found = {}
    for path in sorted((HERE / "photos").glob("*.jpg")):
        with Image.open(path) as photo:
            blurred = photo.convert("RGB").filter(ImageFilter.GaussianBlur(1))
        found[path.stem] = ImageEnhance.Contrast(ImageEnhance.Brightness(blurred).enhance(0.75)).enhance(0.7)
    return found


@cache
def sprite_boxes() -> dict[str, Box]:
    """Kind -> where it is in the atlas."""
    return {k: tuple(box) for k, box in json.loads((HERE / "sprites.json").read_text(encoding="utf-8")).items()}


@cache
def _atlas() -> Image.Image:
    with Image.open(HERE / "sprites.png") as atlas:
        return atlas.convert("RGBA")


@lru_cache(4096)
def sprite(kind: str, width: int, height: int) -> Image.Image:
    """An emoji, RGBA."""
    return _atlas().crop(sprite_boxes()[kind]).resize((width, height), Image.Resampling.LANCZOS)


@lru_cache(1024)
def badge(digit: int, width: int, height: int, colour: str = "black") -> Image.Image:
    """A digit of 5 x 7 units, white on a badge of 9 x 11 units, RGB."""
    units = tuple(side // 2 for side in BADGE)
    plain = Image.new("RGB", units, COLOURS[colour])
    margin = [(outer - inner) // 2 for outer, inner in zip(units, GLYPH)]
    for y, line in enumerate(GLYPHS[digit].split()):
        for x, mark in enumerate(line):
            if mark == "X":
                plain.putpixel((margin[0] + x, margin[1] + y), (255, 255, 255))
    large = plain.resize((units[0] * 8, units[1] * 8), Image.Resampling.NEAREST)
    return large.resize((width, height), Image.Resampling.BOX)
