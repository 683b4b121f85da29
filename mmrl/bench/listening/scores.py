"""The table: the published rule, all orders of options, and what is right without hearing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from mmrl.bench.listening.reading import Question
from mmrl.bench.listening.ways import DEAF, GIVEN, SWAPPED
from mmrl.bench.shares import Row, Share
from mmrl.token_sets import accepts

Said = Mapping[str, str]  # way -> the answer; a way without one was not answered


def right(question: Question, said: str | None) -> bool:
    """By the released scorers' rule, to the letter; without an answer nothing is."""
    return said is not None and accepts(said, question.gold, question.options)


def rows(questions: Sequence[Question], said: Mapping[str, Said], lost: int, asked_all: bool) -> list[Row]:
    """overall, over all orders, by group; then the baselines. lost: records that are no questions, which count as not
    answered; asked_all: whether the model was asked in all ways, or only its answers are there."""

    def of(way: str, some: Sequence[Question] = questions, more: int = 0) -> Share:
        found = sum(right(question, said.get(question.id, {}).get(way)) for question in some)
        return Share(found, len(some) + more, len(some) + more)

    groups = _sorted(group for question in questions for group in question.groups)
    made = [Row.of("overall", of(GIVEN, more=lost))]
    if asked_all:
        made.append(_mean("all orders of options", [_orders(q, said.get(q.id, {})) for q in questions] + [0.0] * lost))
    made += [Row.of(f"  {group}", of(GIVEN, [q for q in questions if group in q.groups])) for group in groups]
    if asked_all:
        made += [Row.of("text alone, no sound", of(DEAF)), Row.of("with another's sound", of(SWAPPED))]
    return [*made, *(_always(name, choose, questions) for name, choose in BLIND.items()), _chance(questions)]


def _sorted(groups: Iterable[str]) -> list[str]:
    """Each group once, those of a column together."""
    found = list(dict.fromkeys(groups))
    columns = [group.partition(":")[0] for group in found]
    return sorted(found, key=lambda group: (columns.index(group.partition(":")[0]), group))


def _orders(question: Question, said: Said) -> float:
    """The share of the rotations of its options in which a question is answered right."""
    names = [GIVEN, *(f"rotation {by}" for by in range(1, len(question.options)))]
    return sum(right(question, said.get(name)) for name in names) / len(names)


# What can be said without hearing and without reading the question.
BLIND: dict[str, Callable[[Sequence[str]], str]] = {
    "always the first option": lambda options: options[0],
    "always the longest option": lambda options: max(options, key=len),
}


def _always(name: str, choose: Callable[[Sequence[str]], str], questions: Sequence[Question]) -> Row:
    found = sum(right(question, choose(question.options)) for question in questions)
    return Row.of(name, Share(found, len(questions), len(questions)))


def _chance(questions: Sequence[Question]) -> Row:
    """An option at random, by the same rule, which lets some others through."""
    return _mean(
        "an option at random",
        [sum(right(q, option) for option in q.options) / len(q.options) for q in questions],
    )


def _mean(name: str, values: Sequence[float]) -> Row:
    mean = sum(values) / len(values)
    return Row(name, mean, mean, None, len(values))
