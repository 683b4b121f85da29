"""All that a run measures of its held-out records."""

from __future__ import annotations

from collections.abc import Sequence

from mmrl.training.evaluation.scored import scored_metrics
from mmrl.training.evaluation.scores import evaluate
from mmrl.training.learner import Learner
from mmrl.training.run import Run


def heldout(run: Run, tag: str, learners: Sequence[Learner] = (), must_score: bool = False) -> dict[str, float]:
    """Rewards of what the policy answers (see scores.evaluate), and what a scalar head says of records (see
    scored.scored_metrics)."""
    return evaluate(run, tag, learners, must_score) | scored_metrics(run, tag, learners)
