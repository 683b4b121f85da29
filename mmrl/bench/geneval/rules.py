"""Whether a picture is right: the benchmark's rules on what a detector found.

Thresholds, order and relations are those of the released evaluation/evaluate_images.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mmrl.bench.geneval.found import Box, Found
from mmrl.bench.geneval.reading import Clause, Task
from mmrl.config import ConfigError
from mmrl.near import near, short

COUNTING = "counting"  # the task in which a detector has to be surer
_LEVEL = 1e-3  # pixels beyond the margin that are no offset
_CLEAR = 0.5  # of the distance of two centres: what lies so far to a side is there

Objects = dict[str, list[Found]]
Name = Callable[[str, Sequence[Found]], list[str]]  # (class, objects) -> a colour each


@dataclass(frozen=True)
class Rules:
    """threshold: scores that count are above it; counting: the same for prompts of that task. most: objects of a class.
    overlap: of two of a class whose boxes overlap by that much or more the less sure one goes; 1: none does. margin:
    of the two objects' sizes together, by which their centres are nearer than they stand."""

    threshold: float = 0.3
    counting: float = 0.9
    most: int = 16
    overlap: float = 1.0
    margin: float = 0.1

    def __post_init__(self) -> None:
        shares = (self.threshold, self.counting, self.overlap, self.margin)
        if not all(0 <= share <= 1 for share in shares) or self.most < 1:
            raise ValueError(f"{self}: shares are 0 to 1, and `most` 1 or more")


def rules_of(given: Mapping[str, Any]) -> Rules:
    """Rules with some of another value. Raises ConfigError for what is no rule, or no value of it."""
    known = {field.name: field.type for field in fields(Rules)}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"rule {short(key)}: {near(key, known)}")
        if isinstance(value, bool) or not isinstance(value, int if known[key] == "int" else int | float):
            raise ConfigError(f"rule {key}: {short(value)} is no number" + " of objects" * (known[key] == "int"))
    try:
        return Rules(**given)
    except ValueError as error:
        raise ConfigError(f"rule: {error}") from None


def kept(found: Sequence[Found], tag: str, rules: Rules) -> Objects:
    """The objects that count, of each class the surest first."""
    least = rules.counting if tag == COUNTING else rules.threshold
    objects: Objects = {}
    for one in sorted(found, key=lambda f: -f.score):
        if one.score > least:
            objects.setdefault(one.label, []).append(one)
    return {label: _apart(some[: rules.most], rules.overlap) for label, some in objects.items()}


def right(task: Task, objects: Objects, name: Name, rules: Rules) -> tuple[bool, list[str]]:
    """Whether a picture shows what its prompt says, and where not. Colours are asked for where they decide.

    Of a class the surest `count` objects are looked at; in a clause with a colour all of them have to have it, and in
    one with a relation each has to stand so to each of the other clause's. More objects are no fault but where
    `exclude` says so.
    """
    faults: list[str] = []
    matched: list[list[Found] | None] = []
    for clause in task.include:
        these = objects.get(clause.label, [])[: clause.count]
        fault = _lacks(clause, these) or _colour(clause, these, name) or _relation(clause, these, matched, rules.margin)
        matched.append(None if fault else these)
        faults += [fault] if fault else []
    for clause in task.exclude:
        there = len(objects.get(clause.label, []))
        faults += [f"{there} {clause.label}, fewer than {clause.count} were asked for"] * (there >= clause.count)
    return not faults, faults


def _lacks(clause: Clause, these: Sequence[Found]) -> str:
    return f"{len(these)} of {clause.count} {clause.label}" if len(these) < clause.count else ""


def _colour(clause: Clause, these: Sequence[Found], name: Name) -> str:
    if clause.colour is None:
        return ""
    said = Counter(name(clause.label, these))
    if said[clause.colour] >= clause.count:
        return ""
    told = ", ".join(f"{count} {colour}" for colour, count in said.items())
    return f"{said[clause.colour]} of {clause.count} {clause.label} {clause.colour}: {told}"


def _relation(clause: Clause, these: Sequence[Found], matched: Sequence[list[Found] | None], margin: float) -> str:
    if clause.relation is None:
        return ""
    wanted, other = clause.relation
    others = matched[other]
    if others is None:
        return f"nothing that {clause.label} could be {wanted}"
    for one in these:
        for target in others:
            if wanted not in (told := relations(one, target, margin)):
                return f"{clause.label} not {wanted} {target.label}: {' and '.join(sorted(told)) or 'too near'}"
    return ""


def relations(one: Found, other: Found, margin: float) -> set[str]:
    """Where `one` is, seen from `other`: none, one or two of left of, right of, above, below.

    The offset of the centres is made smaller by the margin's share of both sizes, to 0 at most; in units of their
    distance more than a half of it on an axis is a relation.
    """
    offset = [a - b for a, b in zip(one.centre, other.centre)]
    sizes = [a + b for a, b in zip(one.size, other.size)]
    clear = [math.copysign(max(abs(o) - margin * s, 0.0), o) for o, s in zip(offset, sizes)]
    if max(map(abs, clear)) < _LEVEL:
        return set()
    x, y = (part / math.hypot(*offset) for part in clear)
    told = {"left of": x < -_CLEAR, "right of": x > _CLEAR, "above": y < -_CLEAR, "below": y > _CLEAR}
    return {relation for relation, holds in told.items() if holds}


def _apart(some: Sequence[Found], overlap: float) -> list[Found]:
    """Without those that overlap with a surer one."""
    if overlap == 1:
        return list(some)
    clear: list[Found] = []
    for one in some:
        if all(iou(one.box, other.box) < overlap for other in clear):
            clear.append(one)
    return clear


def iou(a: Box, b: Box) -> float:
    """Intersection over union of boxes that hold the pixels of both ends, as the released script counts."""
    common = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = _area(a) + _area(b) - common
    return common / union if union else 0.0


def _area(box: Box) -> float:
    return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)
