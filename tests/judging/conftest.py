"""What the tests of judging share: pairs in one line."""

from __future__ import annotations

import pytest

from mmrl.judging.base import Verdict
from mmrl.judging.judged import Judged, Shown
from mmrl.types import Candidate, Pair, Prompt


@pytest.fixture
def pair():
    """pair("id", better=0, ...) -> Pair of texts; shares instead of better for ties and more candidates."""

    def make(name, better=0, shares=None, answers=("yes", "no"), question="Is it?", **told):
        shares = tuple(float(i == better) for i in range(len(answers))) if shares is None else tuple(shares)
        prompt = Prompt(name, question, {"prompt": question})
        return Pair(prompt, tuple(Candidate(answer) for answer in answers), shares, **told)

    return make


@pytest.fixture
def judged():
    """judged(pair, [place or None, ...]) -> Judged of showings in both orders in turn, by the place that each prefers.

    None: no verdict; "tie": none is preferred. One verdict alone is of the pair's own order.
    """

    def make(pair, places):
        size = len(pair.candidates)
        shown = []
        for number, place in enumerate(places):
            order = tuple(range(size)) if number % 2 == 0 else tuple(reversed(range(size)))
            if place is None:
                verdict = Verdict(None, "said nothing")
            elif place == "tie":
                verdict = Verdict((1 / size,) * size)
            else:
                verdict = Verdict(tuple(float(i == order[place]) for i in range(size)))
            shown.append(Shown(order, verdict))
        return Judged(pair, tuple(shown))

    return make
