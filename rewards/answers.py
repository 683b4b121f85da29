"""The final answer of a completion, and the answer that the record holds: what the rewards of texts share."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import deque
from typing import Any

from mmrl.thoughts import without_thoughts
from mmrl.types import Prompt, Sample, Score

from .places import boxed, in_tag, said_in_tag, without_open_box
from .signs import ascii_signs

_NOUN = (
    r"(?:\b(?:answer|(?:correct|right|best) (?:option|choice)|antwort|lösung|respuesta|réponse|resposta|risposta|ответ"
    r"|antwoord|odpowiedź|cevap|jawaban|svar|đáp án)"
    r"(?: (?:correcta|correta|corretta|correcte|richtige|final|finale|exacte))?\b|答案|答え|정답|답)"
)
_SAID = re.compile(
    rf"(?P<marks>\*{{0,3}})(?:(?:the |my )?(?:final |correct ))?{_NOUN}(?P<after>\*{{0,3}})"
    r"(?: is(?!n['’]t)| should be| must be| would be| ist(?! nicht)| lautet| est| es| é| è|\s?[:：]| =| равен| [—–]"
    r"|是(?!否|不)|为|は|은|는|이)\s*[:：]?[ \t]*",
    re.IGNORECASE,
)
_HEADING = re.compile(rf"^[# \t*_]*(?:the )?(?:final )?{_NOUN}[ \t*_:：]*$", re.IGNORECASE | re.MULTILINE)
_BEFORE = re.compile(r"[\s*]*(?:the\s+)?(?:final\s+)?", re.IGNORECASE)  # a gold that is a sentence, not a text with one
_EMPHASIS = re.compile(
    r"(?:(\*{1,3}|`{1,3})(?![\s*`])([^*`\n]+)(?<!\s)\1|\*\*(?![\s*])((?:[^*\n]|\*(?!\*))+)(?<!\s)\*\*|`([^`\n]+)`)"
)
_QUOTES = re.compile(r"\"([^\"]+)\"|'([^']+)'|‘([^‘’]+)’|“([^“”]+)”|「([^「」]+)」|«([^«»]+)»")
_COPULA = re.compile(r"(?<=\w)\s*(?:です|である|だ|となります|입니다|이다)$")
_BULLET = re.compile(r"^(?:>\s+|[-*•]\s+(?![\s\d.$-]))+")
# What follows an answer: its reason, or another sentence. A word of three letters ends one ("St. Louis" goes on).
_REASON = re.compile(
    r"(?<=[\w)*$}%\"'])(?:,? (?:because|since|which is|due to|weil|porque|parce que)\b|,? i\.e\.|, as\b|;\s)"
)
# The mark of a factorial stays with its number.
_NEXT_SENTENCE = re.compile(
    r"(?:(?:(?<=\w{3})|(?<=\d)|(?<=[)*$}%\"']))(?:\.|(?<!\d)!)|(?<=\d!))(?=\s+[^\W\d_a-z])|[。！](?=.)"
)
_CORRECTS = re.compile(
    r"\b(?:wait|actually|sorry|correction|mistake|wrong|instead|oops|hmm)\b|\bno[,:.]", re.IGNORECASE
)
# What heads the reason of an answer that stands above it.
_EXPLAINS = re.compile(
    r"\W*(?:explanation|rationale|justification|erklärung|begründung|explication|explicación|解释|解析|説明)(?![^\W_])",
    re.IGNORECASE,
)
_EMPTY = re.compile(r"\\(?:boxed|fbox)\s*\{\s*\}|<(\w{1,20})>\s*</\1>")
_MARK = "####"
_NUMERIC = re.compile(r"[\s\d.,/$%€£+-]+")
_STOPS = " .。．"
_ARTICLE = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)
_OF_A_NUMBER = re.compile(r"(?<=\d)[-.,/:^*+](?=\d)|(?<!\w)[-.+](?=\.?\d)")


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

    extract: `boxed`, the last whole \\boxed{...}, with those that "or" joins to it; `after:MARK`, what follows the last
    MARK on its line; `tag:NAME`, the last whole <NAME>...</NAME>; `said`, what follows the last "answer is", "answer:",
    "correct option is", 答案是, Antwort:, ... up to its reason or the next sentence, and then its whole line; `line`,
    the last line with a word, of a table its last cell; `whole`, all of it; `auto`, those of `marked` and the line: a
    reward takes the first that it can read.
    Thoughts are left out, but by `whole` and `tag:think`; so are markdown's emphasis and a full stop around the piece.
    Raises ValueError for another word.
    """
    if extract == "auto":
        said = without_thoughts(text)
        return list(dict.fromkeys([*marked(text), *_all_bare([_line(said)])]))
    way, _, name = extract.partition(":")
    if extract == "whole":
        return [text.strip()] if text.strip() else []
    said = without_thoughts(text)
    if extract == "boxed":
        pieces = [boxed(said)[1]]
    elif way == "after" and name:
        pieces = [_after(said, name)[1]]
    elif way == "tag" and name:
        pieces = [said_in_tag(text, name) or ""]
    elif extract == "said":
        pieces = _said(said)[1]
    elif extract == "line":
        pieces = [_line(said)]
    else:
        raise ValueError(f"extract={extract!r}: expected auto, boxed, after:MARK, tag:NAME, said, line or whole")
    return _all_bare(pieces)


