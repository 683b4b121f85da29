"""An evaluation as a table of words, and what its reader has to be told."""

from __future__ import annotations

from collections.abc import Iterator

from mmrl.judging.metrics import Figure
from mmrl.judging.results import Evaluation

_MEASURED = {
    "accuracy, over all": "accuracy",
    "accuracy, of what was answered": "accuracy_parsed",
    "right in every order": "every_order",
    "orders agree": "consistency",
    "P(first)": "first",
    "Acc+, units right as a whole": "acc_plus",
}
_REASONS = 3  # told in a line


def table(found: Evaluation) -> list[list[str]]:
    """Rows of words: a name, then a cell for each judge; the first row has the judges' names. Empty rows go."""
    rows = [[label, *cells] for label, cells in _rows(found) if any(cells)]
    return [["", *(result.name for result in found.results)], *rows]


def _rows(found: Evaluation) -> Iterator[tuple[str, list[str]]]:
    every = [result.figures for result in found.results]
    for label, name in _MEASURED.items():
        cells = [in_words(getattr(some, name), interval=k == 0) for k, some in enumerate(every)]
        biased = [name == "first" and some.position_bias for some in every]
        yield label, [f"{cell} BIAS" if flag else cell for cell, flag in zip(cells, biased)]
    yield "no verdict", [f"{some.failed} of {some.showings}" if some.showings else "" for some in every]
    yield "prefers none", [str(some.tied or "") for some in every]
    yield "votes without a verdict", [f"{s.votes_failed} of {s.votes}" if s.votes_failed else "" for s in every]
    yield "votes even", [str(some.tied_votes or "") for some in every]
    yield "calibration error", [f"{r.reliability.error:.3f}" if r.reliability else "" for r in found.results]
    categories = found.judge.categories
    if len(categories) > 1:
        label = f"macro mean of {len(categories)} categories"
        yield label, ["" if r.macro is None else f"{r.macro:.3f}" for r in found.results]
    for category, some in categories.items():
        cells = [in_words(r.categories[category].accuracy, interval=False) for r in found.results]
        yield f"  {category} ({some.pairs + some.broken})", cells
    for name in found.judge.official:
        official = [r.official.get(name) for r in found.results]
        yield f"benchmark's own: {name}", ["" if value is None else f"{value:.3f}" for value in official]


def in_words(figure: Figure, interval: bool = True) -> str:
    """A figure to three digits, with its interval; "" where there is none."""
    if figure.value is None:
        return ""
    ends = f" [{figure.low:.2f}, {figure.high:.2f}]" if interval and figure.low is not None else ""
    return f"{figure.value:.3f}{ends}"


def notices(found: Evaluation) -> list[str]:
    """What the table does not say of the judge by itself, a line each: bias, failures, records that are no pairs."""
    some = found.judge.figures
    lines = [f"POSITION BIAS: it {some.position_bias}"] if some.position_bias else []
    if some.failed:
        told = "; ".join(f"{count} x {reason}" for reason, count in list(some.reasons.items())[:_REASONS])
        more = f"; and {len(some.reasons) - _REASONS} other reasons" if len(some.reasons) > _REASONS else ""
        share = f"{some.failed} of {some.showings} showings have no verdict ({some.failure_rate:.1%})"
        lines.append(f"{share}: {told}{more}")
    if found.broken:
        first, count = found.broken[0], len(found.broken)
        told = f"{count} records are no pairs, and count" if count > 1 else "1 record is no pair, and counts"
        lines.append(f"{told} as wrong over all; the first: {first.where}: {first.why}")
    lines += _in_no_category(found)
    if some.undecided:
        lines.append(f"pairs that prefer no candidate, and are in no accuracy: {some.undecided}")
    if some.votes_failed:
        lines.append(f"{some.votes_failed} of {some.votes} votes have no verdict; the others of their showing decide")
    if found.votes > 1 and found.votes % 2 == 0:
        lines.append(f"{found.votes} votes can be even: {some.tied_votes} were, which is no preference")
    return lines


def _in_no_category(found: Evaluation) -> Iterator[str]:
    """What the means over categories leave out, where there are any."""
    if not found.judge.categories:
        return
    pairs = sum(not one.pair.category for one in found.judge.judged)
    broken = sum(not one.category for one in found.broken)
    parts = [f"{count} {what}" for count, what in ((pairs, "pairs"), (broken, "records that are no pairs")) if count]
    if parts:
        yield f"of no category, and in no mean of categories: {', '.join(parts)}"


def printed(found: Evaluation) -> Iterator[str]:
    """The table in columns, then the notices."""
    rows = table(found)
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        yield "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]).rstrip()
    yield from notices(found)
