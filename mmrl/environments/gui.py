"""Actions on a screen, as AndroidControl writes them: reading a policy's, and comparing it with an expert's."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from mmrl.environments.parsing import numbers, parsed, spoken, tagged
from mmrl.media import Box, Media, Size, from_original, to_original
from mmrl.strict import Strict

Action = Mapping[str, Any]
_POINTS = ("coordinate", "coordinate2")
# A text that is contained in the other must be at least this share of it: otherwise one letter matches most words.
_LEAST_CONTAINED = 0.5


class MatchOptions(Strict):
    """When two actions are the same. Numbers are UI-S1's release's."""

    enlarge: float = Field(1.2, gt=0, description="A click may lie in the target's box, enlarged by this.")
    distance: float = Field(0.04, ge=0, description="Or this near to the expert's, in shares of the screen's sides.")
    text: Literal["equal", "contained"] = Field(
        "contained", description="Texts must be equal, or one inside the other and at least half of it; case is free."
    )
    flip_swipes: bool = Field(
        False, description="The data has vertical swipes upside down, as AndroidControl of UI-S1's release."
    )


def read(text: str) -> tuple[str, Action | None]:
    """(thought, action) of `<think>...</think><action>{"action": name, ...}</action>`; "" and None for what lacks."""
    thoughts, actions = tagged(text, "think"), tagged(spoken(text), "action")
    action = parsed(actions[-1]) if actions else None
    known = isinstance(action, dict) and isinstance(action.get("action"), str)
    return (thoughts[-1].strip() if thoughts else "", action if known else None)


def written(action: Action, thought: str, media: Media) -> str:
    """What a policy would say for an expert's action, its points in the space that the policy writes."""
    said = {key: value for key, value in action.items() if key not in ("bbox", "candidate_bbox", "annotation")}
    said = _moved(said, lambda box: from_original(box, media))
    digits = 3 if media.space == "norm1" else 0
    for name in _POINTS:
        if name in said:
            said[name] = [round(v, digits) if digits else round(v) for v in said[name]]
    before = f"<think>\n{thought}\n</think>\n" if thought else ""
    return f"{before}<action>\n{json.dumps(said, ensure_ascii=False)}\n</action>"


def in_original(action: Action, media: Media) -> Action:
    """A policy's action with its points in pixels of the original screenshot; a point that is none is left out."""
    return _moved(action, lambda box: to_original(box, media))


def _moved(action: Action, move: Callable[[Box], Box]) -> dict[str, Any]:
    moved = dict(action)
    for name in _POINTS:
        if name in moved:
            point = numbers(moved.pop(name), 2)
            if point is not None:
                x, y = point
                moved[name] = list(move((x, y, x, y))[:2])
    return moved


# ---------------------------------------------------------------- comparing


def match(said: Action, expert: Action, size: Size, options: MatchOptions) -> tuple[bool, bool]:
    """(same type, same action), all points in pixels of a screenshot of `size`; what an action lacks is a mismatch.

    Waiting and terminating are the same by their type alone, as in the release. `expert` may have the target's
    `bbox`, one box or a list of them.
    """
    kind = expert.get("action")
    if said["action"] != kind:
        return False, False
    if kind in ("wait", "terminate"):
        return True, True
    if kind == "system_button":
        return True, _same_text(said.get("button"), expert.get("button"), "equal")
    if kind in ("type", "answer", "key", "open"):
        return True, _same_text(said.get("text"), expert.get("text"), options.text)
    if kind == "swipe":
        return True, _same_swipe(said, expert, options.flip_swipes)
    if kind in ("click", "long_press"):
        return True, _same_place(said, expert, size, options)
    return True, False


def _same_text(said: Any, expert: Any, how: str) -> bool:
    if not isinstance(said, str) or not isinstance(expert, str):
        return False
    a, b = sorted((said.lower().strip(), expert.lower().strip()), key=len)
    return a == b or (how == "contained" and a in b and len(a) >= _LEAST_CONTAINED * len(b))


def _same_swipe(said: Action, expert: Action, flip: bool) -> bool:
    asked, done = _direction(expert), _direction(said)
    if flip:
        asked = {"up": "down", "down": "up"}.get(asked or "", asked)
    return done is not None and done == asked


def _direction(action: Action) -> str | None:
    """Where a finger goes: "left", "right", "up", "down"; along the longer way, up or down where they are equal."""
    start, end = numbers(action.get("coordinate"), 2), numbers(action.get("coordinate2"), 2)
    if start is None or end is None:
        given = action.get("direction")
        return given.lower() if isinstance(given, str) else None
    dx, dy = end[0] - start[0], end[1] - start[1]
    if not math.isfinite(dx) or not math.isfinite(dy) or dx == dy == 0:
        return None
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def _same_place(said: Action, expert: Action, size: Size, options: MatchOptions) -> bool:
    point = numbers(said.get("coordinate"), 2)
    if point is None or not all(map(math.isfinite, point)):
        return False
    if any(_inside(point, box, options.enlarge) for box in _boxes(expert)):
        return True
    target = numbers(expert.get("coordinate"), 2)
    if target is None:
        return False
    return math.hypot((point[0] - target[0]) / size[0], (point[1] - target[1]) / size[1]) <= options.distance


def _boxes(expert: Action) -> list[tuple[float, ...]]:
    found: list[tuple[float, ...]] = []
    for name in ("bbox", "candidate_bbox"):
        given = expert.get(name) or []
        for box in given if isinstance(given, Sequence) and given and isinstance(given[0], Sequence) else [given]:
            four = numbers(box, 4)
            found += [four] if four is not None else []
    return found


def _inside(point: Sequence[float], box: Sequence[float], enlarge: float) -> bool:
    x1, y1, x2, y2 = box
    return all(
        abs(place - (low + high) / 2) <= enlarge * (high - low) / 2
        for place, low, high in ((point[0], x1, x2), (point[1], y1, y2))
    )
