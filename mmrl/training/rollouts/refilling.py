"""Dynamic sampling: how many groups of a step are sampled again."""

from __future__ import annotations

from mmrl.training.rollouts.difficulty import CurriculumError


def refill(wanted: int, kept: int, rounds: int, max_rounds: int) -> int:
    """Dynamic sampling (DAPO): how many more groups to sample for a step, 0 when it has to go on with what it has.

    wanted: groups of the step; kept: those with signal so far; rounds: times that were sampled, the first included;
    max_rounds: their largest number. Groups that kept no signal are replaced by new prompts, one for one.
    """
    if max_rounds < 1:
        raise CurriculumError(f"dynamic sampling: max_rounds={max_rounds}; the first sampling is a round: 1 or more")
    return max(wanted - kept, 0) if rounds < max_rounds else 0
