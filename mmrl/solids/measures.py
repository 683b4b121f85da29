"""Everything that is measured of an answer and its target, by options, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmrl.solids.alignments import ABSOLUTE, POLICIES, Placement, Placements, placed
from mmrl.solids.bodies import Body
from mmrl.solids.meshes import FINE
from mmrl.solids.overlaps import EXACT, MESH, Overlap, overlap
from mmrl.solids.points import FORMS, SQUARED, chamfer, noise_floor, sampled


@dataclass(frozen=True)
class Options:
    """alignment: one of POLICIES. iou, chamfer: whether they are measured. way: "exact" or "mesh"; None is exact where
    it succeeds. fineness: of meshes, of the diagonal. points, seed, form: of the Chamfer distance."""

    alignment: str = ABSOLUTE
    iou: bool = True
    chamfer: bool = False
    way: str | None = None
    fineness: float = FINE
    points: int = 8192
    seed: int = 0
    form: str = SQUARED

    def __post_init__(self) -> None:
        if self.alignment not in POLICIES:
            raise ValueError(f"alignment={self.alignment!r}; there are {', '.join(POLICIES)}")
        if self.way not in (None, EXACT, MESH):
            raise ValueError(f"way={self.way!r}; there are {EXACT} and {MESH}, and null for the first that succeeds")
        if self.form not in FORMS:
            raise ValueError(f"form={self.form!r}; there are {', '.join(FORMS)}")
        if not 1e-5 <= self.fineness <= 0.1 or not 1 <= self.points <= 1_000_000:
            raise ValueError(f"fineness={self.fineness} is from 1e-5 to 0.1, points={self.points} from 1 to 1,000,000")

        if self.way == EXACT and not self.chamfer and self.fineness != FINE:
            raise ValueError(f"fineness={self.fineness} is of meshes, which way={EXACT!r} makes none of: leave one out")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Raises ValueError for an unknown name."""
        if unknown := set(given) - {field.name for field in fields(cls)}:
            raise ValueError(f"unknown options {', '.join(sorted(unknown))}")
        return cls(**given)


def measured(ours: Body, theirs: Body, options: Options) -> dict[str, Any]:
    """{"alignment", "iou", "common", "union", "way", "why", "chamfer", "floor"}, what was asked for.

    Of an alignment with several placements the best IoU counts, and the least distance. Lengths are mm where the
    alignment is absolute, elsewhere those of its own space. Raises Refused where nothing can be measured.
    """
    found: dict[str, Any] = {"alignment": options.alignment}
    placements = POLICIES[options.alignment](ours, theirs)
    if options.iou:
        best, *_ = _best(ours, theirs, placements, options)
        found |= {"iou": best.iou, "common": best.common, "union": best.union, "way": best.way, "why": best.why}
    if options.chamfer:
        found |= _distances(ours, theirs, placements, options)
    return found


def laid(ours: Body, theirs: Body, options: Options) -> tuple[Body, Body, Placement | None]:
    """Both where they are compared, and how the target came there; of several placements the one of the best IoU."""
    placements = POLICIES[options.alignment](ours, theirs)
    if len(placements) > 1:
        return _best(ours, theirs, placements, options)[1:]
    ((mine, other),) = placements
    return _placed(ours, mine), _placed(theirs, other), other


def _best(
    ours: Body, theirs: Body, placements: Placements, options: Options
) -> tuple[Overlap, Body, Body, Placement | None]:
    best: tuple[Overlap, Body, Body, Placement | None] | None = None
    target, before = theirs, None
    for mine, other in placements:
        if other is not before:
            target, before = _placed(theirs, other), other
        answer = _placed(ours, mine)
        found = overlap(answer, target, options.way, options.fineness)
        if best is None or found.iou > best[0].iou:
            best = found, answer, target, other
    assert best is not None
    return best


def _placed(body: Body, placement: Placement | None) -> Body:
    return body if placement is None else placement.body(body)


def _distances(ours: Body, theirs: Body, placements: Placements, options: Options) -> dict[str, float]:
    """ "chamfer", and "floor": that of the target to itself, in the same space."""
    mesh, target = ours.mesh(options.fineness), theirs.mesh(options.fineness)
    points, others = sampled(mesh, options.points, options.seed), sampled(target, options.points, options.seed + 1)
    found = [chamfer(placed(points, mine), placed(others, other), options.form) for mine, other in placements]
    scale = 1.0 if placements[0][1] is None else placements[0][1].scale
    floor = noise_floor(target, options.points, options.seed + 1, options.form)
    return {"chamfer": min(found), "floor": floor * scale ** (2 if options.form == SQUARED else 1)}
