"""What comparisons came to: how many have a verdict, whether both orders agree, and what went to the first."""

from __future__ import annotations

from collections.abc import Sequence

from mmrl.rewarding.run import score_of
from mmrl.types import Group

COUNTS = 5


def pair_counts(groups: Sequence[Group], name: str) -> list[float]:
    """COUNTS sums over the samples' scores by mmrl.rewarding.win_rate; all 0 for another reward.

    (pairs with a verdict, pairs without one, those with both orders, those in which these agree, shares of the first),
    the last one share a pair. A pair counts for each of its samples, with anchors for one.
    """
    sums = [0.0] * COUNTS
    for sample in (sample for group in groups for sample in group.samples):
        details = score_of(sample, name).details
        pairs, failed = details.get("pairs"), details.get("failed")
        if not (isinstance(pairs, int) and isinstance(failed, int)):
            continue
        sums[0], sums[1] = sums[0] + pairs, sums[1] + failed
        if "agreed" in details:
            sums[2], sums[3] = sums[2] + pairs, sums[3] + details["agreed"]
        sums[4] += pairs * details.get("first", 0.0)
    return sums
