"""What the report draws of CAD answers is made when a sample is stored, once for its group."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmrl.reporting.files import dumps
from mmrl.solids.measures import Options
from mmrl.solids.shown import Solid
from mmrl.solids.workshop import Found, Made, Target, WorkshopError
from mmrl.types import Score
from rewards.cad_exhibits import exhibited

MESH = Solid(np.eye(3), np.array([[0, 1, 2]])).record()


class Shop:
    """Counts what it is asked; says `answers`, or raises them."""

    def __init__(self, answers, target=MESH):
        self.answers, self.mesh, self.asked = answers, target, []

    def viewed(self, made, target, options, mesh):
        self.asked.append((len(made), mesh))
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers

    def target(self, given, mesh):
        self.asked.append(given)
        return Target(given, {}, self.mesh)


def told(shop, statuses=("ok", "syntax", "ok"), scores=None):
    made = [Made(status, brep=b"x") for status in statuses]
    scores = scores or [Score.of(1.0, status=status) for status in statuses]
    return exhibited(scores, made, Target(b"goal", {}), shop, Options(), 300)


def test_nothing_is_made_before_a_sample_is_stored_and_then_once_for_the_group():
    views = [Found("ok", view={"answer": MESH}), Found("syntax"), Found("timeout", "10 s")]
    shop = Shop(views)
    scores = told(shop)
    assert shop.asked == [] and [score.value for score in scores] == [1.0] * 3
    stored = [json.loads(dumps(score.details)) for score in scores]
    assert shop.asked.count((3, 300)) == 1 and shop.asked.count(b"goal") == 1 and len(shop.asked) == 2
    assert stored[0] == {"status": "ok", "view": {"answer": MESH}, "target": MESH}
    assert stored[1] == {"status": "syntax"}
    assert stored[2] == {"status": "ok", "view": {"problem": "timeout: 10 s"}}


def test_the_target_goes_with_the_first_score_that_counts_whatever_its_program_did():
    scores = [Score.invalid("its worker was lost"), Score.of(0.0, status="syntax"), Score.of(0.0, status="syntax")]
    found = told(Shop([]), ("lost", "syntax", "syntax"), scores)
    assert [sorted(score.details) for score in found] == [[], ["status", "target"], ["status"]]


@pytest.mark.parametrize("target", [MESH, None])
def test_what_cannot_be_made_says_so_and_stops_nothing(target):
    stored = [json.loads(dumps(score.details)) for score in told(Shop(WorkshopError("no sandbox"), target))]
    assert stored[2]["view"] == {"problem": "lost: no sandbox"}
    assert stored[0]["target"] == (target or {"status": "too_fine"})
