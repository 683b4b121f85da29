"""What is served, behind one interface: a reward of groups or samples, a scorer, or a comparer."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol

from mmrl.judging.base import Comparer, Scorer, Showing, Verdict
from mmrl.pictures import PictureError, open_image
from mmrl.rewarding.call import call
from mmrl.rewarding.load import LoadedReward
from mmrl.rewarding.made_of import made_of
from mmrl.rewarding.values import one_line, scores_in
from mmrl.serving.rows import Outcome, Row
from mmrl.types import Candidate, Group, Pair, Prompt, Sample, Score

Unit = Sequence[Row]
_MOST_COMPARED = 128  # rows of a group of which each two are compared, in both orders: 16,256 questions


class Served(Protocol):
    """A model at work.

    name: of its results. kind: "reward", "scorer" or "comparer". version: of what its numbers depend on besides the
    request. whole: whether a row's number depends on the other rows of its group. at_once: batches that it takes at a
    time.
    """

    name: str
    kind: str
    version: str
    whole: bool
    at_once: int

    def units(self, rows: Sequence[Row]) -> list[list[int]]:
        """Places of the rows that have to be rated together."""

    def rate(self, units: Sequence[Unit]) -> list[list[Outcome]]:
        """An outcome for each row of each unit. Called from threads; may raise."""


class ServedReward:
    """A reward, called once for each group, as in a training."""

    kind = "reward"

    def __init__(
        self, reward: LoadedReward, options: Mapping[str, Any], max_pixels: int, name: str | None = None
    ) -> None:
        self.reward, self.max_pixels = reward, max_pixels
        self.name, self.whole, self.at_once = name or reward.name, reward.group, reward.at_once
        self.version = version_of(made_of(reward, options))

    def units(self, rows: Sequence[Row]) -> list[list[int]]:
        return by_group(rows)

    def rate(self, units: Sequence[Unit]) -> list[list[Outcome]]:
        return [self._rated(unit) for unit in units]

    def _rated(self, unit: Unit) -> list[Outcome]:
        if fault := _not_alone(unit, self.whole, self.kind):
            return [Outcome(reason=fault)] * len(unit)
        prompt = unit[0].prompt
        made = [self._sample(prompt, i, row) for i, row in enumerate(unit)]
        samples = [one for one in made if isinstance(one, Sample)]
        scores = iter(call(self.reward, Group(prompt, 0, samples)))
        return [outcome_of(next(scores)) if isinstance(one, Sample) else one for one in made]

    def _sample(self, prompt: Prompt, number: int, row: Row) -> Sample | Outcome:
        [candidate] = row.candidates
        try:
            picture = open_image(candidate.images[0], None, self.max_pixels) if candidate.images else None
        except PictureError as error:
            return Outcome(reason=str(error))
        return Sample(prompt, number, candidate.answer if picture is None else picture)


class ServedScorer:
    """A scorer: rows of any requests are scored together."""

    kind, whole, at_once = "scorer", False, 1

    def __init__(self, scorer: Scorer, name: str) -> None:
        self.scorer, self.name, self.version = scorer, name, version_of(scorer.identity)

    def units(self, rows: Sequence[Row]) -> list[list[int]]:
        return [[place] for place in range(len(rows))]

    def rate(self, units: Sequence[Unit]) -> list[list[Outcome]]:
        faults = [_not_alone(unit, self.whole, self.kind) for unit in units]
        items = [(unit[0].prompt, unit[0].candidates[0]) for unit, fault in zip(units, faults) if not fault]
        scores = iter(scores_in(self.scorer.scores(items), len(items)) if items else ())
        return [[Outcome(reason=fault) if fault else outcome_of(next(scores))] for fault in faults]


class ServedComparer:
    """A comparer.

    A row with several candidates gets the share of each, by its number. Rows of a group, with a candidate each, get
    their win rate in it: the mean of their shares over all pairs, each judged in both orders. Equal candidates tie, and
    nobody is asked about them; nor is anybody asked twice about the same two.
    """

    kind, whole, at_once = "comparer", True, 1

    def __init__(self, comparer: Comparer, name: str) -> None:
        self.comparer, self.name, self.version = comparer, name, version_of(comparer.identity)

    def units(self, rows: Sequence[Row]) -> list[list[int]]:
        pairs = [[place] for place, row in enumerate(rows) if len(row.candidates) > 1]
        alone = [place for place, row in enumerate(rows) if len(row.candidates) == 1]
        return pairs + [[alone[place] for place in unit] for unit in by_group([rows[place] for place in alone])]

    def rate(self, units: Sequence[Unit]) -> list[list[Outcome]]:
        shown = [self._showings(unit) for unit in units]
        showings = [showing for some in shown if not isinstance(some, str) for showing in some]
        verdicts = list(self.comparer.compare(showings)) if showings else []
        if len(verdicts) != len(showings):
            raise ValueError(f"gave {len(verdicts)} verdicts for {len(showings)} showings")
        found = iter(verdicts)
        outcomes = []
        for unit, some in zip(units, shown):
            if isinstance(some, str):
                outcomes.append([Outcome(reason=some)] * len(unit))
                continue
            of_unit = [next(found) for _ in some]
            outcomes.append([_shares(of_unit[0])] if len(unit[0].candidates) > 1 else _win_rates(unit, of_unit))
        return outcomes

    def _showings(self, unit: Unit) -> list[Showing] | str:
        """What is put to the judge, or why nothing is."""
        first = unit[0]
        if len(first.candidates) > 1:
            even = (1 / len(first.candidates),) * len(first.candidates)
            return [Showing(Pair(first.prompt, first.candidates, even), first.order, first.seed)]
        if fault := _not_alone(unit, True, self.kind):
            return fault
        pairs = [Pair(first.prompt, two, (0.5, 0.5)) for two in combinations(_different(unit), 2)]
        return [Showing(pair, order, first.seed) for pair in pairs for order in ((0, 1), (1, 0))]


def version_of(*parts: Any) -> str:
    """Short, and another where a part or mmrl is another."""
    told = repr([importlib.metadata.version("mmrl"), *parts])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def by_group(rows: Sequence[Row]) -> list[list[int]]:
    """Places of the rows of each group, in the order of their first; a row without a group is one of its own."""
    groups: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault((place,) if row.group is None else row.group, []).append(place)
    return list(groups.values())


def outcome_of(score: Score) -> Outcome:
    """A score as it is sent: not applicable has a value, which is null."""
    if score.status == "na":
        return Outcome({"score": None}, f"not applicable: {score.reason}")
    if score.value is None or not math.isfinite(score.value):
        return Outcome(reason=score.reason or "no finite number")
    return Outcome({"score": float(score.value)})


def _not_alone(unit: Unit, whole: bool, kind: str) -> str:
    """Why rows that hold one candidate each cannot be rated together; "" where they can."""
    first = unit[0]
    if any(len(row.candidates) != 1 for row in unit):
        return f"a {kind} rates one candidate: send no `candidates`, but a row for each, the candidate last in history"
    if whole and first.group is None:
        return "it is compared with others of its group: send group_id"
    if any(row.prompt.text != first.prompt.text or row.prompt.record != first.prompt.record for row in unit):
        return f"the rows of group {first.group!r} have different prompts or metadata"
    if kind == "comparer" and len(unit) > _MOST_COMPARED:
        return f"group {first.group!r} has {len(unit)} rows, and each two are compared: {_MOST_COMPARED} are the most"
    if whole and kind == "comparer" and len(unit) < 2:
        return f"group {first.group!r} has one row: nothing to compare it with"
    return ""


def _shares(verdict: Verdict) -> Outcome:
    if verdict.shares is None or not all(map(math.isfinite, verdict.shares)):
        return Outcome(reason=one_line(verdict.reason) or "no verdict", said=verdict.said)
    return Outcome({str(number): float(share) for number, share in enumerate(verdict.shares)}, said=verdict.said)


def _different(unit: Unit) -> list[Candidate]:
    """The candidates of rows that hold one each, every one once, in the order of the first that has it."""
    found: list[Candidate] = []
    for row in unit:
        found += [candidate for candidate in row.candidates if candidate not in found]
    return found


def _win_rates(unit: Unit, verdicts: Sequence[Verdict]) -> list[Outcome]:
    """Each row's mean share over its pairs. verdicts: of the pairs of different candidates in their order, two each."""
    different = _different(unit)
    shares: dict[tuple[int, int], float | str] = {(k, k): 0.5 for k in range(len(different))}
    for number, (i, j) in enumerate(combinations(range(len(different)), 2)):
        both = [_shares(verdict) for verdict in verdicts[2 * number : 2 * number + 2]]
        if bad := [outcome.reason for outcome in both if outcome.failed]:
            shares[i, j] = shares[j, i] = bad[0]
            continue
        share = sum(outcome.values["0"] or 0.0 for outcome in both) / 2
        shares[i, j], shares[j, i] = share, 1.0 - share
    place = [different.index(row.candidates[0]) for row in unit]
    made = []
    for number, own in enumerate(place):
        met = [shares[own, other] for at, other in enumerate(place) if at != number]
        won = [share for share in met if not isinstance(share, str)]
        made.append(
            Outcome({"score": sum(won) / len(won)})
            if won
            else Outcome(reason=f"every pair failed; the first: {met[0]}")
        )
    return made