def marked(text: str) -> list[str]:
    """The pieces that are marked as the final answer, the best first: the last of box, <answer> and ####, then `said`,
    then a first line with an explanation below.

    What is said after the first three with a correction between ("wait", "no,") comes first.
    """
    said = without_thoughts(text)
    marks = sorted((boxed(said), in_tag(said, "answer"), _hashed(said)), key=lambda found: -found[0])
    pieces = [piece for _, piece in marks]
    start, words = _said(said)
    last = marks[0][0]
    corrected = 0 <= last < start and _CORRECTS.search(said, last, start)
    return _all_bare([*(words if corrected else ()), *pieces, *words, _above_explanation(said)])


def normalised(text: str, case: bool = False, punctuation: bool = True, articles: bool = True) -> str:
    """A text as it is compared: Unicode's NFKC form, runs of white space as one space.

    case, punctuation, articles (a, an, the): whether they count and so stay. Decimal points, thousands commas and signs
    of numbers stay in any case, lest 3.5 become 35; a text of nothing else ("The", "?") stays whole.
    """
    text = unicodedata.normalize("NFKC", ascii_signs(text))
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
    texts = [text for v in (value if isinstance(value, list | tuple) else [value]) for text in _texts(v)]
    return [gold for text in texts if (gold := _gold(text, marked))]


def _texts(value: Any) -> list[str]:
    """A gold as text; a whole number is one, too, where a table with gaps made it a float: 72.0 is also "72"."""
    if value is None:
        return []
    whole = isinstance(value, float) and value.is_integer()
    return [str(int(value)), str(value)] if whole else [str(value)]


def _gold(text: str, marked: bool) -> str:
    """The answer that a gold marks, or else all of it; "" where it must be marked and is not."""
    text = without_thoughts(text)
    if _MARK in text:
        return bare(text.rpartition(_MARK)[2])
    said = _SAID.search(text)
    ways = ["tag:answer", "boxed", *(["said"] if said and _BEFORE.fullmatch(text[: said.start()]) else [])]
    found = next((piece for way in ways for piece in readings(text, way)), "")
    return found if found or marked else bare(text)


def _after(text: str, mark: str) -> tuple[int, str]:
    return text.rfind(mark), text.rpartition(mark)[2].partition("\n")[0] if mark in text else ""


def _hashed(text: str) -> tuple[int, str]:
    """What follows the last ####, GSM8K's mark; -1 where it is markdown's heading of what follows."""
    place, piece = _after(text, _MARK)
    below = text[place:].partition("\n")[2]
    heads = any(c.isalnum() for c in below) and not _NUMERIC.fullmatch(piece)
    return (-1, "") if heads or re.search(_NOUN, piece, re.IGNORECASE) else (place, piece)


def _said(text: str) -> tuple[int, list[str]]:
    """Where the last "answer is" stands (-1), and what follows it: up to its reason or next sentence, and its line."""
    said, heading = (_last_of(pattern, text) for pattern in (_SAID, _HEADING))
    found = max((one for one in (said, heading) if one), key=lambda one: one.end(), default=None)
    if found is None:
        return -1, []
    line, _, below = text[found.end() :].partition("\n")
    piece = line.strip()
    if found is said and found["marks"] and not found["after"]:
        marks = found["marks"]
        piece = piece.removeprefix(marks) if piece.startswith(marks) else piece.replace(marks, "", 1)
    if not any(c.isalnum() for c in piece):
        piece = next((line.strip() for line in below.splitlines() if any(c.isalnum() for c in line)), piece)
    cuts = [cut.start() for pattern in (_REASON, _NEXT_SENTENCE) if (cut := pattern.search(piece))]
    if cuts and not _CORRECTS.search(piece, min(cuts)):
        return found.start(), [piece[: min(cuts)], piece]
    return found.start(), [piece]


def _above_explanation(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()][:2]
    return _BULLET.sub("", lines[0]) if len(lines) > 1 and _EXPLAINS.match(lines[1]) else ""


def _last_of(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _line(text: str) -> str:
    """The last line that holds a word, or else the last that is not empty; of a row of a table its last cell."""
    lines = [line.strip() for line in _EMPTY.sub("", without_open_box(text)).splitlines() if line.strip()]
    line = next((line for line in reversed(lines) if any(c.isalnum() for c in line)), lines[-1] if lines else "")
    if line.startswith("|") and line.endswith("|"):
        cells = [cell for cell in line.split("|") if cell.strip()]
        return cells[-1] if cells else ""
    return _BULLET.sub("", line)


def _all_bare(pieces: list[str]) -> list[str]:
    return list(dict.fromkeys(found for piece in pieces if (found := bare(piece))))


def bare(piece: str) -> str:
    """The piece without outer white space, a full stop, quotes, and markdown's emphasis of all of it."""
    piece = piece.strip()
    inside = _COPULA.sub("", piece.rstrip(_STOPS))
    if found := _EMPHASIS.fullmatch(inside) or _QUOTES.fullmatch(inside):
        pieces = found.groups()[1:] if found.re is _EMPHASIS else found.groups()
        inside = next(filter(None, pieces)).strip().rstrip(_STOPS)
    return inside or piece
