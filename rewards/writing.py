"""Texts of several scripts as they are compared: what a prompt quotes, what counts as the same letter, what agrees.

Pure functions and one frozen class; `lettering.py` puts an OCR engine before them.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import regex

# Single quotes are left out: they are apostrophes as often. Some languages quote »so« or ”so”.
_QUOTED = regex.compile(
    r'"([^"]*)"|＂([^＂]*)＂|“([^”“]*)”|”([^”“„]*)”|„([^“”„]*)[“”]|«([^»]*)»|»([^«]*)«|「([^」]*)」|『([^』]*)』|《([^》]*)》'
)
# What a capital İ becomes as a small letter.
_DOTTED = "i\N{COMBINING DOT ABOVE}"
_SPACES = regex.compile(r"\s+")
# Beside spaces: signs of no width, which only order or join others.
_UNSEEN = regex.compile(r"[\p{Cf}\p{Cc}]+")
_PUNCTUATION = regex.compile(r"[\p{P}\p{S}]+")
_VOWELS = regex.compile(r"[\u064b-\u065f\u0670\u0640\u0591-\u05c7]+")  # Arabic and Hebrew points, and the tatweel
_ACCENTED = regex.compile(r"(?<=[\p{sc=Latin}\p{sc=Greek}\p{sc=Cyrillic}])\p{Mn}+")

SCRIPTS = (
    *("Latin", "Cyrillic", "Greek", "Han", "Hiragana", "Katakana", "Hangul", "Arabic", "Hebrew", "Devanagari"),
    *("Bengali", "Tamil", "Telugu", "Thai", "Georgian", "Armenian"),
)
OTHER = "another script"

# Capitals of three scripts with one shape, and small letters that have one though their capitals do not matter then.
_SHAPES = (
    *("AАΑ", "BВΒ", "CС", "EЕΕ", "HНΗ", "IІΙ", "JЈ", "KКΚ", "MМΜ", "NΝ", "OОΟ", "PРΡ", "SЅ", "TТΤ", "XХΧ", "YΥ", "ZΖ"),
    *("aа", "cс", "eе", "iі", "jј", "oоο", "pр", "sѕ", "xх", "yу"),
)

PERMITS = {
    "lookalikes": "letters of the Latin, Cyrillic and Greek script that have one shape",
    "chinese": "simplified and traditional characters",
    "vowels": "Arabic and Hebrew with and without vowel points",
    "accents": "Latin, Greek and Cyrillic letters with and without accents",
    "punctuation": "with and without punctuation and symbols",
}


def quotations(text: str) -> list[str]:
    """What a text quotes, in order; white space around it does not belong to it, and an empty one is left out."""
    found = (next(group for group in match.groups() if group is not None).strip() for match in _QUOTED.finditer(text))
    return [one for one in found if one]


@cache
def script_of(letter: str) -> str | None:
    """The Unicode script of a letter, one of SCRIPTS or OTHER; None for digits, signs and marks, which all share."""
    if not regex.match(r"\p{L}", letter) or regex.match(r"[\p{sc=Common}\p{sc=Inherited}]", letter):
        return None
    return next((name for name in SCRIPTS if regex.match(rf"\p{{sc={name}}}", letter)), OTHER)


def scripts_in(text: str) -> set[str]:
    return {script for letter in text if (script := script_of(letter))}


@dataclass(frozen=True)
class Alike:
    """What counts as the same text.

    form: the Unicode normalisation, NFKC or NFC. case: whether small and capital letters differ, in scripts that have
    them. spaces: whether spaces count. permit: of PERMITS. equivalent: texts, each the characters of one set: all of a
    set are the same.
    """

    form: str = "NFKC"
    case: bool = False
    spaces: bool = False
    permit: tuple[str, ...] = ()
    equivalent: tuple[str, ...] = ()
    _same: dict[int, str] = field(init=False, repr=False, compare=False)
    _chinese: Callable[[str], str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.form not in ("NFKC", "NFC"):
            raise ValueError(f"form={self.form!r} must be NFKC or NFC")
        for name in self.permit:
            if name not in PERMITS:
                raise ValueError(f"permit: {name!r} is none of {', '.join(PERMITS)}")
        object.__setattr__(self, "_same", _first_of(self._sets()))
        object.__setattr__(self, "_chinese", _simplified() if "chinese" in self.permit else None)

    def __call__(self, text: str) -> str:
        """The text with one spelling for all that counts as the same."""
        text = _UNSEEN.sub("", unicodedata.normalize(self.form, _SPACES.sub(" ", text)))
        text = unicodedata.normalize(self.form, _SPACES.sub(" " if self.spaces else "", text).strip())
        if "vowels" in self.permit:
            text = _VOWELS.sub("", text)
        if "accents" in self.permit:
            text = unicodedata.normalize(
                "NFC", _ACCENTED.sub("", unicodedata.normalize("NFD" if self.form == "NFC" else "NFKD", text))
            )
        if "punctuation" in self.permit:
            text = _PUNCTUATION.sub("", text)
        # Capitals, as those are what the sets of shapes are about; then small again, as ß and SS are one that way.
        text = (text if self.case else text.upper()).translate(self._same)
        text = text if self.case else text.casefold().replace(_DOTTED, "i")
        text = self._chinese(text) if self._chinese else text
        return unicodedata.normalize(self.form, text).strip()

    def _sets(self) -> Iterator[str]:
        for letters in (*self.equivalent, *(_SHAPES if "lookalikes" in self.permit else ())):
            if len(set(letters)) < 2:
                raise ValueError(f"equivalent: {letters!r} is no set of two characters or more that count as the same")
            yield letters if self.case else "".join(dict.fromkeys(letters.upper()))


def _first_of(sets: Iterator[str]) -> dict[int, str]:
    """Each character -> the one that stands for its set; sets that share one are one."""
    stands: dict[str, str] = {}
    for letters in sets:
        known = {stands.get(letter, letter) for letter in letters}
        first = min(known)
        stands |= {letter: first for letter, now in stands.items() if now in known} | dict.fromkeys(letters, first)
    return {ord(letter): first for letter, first in stands.items()}


def _simplified() -> Callable[[str], str]:
    from opencc import OpenCC

    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


# -------------------------------------------------------------------- agreement


def nearest(target: str, text: str) -> tuple[int, int, int]:
    """(edit distance, start, end) of the part of a text that is nearest to the target; the shortest, then first, such.

    Insertions, deletions and substitutions count 1 (Sellers 1980). An empty part is one, so the distance is at most
    len(target).
    """
    # Row by row of the target: distance, and where in the text the best part that ends here begins.
    before = [(0, -start) for start in range(len(text) + 1)]
    for row, letter in enumerate(target, start=1):
        now = [(row, 0)]
        for column, other in enumerate(text, start=1):
            (skip, a), (gap, b), (swap, c) = before[column], now[column - 1], before[column - 1]
            now.append(min((skip + 1, a), (gap + 1, b), (swap + (letter != other), c)))
        before = now
    distance, minus, end = min((d, minus + column, column) for column, (d, minus) in enumerate(before))
    return distance, end - minus, end


@dataclass(frozen=True)
class Found:
    """What became of one target. text: the admissible text that fits best; agreement: 1 - d / len(text)."""

    text: str
    agreement: float
    part: str


def found_in(targets: Sequence[Sequence[str]], read: str) -> list[Found]:
    """How well each target is written in a text, in [0, 1]; a part of the text serves one target.

    targets: for each its admissible texts, in one spelling with `read`, none of them empty. What fits best takes its
    part first, of two that fit as well the longer one.
    """
    made: dict[int, Found] = {}
    while len(made) < len(targets):
        looked = [
            (1.0 - distance / len(text), len(text), -place, text, start, end)
            for place in range(len(targets))
            if place not in made
            for text in targets[place]
            for distance, start, end in [nearest(text, read)]
        ]
        agreement, _, minus, text, start, end = max(looked)
        made[-minus] = Found(text, agreement, read[start:end])
        # A sign that no text has: what stands before the part and what stands behind it are no neighbours.
        read = read[:start] + "\0" + read[end:] if end > start else read
    return [made[place] for place in range(len(targets))]


def of_scripts(text: str, scripts: set[str]) -> tuple[str, dict[str, int]]:
    """(the text without letters of other scripts, how many of each there were)."""
    wrong = Counter(script for letter in text if (script := script_of(letter)) and script not in scripts)
    kept = "".join(letter for letter in text if script_of(letter) is None or script_of(letter) in scripts)
    return kept, dict(wrong)
