"""Multiple choice without a bias of position: the options of a record in another order, its answer with them.

A policy that likes the letter A looks good where many right answers are A. Asked with the options in a random order,
or in every rotation, it gains nothing by that.
"""

from __future__ import annotations

import random
import re
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmrl.config import ConfigError
from mmrl.seeds import seed_of
from mmrl.types import Prompt

LETTERS = "ABCDEFGHIJ"
# Columns that hold the right answer, and those (besides the prompt's text) that hold what is asked.
ANSWERS = ("answer", "possible_answers", "solution")
ASKED = ("prompt", "question", "messages")
# Column in which a prompt whose options were moved tells how: the option in place i is number order[i] of its source.
ORDER = "options_order"

Span = tuple[int, int]

_LINE = re.compile(r"^[ \t]*[(\[]?([A-J])[)\].:][ \t]+(?=\S)", re.MULTILINE)
_BRACKET = re.compile(r"[(\[]([A-J])[)\]][ \t]*(?=\S)")
_POINT = re.compile(r"(?<![\w.])([A-J])[.):][ \t]+(?=\S)")
# Options that speak of the others keep their places, and so do the rest.
_TIED = re.compile(
    r"\b(?:all|none|any|both|neither|either)\b.*\b(?:above|below|these|them)\b|\b[A-J] (?:and|or) [A-J]\b", re.I
)
_MARKED = re.compile(r"(?:\\boxed\{|<answer>|####)(?:\\\w+\{)?[\s(\[*]*([A-J])(?![A-Za-z\d])")
_SENTENCE = re.compile(r"(?<![A-Z])[.?!]\s+(?=[A-Z])")


def options_of(prompt: Prompt) -> list[str] | None:
    """The options that a prompt shows, in their order; None where it shows none, or fewer than two.

    They are those of the record's column `choices`, where the text has each of them behind its letter (A to J), or
    one after another without letters, as in "cat, dog or bird" and in Python's ['cat', 'dog'] (the last such place), or
    else the last list in the text whose items begin with the letters A, B, C ... as `A.`, `A)`, `A:`, `(A)` or `[A]`:
    one a line, or all in one line.
    """
    found = next(((text, spans) for text in _shown(prompt) if (spans := _spans(text, _choices(prompt)))), None)
    return [_unquoted(found[0][start:end]) for start, end in found[1]] if found else None


def reordered(prompt: Prompt, order: Sequence[int], id_: str) -> Prompt:
    """The prompt under another id, with option order[i] in place i, wherever it shows them (text, `messages` ...).

    Letters in the columns `answer`, `possible_answers` and `solution` become those of the new places ("B", "(b)", "B.
    Paris", "so \\boxed{B}"); answers that are an option's text stay. `choices` is put into the same order, and the
    column `options_order` tells it.
    Raises ValueError for a prompt that shows no options, and an order that is no permutation of them.
    """
    options = options_of(prompt)
    if options is None or sorted(order) != list(range(len(options))):
        raise ValueError(f"prompt {prompt.id!r}: order {list(order)} is not one of its options {options}")
    given = _choices(prompt)
    record = dict(prompt.record)

    def permuted(text: str) -> str:
        spans = _spans(text, given)
        return _replaced(text, spans, [text[slice(*spans[i])] for i in order]) if spans else text

    for name in ASKED:
        if name in record:
            record[name] = _mapped(record[name], permuted)
    for name in ANSWERS:
        if name in record:
            record[name] = _mapped(record[name], lambda gold: _relettered(gold, options, order))
    if given is not None:
        record["choices"] = _choices_in(record["choices"], given, order)
    before = record.get(ORDER) or range(len(options))
    record[ORDER] = [before[place] for place in order]
    return Prompt(id_, permuted(prompt.text), record, prompt.root)


def shuffled(prompt: Prompt, seed: int) -> Prompt:
    """The prompt with its options in an order drawn from `seed` and its id; itself where it has none to move."""
    options = _movable(prompt)
    if not options:
        return prompt
    order = list(range(len(options)))
    random.Random(seed_of("choices", seed, prompt.id)).shuffle(order)
    return reordered(prompt, order, prompt.id)


