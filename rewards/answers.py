"""The final answer of a completion, and the answer that the record holds: what the rewards of texts share."""

from __future__ import annotations

import re
import string
import unicodedata
from fractions import Fraction
from typing import Any

from mmrl.types import Prompt, Sample, Score

_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])[-+])?(?:(?:\d+(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?: ?/ ?\d+)?%?", re.ASCII
)
_SAID = re.compile(r"\banswer(?: is|:| =)\s*:?\s*", re.IGNORECASE)
_MARK = "####"
_ARTICLE = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)
_OF_A_NUMBER = re.compile(r"(?<=\d)[.,](?=\d)|(?<!\w)[-.+](?=[.\d])")


def text_of(sample: Sample) -> str:
    """The completion as text. Raises TypeError for a sample of another kind."""
    if not isinstance(sample.artifact, str):
        raise TypeError(f"scores texts, and the sample's artifact is a {type(sample.artifact).__name__}")
    return sample.artifact


def final_answer(text: str, extract: str = "auto") -> str | None:
    """The piece of `text` that is its final answer, stripped; None where it is not there or empty.

    extract: `boxed`, the last whole \\boxed{...}; `after:MARK`, what follows the last MARK on its line; `tag:NAME`,
    the last whole <NAME>...</NAME>; `said`, what follows the last "answer is" or "answer:"; `line`, the last line that
    is not empty; `whole`, all of it; `auto`, the first of boxed, tag:answer, after:####, said, line that is there.
    Raises ValueError for another word.
    """
    if extract == "auto":
        found = (final_answer(text, way) for way in ("boxed", "tag:answer", f"after:{_MARK}", "said", "line"))
        return next((piece for piece in found if piece is not None), None)
    way, _, name = extract.partition(":")
    if way == "boxed":
        piece = _boxed(text)
    elif way == "after" and name:
        piece = text.rpartition(name)[2].partition("\n")[0] if name in text else None
    elif way == "tag" and name:
        piece = tagged(text, name)
    elif way == "said":
        said = list(_SAID.finditer(text))
        piece = text[said[-1].end() :].partition("\n")[0].rstrip(" .") if said else None
    elif way == "line":
        piece = next((line for line in reversed(text.splitlines()) if line.strip()), None)
    elif way == "whole":
        piece = text
    else:
        raise ValueError(f"extract={extract!r}: expected auto, boxed, after:MARK, tag:NAME, said, line or whole")
    return (piece or "").strip() or None


def tagged(text: str, name: str) -> str | None:
    """The inside of the last <name>...</name> that holds no other <name>, as it stands; None without one."""
    start = re.escape(f"<{name}>")
    found = re.findall(rf"{start}((?:(?!{start}).)*?){re.escape(f'</{name}>')}", text, re.DOTALL)
    return found[-1] if found else None


def normalised(text: str, case: bool = False, punctuation: bool = True, articles: bool = True) -> str:
    """A text as it is compared: Unicode's NFKC form, runs of white space as one space.

    case, punctuation, articles (a, an, the): whether they count and so stay. Decimal points, thousands commas and signs
    of numbers stay in any case, lest 3.5 become 35; a text of nothing else ("The", "?") stays whole.
    """
    text = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-")
    if not case:
        text = text.casefold()
    whole = " ".join(text.split())
    if not punctuation:
        kept = {found.start() for found in _OF_A_NUMBER.finditer(text)}
        text = "".join(c for place, c in enumerate(text) if place in kept or not _is_punctuation(c))
    if not articles:
        text = _ARTICLE.sub(" ", text)
    return " ".join(text.split()) or whole


def number_in(text: str | None) -> Fraction | None:
    """The last number in `text`, exactly: 1,234.5, -3, 3/4, 1e-3, 12% (as 12/100); None where there is none."""
    found = _NUMBER.findall((text or "").replace("\N{MINUS SIGN}", "-"))
    if not found:
        return None
    number, percent = found[-1].rstrip("%"), found[-1].endswith("%")
    above, _, below = number.replace(",", "").replace(" ", "").partition("/")
    if len(number) > 1000 or (below and not int(below)):
        return None
    exponent = re.search(r"[eE]([-+]?\d+)$", above)
    if exponent and abs(int(exponent[1])) > 1000:  # 1e999999999 would fill the memory
        return None
    return Fraction(above) / int(below or 1) / (100 if percent else 1)


def gold_of(prompt: Prompt) -> list[str]:
    """The right answers of the record's column `answer`, as texts: one, or those of a list; [] without any.

    `possible_answers` (SATORI's name) is read where there is no `answer`. A worked solution that ends in "#### x", as
    GSM8K's, gives x.
    """
    return _texts(prompt.record.get("answer")) or _texts(prompt.record.get("possible_answers"))


def accepted_of(prompt: Prompt) -> list[str]:
    """All answers that are right as texts: those of `answer` and of `possible_answers` ("9", "nine")."""
    columns = (prompt.record.get("answer"), prompt.record.get("possible_answers"))
    return list(dict.fromkeys(text for column in columns for text in _texts(column)))


def lacks_answer(prompt: Prompt) -> str | None:
    """Why the prompt has nothing to compare with, or None: the check_prompt of these rewards."""
    if gold_of(prompt):
        return None
    return f"prompt {prompt.id!r} lacks a non-empty `answer` (data.columns can take it from another column)"


def not_applicable(sample: Sample) -> Score | None:
    """The score of a sample whose record holds no answer; None where it does."""
    reason = lacks_answer(sample.prompt)
    return Score(None, reason, "na") if reason else None


def _boxed(text: str) -> str | None:
    """The inside of the last \\boxed{...} whose braces are balanced."""
    for start in reversed([m.end() for m in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)]):
        depth = 1
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0) if text[place - 1] != "\\" else 0
            if depth == 0:
                return text[start:place]
    return None


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _texts(value: Any) -> list[str]:
    texts = [str(v) for v in (value if isinstance(value, list | tuple) else [value]) if v is not None]
    return [t.rpartition(_MARK)[2].strip() for t in texts if t.rpartition(_MARK)[2].strip()]
