"""How often what was scored had which status: of rewards that say so in the details of their scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mmrl.rewarding.run import score_of
from mmrl.types import Group

STATUS = "status"  # the detail: one word


def status_counts(groups: Sequence[Group], name: str) -> Counter[str]:
    """How many of the samples have which status in their score of that name; {} for a reward that says none."""
    details = [score_of(sample, name).details for group in groups for sample in group.samples]
    return Counter(of[STATUS] for of in details if isinstance(of.get(STATUS), str))
