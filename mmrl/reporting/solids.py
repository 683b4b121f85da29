"""Solids of answers and their targets: the meshes that a page holds, each once, and what is said of a sample's.

Meshes of a run's folder are somebody's numbers: they are read as a Solid, bounded, and written anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrl.reporting.files import dumps
from mmrl.reporting.pictures import data_uri
from mmrl.reporting.words import clip, number
from mmrl.solids.meshes import Mesh, joined
from mmrl.solids.render import render
from mmrl.solids.shown import Solid

VIEW, TARGET = "view", "target"  # details of a score that have meshes, see rewards/cad_exhibits.py
DRAWN = ("target", "answer", "common", "missing", "extra")  # what a mesh is drawn as
MOST_TRIANGLES = 20_000
_LARGEST = 1e9  # mm
_PICTURE = 192  # pixels
# As the stylesheet has them, for pictures that stand where nothing is drawn.
_COLOURS = {
    "target": (137, 152, 171),
    "answer": (104, 149, 205),
    "common": (160, 168, 178),
    "missing": (226, 119, 40),
    "extra": (98, 78, 208),
}
_WORDS = {"nothing": "nothing", "too_fine": "too many triangles to be drawn"}


@dataclass(frozen=True)
class Pane:
    """A view of meshes. meshes: (number of the mesh in the page, what it is drawn as). picture: a PNG data URI for
    where nothing can be drawn. note: why there is no mesh; parts: names of the parts of a comparison that are there."""

    title: str
    meshes: tuple[tuple[int, str], ...] = ()
    picture: str = ""
    note: str = ""
    parts: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """As the viewer reads it: "0:target 3:extra"."""
        return " ".join(f"{place}:{role}" for place, role in self.meshes)


@dataclass(frozen=True)
class SolidsView:
    """status: of the program, a word. numbers: lines of what was measured. panes: target, answer, comparison."""

    status: str
    why: str = ""
    numbers: tuple[tuple[str, str], ...] = ()
    panes: tuple[Pane, ...] = ()

    @property
    def last(self) -> tuple[Pane, ...]:
        """The one pane that tells most: the comparison, or else the answer."""
        return self.panes[-1:] if self.panes[-1].meshes else self.panes[1:2]


class Shelf:
    """The meshes of a page, each different one once. charged: see CardMaker; there are no more than have room."""

    def __init__(self, charged: Callable[[str, str], tuple[str, str]]) -> None:
        self._charged = charged
        self.records: list[dict[str, Any]] = []
        self._solids: list[Solid] = []
        self._places: dict[str, int] = {}
        self._pictures: dict[tuple, str] = {}

    def place(self, record: Any, name: str) -> tuple[int | None, str]:
        """(number of the mesh, ""), or (None, why there is none)."""
        try:
            solid = read_solid(record)
        except ValueError as error:
            return None, str(error)
        if not len(solid.triangles):
            return None, _WORDS.get(solid.status, clip(solid.status, 200)) or "no mesh"
        told = solid.record()
        key = hashlib.sha256(dumps(told).encode()).hexdigest()
        if key not in self._places:
            _, note = self._charged(dumps(told), f"a mesh of {name}")
            if note:
                return None, note
            self._places[key] = len(self.records)
            self.records.append(told)
            self._solids.append(solid)
        return self._places[key], ""

    def picture(self, meshes: Sequence[tuple[int, str]], frame: Sequence[int], name: str) -> str:
        """Meshes as a PNG data URI, in the box around those of `frame`; "" where there is no room for it."""
        key = (tuple(meshes), tuple(frame))
        if key not in self._pictures:
            solids = [self._solids[place] for place, _ in meshes]
            mesh = joined(Mesh(solid.vertices, solid.triangles) for solid in solids)
            colours = [np.tile(_COLOURS[role], (len(s.triangles), 1)) for s, (_, role) in zip(solids, meshes)]
            around = np.concatenate([self._solids[place].vertices for place in frame])
            box = around.min(axis=0), around.max(axis=0)
            image = render(mesh, _PICTURE, colour=np.concatenate(colours), frame=box, paper=None)
            self._pictures[key] = self._charged(data_uri(image.quantize(64)), name)[0]
        return self._pictures[key]


def read_solid(record: Any) -> Solid:
    """A stored mesh. Raises ValueError, in words, for what is none, is not finite or is too large."""
    if not isinstance(record, Mapping):
        raise ValueError("no record of a solid")
    try:
        texts = [record[name] for name in ("vertices", "triangles") if name in record]
        if any(not isinstance(text, str) or len(text) > 40 * MOST_TRIANGLES for text in texts):
            raise ValueError(f"no record of a solid of at most {MOST_TRIANGLES:,} triangles")
        if texts and not (_is(record.get("step")) and all(map(_is, record.get("low", [None])))):
            raise ValueError("no record of a solid: its numbers are none, or not finite")
        solid = Solid.of(record)
    except TypeError:
        raise ValueError("no record of a solid: TypeError") from None
    except (OverflowError, RecursionError):
        raise ValueError("no record of a solid: its numbers are too large") from None
    if len(solid.triangles) > MOST_TRIANGLES or not (np.abs(solid.vertices) <= _LARGEST).all():
        raise ValueError("no record of a solid: it is too large")
    return solid


def is_drawn(name: str, detail: Any) -> bool:
    """Whether a detail of a score has meshes, which nobody reads."""
    return name in (VIEW, TARGET) and isinstance(detail, Mapping)


def goal_of(samples: Sequence[Mapping[str, Any]]) -> Any:
    """The record of the target that the samples of a group share; None where none of them has it."""
    details = (score["details"] for sample in samples for score in sample["scores"].values())
    return next((of[TARGET] for of in details if isinstance(of.get(TARGET), Mapping)), None)


def solids_view(shelf: Shelf, record: Mapping[str, Any], goal: Any, name: str) -> SolidsView | None:
    """Of a sample; None of one that has no solid and whose group has no target. name: of the sample, for notes."""
    details = [score["details"] for score in record["scores"].values()]
    parts = next((of[VIEW] for of in details if isinstance(of.get(VIEW), Mapping)), None)
    goal = goal_of([record]) if goal is None else goal
    if parts is None and goal is None:
        return None
    told: Mapping[str, Any] = next((of for of in details if isinstance(of.get("status"), str)), {})
    status = clip(str(told.get("status", "unknown")), 40)
    why = clip(str(told.get("why", "")), 300)
    return SolidsView(status, why, tuple(numbers_of(record["scores"])), _panes(shelf, parts, goal, status, name))


def _panes(shelf: Shelf, parts: Mapping[str, Any] | None, goal: Any, status: str, name: str) -> tuple[Pane, ...]:
    problem = clip(str((parts or {}).get("problem", "")), 200)
    places: dict[str, int] = {}
    notes: dict[str, str] = {}
    for role in DRAWN:
        given = goal if role == "target" else (parts or {}).get(role)
        place, note = shelf.place(given, name) if given is not None else (None, problem or "not kept")
        notes[role] = note
        if place is not None:
            places[role] = place
    if parts is None:
        notes["answer"] = f"no solid: {status}"
    frame = [places[role] for role in ("target", "answer") if role in places]

    def pane(title: str, roles: Sequence[str], note: str = "") -> Pane:
        meshes = tuple((places[role], role) for role in roles if role in places)
        picture = shelf.picture(meshes, frame or [place for place, _ in meshes], name) if meshes else ""
        return Pane(title, meshes, picture, "" if meshes else note)

    panes = [pane("target", ["target"], notes["target"]), pane("answer", ["answer"], notes["answer"])]
    if parts is None:
        return tuple(panes)
    compared = [role for role in ("common", "missing", "extra") if role in places]
    missing = [
        f"{role}: {notes[role]}" for role in ("common", "missing", "extra") if notes[role] not in ("", "nothing")
    ]
    last = pane("overlap", compared, "; ".join(missing))
    return (*panes, Pane(last.title, last.meshes, last.picture, "; ".join(missing), tuple(compared)))


# -------------------------------------------------------------------- numbers


def numbers_of(scores: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the details of a sample's scores measured, each line once: overlap and distance with how they were found,
    volume and box beside the target's."""
    found: dict[tuple[str, str], None] = {}
    for score in scores.values():
        of = score["details"]
        how = [str(of[key]) for key in ("way", "alignment") if isinstance(of.get(key), str)]
        if _is(of.get("iou")):
            found["IoU", f"{number(of['iou'])}{_in(how)}"] = None
        if _is(of.get("chamfer")):
            floor = f", noise {number(of['floor'])}" if _is(of.get("floor")) else ""
            found["Chamfer", f"{number(of['chamfer'])}{floor}{_in(how[-1:])}"] = None
        if isinstance(of.get("why"), str) and of.get("way") == "mesh":
            found["by mesh", clip(of["why"], 120)] = None
        if _is(of.get("volume")):
            found["volume", _beside(_amount(of["volume"]), of.get("target_volume"), _amount, "mm³")] = None
        if sides := _sides(of.get("box")):
            found["box", _beside(sides, of.get("target_box"), _sides, "mm")] = None
        if _is(of.get("solids")) and of["solids"] != 1:
            found["solids", f"{of['solids']:g}"] = None
    return list(found)


def _in(how: Sequence[str]) -> str:
    return f" ({', '.join(clip(word, 20).replace('_', ' ') for word in how)})" if how else ""


def _beside(ours: str, target: Any, written: Callable[[Any], str], unit: str) -> str:
    theirs = written(target)
    return f"{ours} of {theirs} {unit}" if theirs and theirs != ours else f"{ours} {unit}"


def _amount(value: Any) -> str:
    return f"{value:,.4g}" if _is(value) and abs(value) < 1e4 else f"{value:,.0f}" if _is(value) else ""


def _sides(box: Any) -> str:
    """The sides of ((low), (high)) as words; "" for another thing."""
    try:
        low, high = box
        if len(low) != 3 or len(high) != 3 or not all(map(_is, (*low, *high))):
            return ""
        return " × ".join(f"{b - a:.4g}" for a, b in zip(low, high))
    except (TypeError, ValueError):
        return ""


def _is(value: Any) -> bool:
    """Whether it is a number of a sane size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30  # NaN is not below