def in_order(prompt: Prompt, order: Sequence[int] | None) -> Prompt:
    """The prompt with its options in an order that `options_order` told; itself without one."""
    before = prompt.record.get(ORDER)
    if order is None or order == before:
        return prompt
    return reordered(prompt, [(before or sorted(order)).index(place) for place in order], prompt.id)


def check_shuffled(prompts: Sequence[Prompt], key: str) -> None:
    """Raise ConfigError where an option of this name, which shuffles, finds nothing to move in any prompt, and warn of
    records whose column `choices` the prompt does not show."""
    tell_hidden(prompts, key)
    if prompts and not any(map(_movable, prompts)):
        raise ConfigError(
            f"{key}: none of {len(prompts)} prompts shows options that can be moved, first {prompts[0].id!r}; leave it "
            "out, or show the options of `choices` in the prompts"
        )


def tell_hidden(prompts: Sequence[Prompt], key: str) -> None:
    """Warn of records whose column `choices` the prompt does not show, and which are asked as they are."""
    hidden = [p.id for p in prompts if p.record.get("choices") and options_of(p) is None]
    if hidden:
        warnings.warn(
            f"{key}: {len(hidden)} records have `choices` that are not found in the prompt, first {hidden[0]!r}; they "
            "are asked as they are",
            stacklevel=3,
        )


def rotations(prompt: Prompt) -> list[Prompt]:
    """The prompt in every rotation of its options, the given order first; alone where it has none to move.

    Each option is in each place once. The ids of the others end in `#rotation1`, `#rotation2` ...
    """
    count = len(_movable(prompt))
    orders = [[(place + by) % count for place in range(count)] for by in range(1, count)]
    return [prompt, *(reordered(prompt, o, f"{prompt.id}#rotation{by}") for by, o in enumerate(orders, start=1))]


def _movable(prompt: Prompt) -> list[str]:
    """The options, none where one is of the kind of "none of the above" or "A and B"."""
    options = options_of(prompt) or []
    return [] if any(_TIED.search(option) for option in options) else options


# -------------------------------------------------------------------- where the options are


def _choices(prompt: Prompt) -> list[str] | None:
    """The column `choices`, a list or an object of letters, without letters before them."""
    given = prompt.record.get("choices")
    if isinstance(given, Mapping):
        filled = {letter: text for letter, text in given.items() if text is not None}
        given = list(filled.values()) if "".join(filled) == LETTERS[: len(filled)] else None
    if not isinstance(given, list | tuple) or not 2 <= len(given) <= len(LETTERS):
        return None
    return [re.sub(rf"^\s*[(\[]?{letter}[)\].:]\s*", "", str(text)) for letter, text in zip(LETTERS, given)]


def _shown(prompt: Prompt) -> list[str]:
    """What the policy reads of a prompt, in pieces."""
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    _mapped(prompt.record.get("messages", prompt.text), keep)
    return found


def _spans(text: str, choices: Sequence[str] | None) -> list[Span] | None:
    """Where the options stand in a text, without their letters."""
    if choices is not None:
        items = [rf"(?<!\w)[(\[]?{letter}[)\].:]*\s*({re.escape(body)})" for letter, body in zip(LETTERS, choices)]
        found = re.search(r"(?!\w)[\s,;.|/]*(?:(?:or|and)\s+)?".join(items) + r"(?!\w)", text)
        if found:
            return [found.span(i + 1) for i in range(len(choices))]
        found = _without_letters(text, choices)
        return [found.span(2 * i + 1) for i in range(len(choices))] if found else None
    return next((spans for pattern in (_LINE, _BRACKET, _POINT) if (spans := _listed(text, pattern))), None)


