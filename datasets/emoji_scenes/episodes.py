"""Episodes over a scene of two emoji: the goal names places, and each is tapped in its turn.

Records are in UI-S1's form (`goal`, `steps`), for the environment ui_s1.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from mmrl.environments.gui import written
from mmrl.environments.pictures import fitted
from mmrl.importing import import_file
from mmrl.media import Media, Size, View
from mmrl.seeds import seed_of

emoji = import_file(Path(__file__).with_name("emoji_scenes.py"))
drawing = emoji.drawing

PIXELS = 3200  # a screen is shown at half of its sides
# Few words for a small model; every wrong turn of a supervised record is patched, so that its next turn can follow.
ENVIRONMENT = {"name": "ui_s1", "system": None, "patches": -1, "min_pixels": PIXELS, "max_pixels": PIXELS}
RING = 6  # radius of the mark in pixels


@dataclass(frozen=True)
class Screen:
    """Draws a scene when it is called, with a ring where it was tapped last."""

    scene: drawing.Scene
    tapped: tuple[float, float] | None = None

    def __call__(self) -> Image.Image:
        """RGB."""
        picture = drawing.render(self.scene)
        if self.tapped is not None:
            x, y = self.tapped
            box = (x - RING, y - RING, x + RING, y + RING)
            ImageDraw.Draw(picture).ellipse(box, outline=(255, 255, 0), width=3)
        return picture


def episode(index: int, seed: int = 0, split: str = "train", taps: int = 3) -> dict:
    """Prompt number `index`: `taps` clicks, each on one of the two objects, which is drawn.

    split: as of emoji_scenes. A step's screenshot shows where the expert tapped before; points and boxes are in pixels
    of it. Raises ValueError for taps below 1 and an unknown split.
    """
    if taps < 1:
        raise ValueError(f"taps={taps} must be at least 1")
    scene, targets = _drawn(index, seed, split, taps)
    tapped = [None, *map(_centre, targets)]
    steps = [
        {
            "action_content": {"action": "click", "coordinate": list(_centre(item))},
            "bbox": list(item.box),
            "thought": item.place,
            "screenshot": Screen(scene, before),
        }
        for item, before in zip(targets, tapped)
    ]
    goal = f"Tap {', then '.join(item.place for item in targets)}."
    return {"id": f"{split}-{index}", "split": split, "goal": goal, "steps": steps}


def record(index: int, seed: int = 0, split: str = "train", taps: int = 3, habit: float = 0.0) -> dict:
    """`episode` with its `completion`, a list of turns in the words of ui_s1, and `environment`, which patches.

    habit: share of the turns in [0, 1] that tap the other object; `habits` says which do.
    """
    if not 0 <= habit <= 1:
        raise ValueError(f"habit={habit} must be from 0 to 1")
    made = episode(index, seed, split, taps)
    scene, targets = _drawn(index, seed, split, taps)
    rng = random.Random(seed_of("episode habit", seed, split, index))
    follows = [rng.random() < habit for _ in targets]
    media = Media(View(), original=scene.extent, seen=_seen(scene.extent))
    turns = []
    for item, wrong in zip(targets, follows):
        aim = next(i for i in scene.items if (i is item) != wrong)
        turns.append(written({"action": "click", "coordinate": list(_centre(aim))}, aim.place, media))
    return {**made, "environment": ENVIRONMENT, "completion": turns, "habits": follows}


def _drawn(index: int, seed: int, split: str, taps: int) -> tuple[drawing.Scene, list[drawing.Item]]:
    scene = emoji.problem(index, seed, split, rows=1, objects=(2, 2))["images"][0].scene
    rng = random.Random(seed_of("episode", seed, split, index))
    return scene, [rng.choice(scene.items) for _ in range(taps)]


def _centre(item: drawing.Item) -> tuple[float, float]:
    x1, y1, x2, y2 = item.box
    return ((x1 + x2) / 2, (y1 + y2) / 2)


def _seen(extent: Size) -> Size:
    """(width, height) of what a processor with visual tokens of CELL pixels a side makes of a screen."""
    width, height = (max(1, round(side / emoji.CELL)) * emoji.CELL for side in fitted(extent, PIXELS, PIXELS))
    return (width, height)
