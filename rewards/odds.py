"""Yes or no, as the odds of a model's first token: p(Yes) / (p(Yes) + p(No))."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmrl.rewarding.chat import Failure, Messages

from .judging import open_judge


@dataclass(frozen=True)
class Odds:
    """yes: p(Yes) / (p(Yes) + p(No)). missing: "Yes" or "No" where the server did not name it: then it counts as 0."""

    yes: float
    missing: str = ""


class YesNo:
    """A judge that is asked yes or no, in words that may stand behind pictures.

    judge: as in judging.open_judge. spellings: count " yes", "YES" and the like, too; else "Yes" and "No" alone, as
    published. May be called from threads.
    """

    def __init__(self, judge: Mapping[str, Any], spellings: bool) -> None:
        self.judge = open_judge(judge, sees=True, first_token=True)
        self._read: Callable[[str], Odds | None] = partial(read_odds, spellings=spellings)

    def odds(self, asked: Sequence[Messages]) -> list[Odds | Failure]:
        return self.judge.verdicts(asked, self._read)


def read_odds(tokens: str, spellings: bool = False) -> Odds | None:
    """The odds in JSON of [[token, log-probability], ...]; None where neither answer is among the tokens."""
    sums = {"yes": 0.0, "no": 0.0}
    for token, logprob in json.loads(tokens):
        word = token.strip().casefold()
        if word in sums and (spellings or token in ("Yes", "No")):
            sums[word] += math.exp(min(logprob, 0.0))
    total = sums["yes"] + sums["no"]
    if not 0 < total < math.inf:
        return None
    missing = "" if min(sums.values()) > 0 else "Yes" if sums["yes"] == 0 else "No"
    return Odds(sums["yes"] / total, missing)