def _without_letters(text: str, choices: Sequence[str]) -> re.Match[str] | None:
    """The last place where the options stand one after another, quotes around them being their own."""
    items = [rf"(?<!\w)((?P<q{i}>['\"]?){re.escape(body)}(?P=q{i}))(?!\w)" for i, body in enumerate(choices)]
    between = r"(?:\s*(?:[,;/|]|\n)\s*(?:[-*•]\s+)?(?:(?:or|and)\s+)?|\s+(?:or|and)\s+)"
    return next(iter(deque(re.finditer(between.join(items), text), maxlen=1)), None)


def _unquoted(option: str) -> str:
    return option[1:-1] if len(option) > 2 and option[0] == option[-1] and option[0] in "'\"" else option


def _listed(text: str, pattern: re.Pattern[str]) -> list[Span] | None:
    """The last run of items that begin with A, B, C ...; the last item ends with its line or its first sentence."""
    marks = list(pattern.finditer(text))
    starts = [place for place, mark in enumerate(marks) if mark[1] == "A"]
    if not starts:
        return None
    run = marks[starts[-1] :]
    length = next((i for i, (mark, letter) in enumerate(zip(run, LETTERS)) if mark[1] != letter), min(len(run), 10))
    run = run[:length]
    if len(run) < 2:
        return None
    ends = [mark.start() for mark in run[1:]]
    line = text.find("\n", run[-1].end())
    last = text[run[-1].end() : line if line >= 0 else len(text)]
    sentence = _SENTENCE.search(last) if pattern is not _LINE else None
    ends.append(run[-1].end() + (sentence.start() if sentence else len(last)))
    return [(mark.end(), mark.end() + len(text[mark.end() : end].rstrip(" \t\r\n,;"))) for mark, end in zip(run, ends)]


# -------------------------------------------------------------------- another order


def _replaced(text: str, spans: Sequence[Span], bodies: Sequence[str]) -> str:
    pieces, last = [], 0
    for (start, end), body in zip(spans, bodies):
        pieces += [text[last:start], body]
        last = end
    return "".join([*pieces, text[last:]])


def _choices_in(before: Any, bodies: Sequence[str], order: Sequence[int]) -> Any:
    """The column `choices` in the new order, in its own form; a letter before a text stays in its place."""
    if isinstance(before, Mapping):
        return dict(before) | {letter: bodies[i] for letter, i in zip(LETTERS, order)}
    marks = [str(text)[: len(str(text)) - len(body)] for text, body in zip(before, bodies)]
    return [mark + bodies[i] for mark, i in zip(marks, order)]


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """`change` of all texts in a text, a list, or messages; roles and other keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    if isinstance(value, Mapping):
        return {k: _mapped(v, change) if k in ("content", "text") else v for k, v in value.items()}
    return value


def _relettered(gold: str, options: Sequence[str], order: Sequence[int]) -> str:
    if _plain(gold) in map(_plain, options):  # the text of an option, which keeps it wherever it goes
        return gold
    letters = LETTERS[: len(options)]
    found = re.fullmatch(rf"\W*([{letters}])\W*", gold, re.IGNORECASE)
    if found is None:
        found = re.fullmatch(rf"\W*([{letters}])(\W.*)", gold, re.IGNORECASE | re.DOTALL)
        if found and _plain(found[2]) != _plain(options[letters.index(found[1].upper())]):
            found = None
    if found is None:  # "so \\boxed{B}", "<answer>B</answer>"
        found = next(iter(deque(_MARKED.finditer(gold), maxlen=1)), None)
        found = found if found and found[1] in letters else None
    if found is None:  # "The answer is B": the only letter among other words
        alone = list(re.finditer(rf"(?<![A-Za-z\d])([{letters}])(?![A-Za-z\d'’])(?!,? [a-z])", gold))
        found = alone[0] if len(alone) == 1 else None
    if found is None:
        return gold
    new = letters[list(order).index(letters.index(found[1].upper()))]
    return f"{gold[: found.start(1)]}{new if found[1].isupper() else new.lower()}{gold[found.end(1) :]}"


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text).casefold().split()) or text.strip()
