"""The final answer of a completion, and the answer that the record holds: what the rewards of texts share."""

from __future__ import annotations

import re
import string
import unicodedata
from typing import Any

from mmrl.types import Prompt, Sample, Score

_SAID = re.compile(
    r"(?P<marks>\*{0,3})(?:\b(?:answer|(?:correct|right|best) (?:option|choice))|答案)(?P<after>\*{0,3})"
    r"(?: is(?!n['’]t)| should be| must be| would be|[:：]| =|是(?!否)|为)\s*[:：]?[ \t]*",
    re.IGNORECASE,
)
_BEFORE = re.compile(r"[\s*]*(?:the\s+)?(?:final\s+)?", re.IGNORECASE)  # a gold that is a sentence, not a text with one
_EMPHASIS = re.compile(r"(\*{1,3}|`{1,3})(?![\s*`])([^*`\n]+)(?<!\s)\1")
_WAYS = ("boxed", "tag:answer", "after:####", "said", "line")
_MARK = "####"
_STOPS = " .。．"
_ARTICLE = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)
_OF_A_NUMBER = re.compile(r"(?<=\d)[.,](?=\d)|(?<!\w)[-.+](?=[.\d])")


def text_of(sample: Sample) -> str:
    """The completion as text. Raises TypeError for a sample of another kind."""
    if not isinstance(sample.artifact, str):
        raise TypeError(f"scores texts, and the sample's artifact is a {type(sample.artifact).__name__}")
    return sample.artifact


def final_answer(text: str, extract: str = "auto") -> str | None:
    """The piece of `text` that is its final answer, stripped; None where it is not there or empty: see `readings`."""
    return next(iter(readings(text, extract)), None)


def readings(text: str, extract: str = "auto") -> list[str]:
    """The pieces of `text` that may be its final answer, stripped, the best first; [] where there is none.

    extract: `boxed`, the last whole \\boxed{...}; `after:MARK`, what follows the last MARK on its line; `tag:NAME`,
    the last whole <NAME>...</NAME>; `said`, what follows the last "answer is", "answer:", "correct option is", 答案是;
    `line`, the last line that is not empty; `whole`, all of it; `auto`, those of boxed, tag:answer, after:####, said
    and line that are there: a reward takes the first that it can read.
    Thoughts are left out, but by `whole` and `tag:think`; so are markdown's emphasis and a full stop around the piece.
    Raises ValueError for another word.
    """
    if extract == "auto":
        pieces = [piece for way in _WAYS for piece in readings(text, way)]
        return list(dict.fromkeys(pieces))
    way, _, name = extract.partition(":")
    if extract == "whole":
        return [text.strip()] if text.strip() else []
    said = text if extract == "tag:think" else without_thoughts(text)
    if extract == "boxed":
        piece = said[found[-1]] if (found := boxes(said)) else None
    elif way == "after" and name:
        piece = said.rpartition(name)[2].partition("\n")[0] if name in said else None
    elif way == "tag" and name:
        piece = tagged(said, name)
    elif extract == "said":
        piece = _said(said)
    elif extract == "line":
        piece = next((line for line in reversed(said.splitlines()) if line.strip()), None)
    else:
        raise ValueError(f"extract={extract!r}: expected auto, boxed, after:MARK, tag:NAME, said, line or whole")
    bare = _bare(piece or "")
    return [bare] if bare else []


def without_thoughts(text: str) -> str:
    """What is said after the last </think>, which the template may have opened, and before a <think> without an end."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def boxes(text: str) -> list[slice]:
    """Where the insides of all whole \\boxed{...} are, in order; of nested ones the outer."""
    found: list[slice] = []
    for start in (m.end() for m in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)):
        if found and start < found[-1].stop:
            continue
        depth = 1
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0) if text[place - 1] != "\\" else 0
            if depth == 0:
                found.append(slice(start, place))
                break
        else:
            break  # one that has no end holds all that follows
    return found


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


def gold_of(prompt: Prompt) -> list[str]:
    """The right answers of the record's column `answer`, as texts: one, or those of a list; [] without any.

    `possible_answers` (SATORI's name) is read where there is no `answer`, and a `solution` that marks one where there
    is neither. They are read as a policy's answers are: "<answer> 3 </answer>", and a worked solution that ends in
    "#### 3", as GSM8K's, or in \\boxed{3}, give 3.
    """
    columns = (prompt.record.get(name) for name in ("answer", "possible_answers"))
    found = next((texts for column in columns if (texts := _golds(column))), None)
    return found if found is not None else _golds(prompt.record.get("solution"), marked=True)


def accepted_of(prompt: Prompt) -> list[str]:
    """All answers that are right as texts: those of `answer` and of `possible_answers` ("9", "nine")."""
    columns = (prompt.record.get("answer"), prompt.record.get("possible_answers"))
    return list(dict.fromkeys(text for column in columns for text in _golds(column))) or gold_of(prompt)


def lacks_answer(prompt: Prompt) -> str | None:
    """Why the prompt has nothing to compare with, or None: the check_prompt of these rewards."""
    if gold_of(prompt):
        return None
    return f"prompt {prompt.id!r} lacks a non-empty `answer` (data.columns can take it from another column)"


def not_applicable(sample: Sample) -> Score | None:
    """The score of a sample whose record holds no answer; None where it does."""
    reason = lacks_answer(sample.prompt)
    return Score(None, reason, "na") if reason else None


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _golds(value: Any, marked: bool = False) -> list[str]:
    texts = [str(v) for v in (value if isinstance(value, list | tuple) else [value]) if v is not None]
    return [gold for text in texts if (gold := _gold(text, marked))]


def _gold(text: str, marked: bool) -> str:
    """The answer that a gold marks, or else all of it; "" where it must be marked and is not."""
    text = without_thoughts(text)
    if _MARK in text:
        return _bare(text.rpartition(_MARK)[2])
    said = _SAID.search(text)
    ways = ["tag:answer", "boxed", *(["said"] if said and _BEFORE.fullmatch(text[: said.start()]) else [])]
    found = next((piece for way in ways for piece in readings(text, way)), "")
    return found if found or marked else _bare(text)


def _said(text: str) -> str | None:
    """What follows the last "answer is" on its line, without the marks of an emphasis that began before it."""
    found = list(_SAID.finditer(text))
    if not found:
        return None
    piece = text[found[-1].end() :].partition("\n")[0].strip()
    marks = found[-1]["marks"]
    if marks and not found[-1]["after"]:
        piece = piece.removeprefix(marks) if piece.startswith(marks) else piece.replace(marks, "", 1)
    return piece


def _bare(piece: str) -> str:
    """The piece without outer white space, a full stop, and markdown's emphasis of all of it."""
    piece = piece.strip()
    bare = piece.rstrip(_STOPS)
    if found := _EMPHASIS.fullmatch(bare):
        bare = found[2].strip().rstrip(_STOPS)
    return bare or piece
