"""Signs as keyboards and models write them, as ASCII and LaTeX: full-width digits, ², ½, −, spaces of all kinds."""

from __future__ import annotations

import re
import unicodedata

_RAISED = {**{sign: str(n) for n, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}, "⁺": "+", "⁻": "-", "ⁿ": "n"}
_POWERS = re.compile(f"[{''.join(_RAISED)}]+")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
_OTHER_DIGITS = re.compile(r"[^\W\D]")
_EXCLAIMED = re.compile(r"¡([^¡!]*)!|！")
_TABLE = {
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # the full-width forms of ASCII
    **dict.fromkeys([0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " "),
    **dict.fromkeys([0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF], None),  # nothing is seen of them
    **{ord(sign): plain for sign, plain in zip("−﹣⁄∕∗⋅∙＼﹪", "--//*··\\%")},
}


def ascii_signs(text: str) -> str:
    """The text with digits, signs and spaces of other keyboards as ASCII; 5² as 5^{2}, 1½ as 1\\frac{1}{2}."""
    if text.isascii():
        return text
    text = _VULGAR.sub(_fraction, text.translate(_TABLE))
    text = _POWERS.sub(lambda m: f"^{{{''.join(map(_RAISED.__getitem__, m[0]))}}}", text)
    return _OTHER_DIGITS.sub(lambda m: m[0] if m[0].isascii() else str(unicodedata.digit(m[0])), text)


def without_exclamations(text: str) -> str:
    """The text without marks that are no factorial: full-width and Spanish ones (¡5!), and those behind money."""
    text = _EXCLAIMED.sub(lambda m: m[1] or "", text)
    money = "[$€£¥]" if text.count("$") == 1 else "[€£¥]"  # two dollars are LaTeX's
    return re.sub(rf"(?<={money})(\d[\d.,]*)!", r"\1", text)


def _fraction(found: re.Match[str]) -> str:
    above, _, below = unicodedata.normalize("NFKC", found[0]).partition("\N{FRACTION SLASH}")
    return rf"\frac{{{above}}}{{{below}}}"
