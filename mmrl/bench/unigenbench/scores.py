"""From verdicts to scores: by sub dimension, primary dimension, and overall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.bench.shares import Row, Share
from mmrl.bench.unigenbench.reading import Asked, primary

OVERALL, POINTS = "overall", "all test points"


def rows(items: Sequence[Asked], lines: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The table of an evaluation. lines: of `id` and, where there is a verdict, `marks`, one for each point.

    A sub dimension, and a primary one, is the share of its test points that are met over all pictures, as in the
    benchmark's scripts: pictures without a verdict are left out; `over_all` counts their points as not met. `overall`
    is the mean of the primary dimensions, each once, as in the published tables.
    """
    subs: dict[str, Share] = {}
    asked = {item.id: item for item in items}
    for line in lines:
        points, marks = asked[line["id"]].points, line.get("marks")
        for place, point in enumerate(points):
            one = Share(0, 0, 1) if marks is None else Share(int(marks[place]), 1, 1)
            subs[point] = subs.get(point, Share()) + one
    primaries: dict[str, Share] = {}
    for point, share in subs.items():
        primaries[primary(point)] = primaries.get(primary(point), Share()) + share
    found = [Row.mean(OVERALL, primaries.values()), Row.of(POINTS, sum(subs.values(), Share()))]
    for name in sorted(primaries):
        found.append(Row.of(name, primaries[name]))
        found += [Row.of(f"  {point}", subs[point]) for point in sorted(subs) if primary(point) == name != point]
    return found
