"""Whose turn it is in a step of several roles, and what is told of their updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mmrl.training.cursor import Sums
from mmrl.training.learner import Learner
from mmrl.training.stages.addends import Addend


class Turn(NamedTuple):
    """An optimizer step of a role. addend: made when it is its turn; losses: what its loss is called."""

    role: str
    addend: Callable[[], Addend]
    loss: str


def turns_row(turns: Sequence[Turn], sums: Sums, learners: Mapping[str, Learner]) -> dict[str, Any]:
    """`loss` and `grad_norm` are those of the policy's pull, null in a step without; `<role>/loss` and others are means
    over the updates of the step, `<role>/grad_norm` the largest of them."""
    counts = {name: max(1, sum(turn.loss == name for turn in turns)) for name in ("policy", *learners)}
    row: dict[str, Any] = {"loss": None, "grad_norm": sums.known.get("norm/policy")}
    for name, count in (*counts.items(), ("adversary", counts["policy"])):
        if name in sums.parts:
            row["loss" if name == "policy" else f"{name}/loss"] = sums.parts[name] / count
    for name in ("joint", *learners):
        if name != "policy" and f"norm/{name}" in sums.known:
            row[f"{name}/grad_norm"] = sums.known[f"norm/{name}"]
    return row | {"lr" if name == "policy" else f"{name}/lr": one.rate for name, one in learners.items()}
