"""Which model judges: a served one or a local one, from the option `judge` of a reward; and how its words are read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from mmrl.rewarding.chat import Endpoint, Judge, Messages
from mmrl.rewarding.first_token import FirstToken
from mmrl.rewarding.parts import text_part
from mmrl.share import resolve
from mmrl.thoughts import behind_thoughts

from .local_judge import LocalFirstToken, LocalModel

# Behind a number: no more digits, and no other scale than the one that was asked for ("1 / 10").
_ENDS = r"(?!\w|[.,]\d|[*_]{0,3}(?:\s*[/%]|\s+(?:(?:out\s+)?of|percent)\b))"
_SCORE = re.compile(rf"\bscore\b[^\w\n-]{{0,8}}([01]){_ENDS}(?!\W{{0,3}}or\b)", re.IGNORECASE)


def open_judge(options: Mapping[str, Any], sees: bool = False, first_token: bool = False) -> Judge:
    """The judge that the option describes: {url, model, ...} of an endpoint, or {path, ...} of a local checkpoint.

    The other keys are those of mmrl.rewarding.chat.Endpoint (or LocalModel of local_judge.py) and Judge.
    sees: it will be shown pictures. first_token: it is asked for the probabilities of its first token.
    Raises ValueError for neither or both of url and path, for an unknown or missing key, and for a local model that
    sees no pictures where it should.
    """
    served, local = (FirstToken, LocalFirstToken) if first_token else (Endpoint, LocalModel)
    kind: type[Endpoint] | type[LocalModel] = local if "path" in options else served
    if not isinstance(options, Mapping) or ("path" in options) == ("url" in options):
        raise ValueError("judge: give `url` and `model` of a served model, or the `path` of a local one")
    of_chat = set(inspect.signature(kind).parameters)
    of_judge = set(inspect.signature(Judge).parameters) - {"chat"}
    if unknown := set(options) - of_chat - of_judge:
        raise ValueError(
            f"judge: unknown {', '.join(sorted(unknown))}; there are {', '.join(sorted(of_chat | of_judge))}"
        )
    if kind is served and "model" not in options:
        raise ValueError("judge: `url` needs `model`, the name under which the server knows it")
    chat = kind(**{key: value for key, value in options.items() if key in of_chat})
    if sees and not getattr(chat, "sees", True):
        raise ValueError(f"judge: the model in {options['path']!r} sees no pictures; its folder has no processor")
    return Judge(chat, **{key: value for key, value in options.items() if key in of_judge})


# -------------------------------------------------------------------- words


def request(template: Template, **words: str) -> Messages:
    """The request of a template.

    Runs of equals signs, which mark where a candidate's text begins and ends, are broken in what is filled in.
    """
    return [{"role": "user", "content": _filled(template, words)}]


def shown(pictures: Sequence[Mapping[str, Any]], template: Template, **words: str) -> Messages:
    """The same behind pictures, parts of mmrl.rewarding.parts."""
    return [{"role": "user", "content": [*pictures, text_part(_filled(template, words))]}]


def _filled(template: Template, words: Mapping[str, str]) -> str:
    return template.substitute({name: re.sub("={4,}", "===", text) for name, text in words.items()})


def template_of(text: str | None, default: str, names: set[str], needed: str | None = "answer") -> Template:
    """The template of an option: its text, or a .txt file.

    Raises ValueError unless it has the needed name, where there is one, and no others than `names`.
    """
    if text is not None and text.endswith(".txt"):
        try:
            text = resolve(text).read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"template: {text} cannot be read: {error.strerror}") from None
    template = Template(default if text is None else text)
    found = set(template.get_identifiers())
    if not template.is_valid() or found - names or needed not in {None, *found}:
        named = ", ".join(f"${name}" for name in sorted(names))
        raise ValueError(f"template: {f'needs ${needed}, and ' if needed else ''}may have {named}; has {found}")
    return template


def said_score(answer: str) -> int | None:
    """0 or 1 of the line "Score: 0" or "Score: 1"; None without one, or where several disagree."""
    found = set(_SCORE.findall(behind_thoughts(answer)))
    return int(found.pop()) if len(found) == 1 else None


def said_numbers(answer: str, names: list[str]) -> list[float] | None:
    """The numbers of lines "name: 0.5", each from 0 to 1, in the order of names; None unless each has just one."""
    answer, numbers = behind_thoughts(answer), []
    for name in names:
        pattern = rf"\b{re.escape(name)}\b[^\w\n.-]{{0,8}}(\d+(?:\.\d+)?){_ENDS}"
        found = set(re.findall(pattern, answer, re.IGNORECASE))
        number = float(found.pop()) if len(found) == 1 else -1.0
        if not 0 <= number <= 1:
            return None
        numbers.append(number)
    return numbers
