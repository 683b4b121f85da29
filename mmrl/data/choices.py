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
from mmrl.data.listed import LETTERS, Span, spans_of, unquoted
from mmrl.data.options import bare_options, places_of
from mmrl.seeds import seed_of
from mmrl.types import Prompt

# Columns that hold the right answer, and those (besides the prompt's text) that hold what is asked.
ANSWERS = ("answer", "possible_answers", "solution")
ASKED = ("prompt", "question", "messages")
# Column in which a prompt whose options were moved tells how: the option in place i is number order[i] of its source.
ORDER = "options_order"

# Options that speak of the others keep their places, and so do the rest.
_TIED = re.compile(
    r"\b(?:all|none|any|both|neither|either)\b.*\b(?:above|below|these|them)\b|\b[A-J] (?:and|or) [A-J]\b", re.I
)
_MARKED = re.compile(r"(?:\\boxed\{|<answer>|####)(?:\\\w+\{)?[\s(\[*]*([A-J])(?![A-Za-z\d])")


def options_of(prompt: Prompt) -> list[str] | None:
    """The options that a prompt shows, in their order; None where it shows none, or fewer than two.

    They are those of the record's column `choices`, where the text has each of them behind its letter (A to J), or
    one after another without letters, as in "cat, dog or bird" and in Python's ['cat', 'dog'] (the last such place), or
    else the last list in the text whose items begin with the letters A, B, C ... as `A.`, `A)`, `A:`, `(A)` or `[A]`:
    one a line, or all in one line.
    """
    found = next(((text, spans) for text in _shown(prompt) if (spans := spans_of(text, _choices(prompt)))), None)
    return [unquoted(found[0][start:end]) for start, end in found[1]] if found else None


def reordered(prompt: Prompt, order: Sequence[int], id_: str) -> Prompt:
    """The prompt under another id, with option order[i] in place i, wherever it shows them (text, `messages` ...).

    Letters in the columns `answer`, `possible_answers` and `solution` become those of the new places ("B", "(b)", "B.
    Paris", "so \\boxed{B}"); answers that are an option's text stay. `choices` is put into the same order, and the
    column `options_order` tells it.
    Raises ValueError for a prompt that shows no options, an order that is no permutation of them, and an answer that is
    the number of an option, for nobody says whether from 0 or from 1 (the format aqa does: from 0).
    """
    options = options_of(prompt)
    if options is None or sorted(order) != list(range(len(options))):
        raise ValueError(f"prompt {prompt.id!r}: order {list(order)} is not one of its options {options}")
    given = _choices(prompt)
    record = dict(prompt.record)

    def permuted(text: str) -> str:
        spans = spans_of(text, given)
        return _replaced(text, spans, [text[slice(*spans[i])] for i in order]) if spans else text

    for name in ASKED:
        if name in record:
            record[name] = _mapped(record[name], permuted)
    for name in ANSWERS:
        if name in record:
            _refuse_number(prompt.id, name, record[name], options)
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
    check_answers(prompts, key)
    tell_hidden(prompts, key)
    if prompts and not any(map(_movable, prompts)):
        raise ConfigError(
            f"{key}: none of {len(prompts)} prompts shows options that can be moved, first {prompts[0].id!r}; leave it "
            "out, or show the options of `choices` in the prompts"
        )


def check_answers(prompts: Sequence[Prompt], key: str) -> None:
    """Raise ConfigError where an option of this name, which moves options, meets an answer that cannot follow."""
    for prompt in prompts:
        if options := _movable(prompt):
            try:
                for name in ANSWERS:
                    _refuse_number(prompt.id, name, prompt.record.get(name), options)
            except ValueError as error:
                raise ConfigError(f"{key}: {error}") from None


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


def _choices(prompt: Prompt) -> list[str] | None:
    """The texts of the column `choices`, [] where they are not to be moved; None without the column."""
    given = prompt.record.get("choices")
    if given is None:
        return None
    texts = bare_options(given)
    return texts if 2 <= len(texts) <= len(LETTERS) and all(texts) else []


def _shown(prompt: Prompt) -> list[str]:
    """What the policy reads of a prompt, in pieces."""
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    _mapped(prompt.record.get("messages", prompt.text), keep)
    return found


# -------------------------------------------------------------------- another order


def _replaced(text: str, spans: Sequence[Span], bodies: Sequence[str]) -> str:
    pieces, last = [], 0
    for (start, end), body in zip(spans, bodies):
        pieces += [text[last:start], body]
        last = end
    return "".join([*pieces, text[last:]])


def _choices_in(before: Any, bodies: Sequence[str], order: Sequence[int]) -> Any:
    """The column `choices` in the new order, in its own form; a letter before a text stays in its place."""
    if isinstance(before, Mapping) and isinstance(before.get("text"), list | tuple):
        return dict(before) | {"text": _choices_in(before["text"], bodies, order)}
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


def _refuse_number(id_: str, column: str, gold: Any, options: Sequence[str]) -> None:
    for one in gold if isinstance(gold, list | tuple) else [gold]:
        if isinstance(one, int) and not isinstance(one, bool) and not places_of(str(one), options, _plain):
            raise ValueError(
                f"prompt {id_!r}: `{column}` is {one}, the number of an option, which cannot follow it to another "
                "place; write its letter or its text, or name format: aqa, whose numbers begin at 0"
            )


def _relettered(gold: str, options: Sequence[str], order: Sequence[int]) -> str:
    if places_of(gold, options, _plain):  # the text of an option, which keeps it wherever it goes
        return gold
    letters = LETTERS[: len(options)]
    found = re.fullmatch(rf"\W*([{letters}])(\W.*)", gold, re.IGNORECASE | re.DOTALL)
    with_text = bool(found and _plain(found[2]) == _plain(options[letters.index(found[1].upper())]))
    if not with_text:
        found = _letter_in(gold, letters)
    if found is None:
        return gold
    place = letters.index(found[1].upper())
    new = letters[list(order).index(place)]
    if not with_text and places_of(new, options, _plain):  # among options such as notes it would be read as another one
        new = options[place]
    elif found[1].islower():
        new = new.lower()
    return f"{gold[: found.start(1)]}{new}{gold[found.end(1) :]}"


def _letter_in(gold: str, letters: str) -> re.Match[str] | None:
    """The letter that a gold is or marks, or the only one that it holds among other words."""
    if found := re.fullmatch(rf"\W*([{letters}])\W*", gold, re.IGNORECASE):
        return found
    marked = next(iter(deque(_MARKED.finditer(gold), maxlen=1)), None)  # "so \\boxed{B}", "<answer>B</answer>"
    if marked and marked[1] in letters:
        return marked
    alone = list(re.finditer(rf"(?<![A-Za-z\d])([{letters}])(?![A-Za-z\d'’])(?!,? [a-z])", gold))
    return alone[0] if len(alone) == 1 else None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text).casefold().split()) or text.strip()
