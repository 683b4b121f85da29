"""Form of a completion: does it match a pattern?"""

from __future__ import annotations

import re

from mmrl.types import Sample, Score

from .answers import text_of


class fullmatch:
    """1 where the whole completion, stripped, matches `pattern`, else 0; "." also matches a new line.

    pattern: Python's syntax, checked when the reward is loaded. Without a match, nested repetitions such as (a+)+ take
    time exponential in the length: write patterns without them.
    """

    def __init__(self, pattern: str, case: bool = True) -> None:
        self.pattern = _compiled(pattern, case)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return [Score.of(float(self.pattern.fullmatch(text_of(s).strip()) is not None)) for s in samples]


class count:
    """Occurrences of `pattern` in the completion, at most `most`, divided by `most`: in [0, 1].

    With most=1: is it there at all? The pattern as in `fullmatch`.
    """

    def __init__(self, pattern: str, case: bool = True, most: int = 1) -> None:
        if most < 1:
            raise ValueError(f"most={most} must be 1 or more")
        self.pattern, self.most = _compiled(pattern, case), most

    def __call__(self, samples: list[Sample]) -> list[Score]:
        found = [sum(1 for _ in self.pattern.finditer(text_of(sample))) for sample in samples]
        return [Score.of(min(n, self.most) / self.most, found=n) for n in found]


def _compiled(pattern: str, case: bool) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL if case else re.DOTALL | re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from None
