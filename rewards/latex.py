"""Numbers as texts and LaTeX write them, read exactly."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(
    r"(?:(?<![\w)\]}?])[-+])?(?<!\?)(?<!\?/)"
    r"(?:(?:\d+(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?: ?/ ?\d+)?%?(?![\d)\]}]*\?)",
    re.ASCII,
)
_LONGEST = 4000  # characters of a text that holds LaTeX; more is no answer
_MOST = 1000  # digits and exponents: 1e999999999 would fill the memory
_PLAIN = r"-?\d+(?:\.\d+)?"
_IN_BRACES = rf"\{{\s*({_PLAIN})\s*\}}"
_SPACES = re.compile(r"\\(?:left|right|displaystyle|quad|qquad|approx|times|cdot|le|leq|ge|geq|ne|neq|sim)(?![a-zA-Z])")
_WORDS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textrm|operatorname|boxed|fbox)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})")
_SCIENTIFIC = re.compile(
    rf"(?<![\w.])({_PLAIN})\s*(?:\\times|\\cdot|×|·|\*)\s*10\s*(?:\^|\*\*)\s*(?:\{{\s*([-+]?\d+)\s*\}}|([-+]?\d+))"
)
_FRACTION = re.compile(rf"(?:(?<![\w.}}])(\d+)\s*)?\\[dtc]?frac\s*(?:{_IN_BRACES}|(\d))\s*(?:{_IN_BRACES}|(\d))")
_POWER = re.compile(r"(?<![\w.)\]}])(\d+)\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\d+)\s*\}|([-+]?\d+))(?!\s*[\^_])")
# `**` and `_` with a base before them are a power and an index.
_EMPHASIS = re.compile(r"(?<![\w)\]}*\\])(\*{2,3}|_{1,3})(?=[^\s*_{])([^\n]*?[^\s*_])\1(?!\w)")
_EMPHASIS_OPENED = re.compile(r"(?<![\w)\]}*])\*\*(?=[^\s*])")
_DASH = re.compile(r"[\N{MINUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}]|\N{EN DASH}(?=\s*[\\{$€£¥.\d])")
# A sign's minus: nothing stands before that it could be taken from, only a currency or a brace before the number.
_SIGN = re.compile(r"(?<![\w)\]}?])-\s?(?:\\?[$€£¥]\s*|\{\s*)(?=[.\d])")
_SIGN_APART = re.compile(r"(?:^|[=({:≈]|\b(?:is|equals)\b)\s*(?:\$\s*)?-\s+(?=[.\d][\d.,/]*%?[\W_]*$)")
# What is no number though it holds digits: roots, logarithms, indices, powers of names.
_OTHER = re.compile(
    r"\\[a-zA-Z]+(?:\s*\[[^\[\]]*\])?(?:\s*_?\{[^{}]*\})*|[\^_]\s*(?:\{[^{}]*\}|[-+]?\w+)|\*\*\s*[-+]?\d+"
)

_OF_OTHER = re.compile(r"\?(?:\s*\{[^{}]*\})+")
_SYMBOL = re.compile(r" {0,2}(?:√ ?(?:\([^()]{0,99}\)|\{[^{}]{0,99}\})|[π√∞])")
# Names, units and formulas with digits: x2, cm2, H2O; but 1e5.
_NAME = re.compile(r"(?:(?<=\d)(?![eE][-+]?\d)|(?<![A-Za-z\d\\]))[A-Za-z]+\d\w*", re.ASCII)


def number_in(text: str | None) -> Fraction | None:
    """The last number in `text`, exactly: 1,234.5, -3, 3/4, 1e-3, 12% (as 12/100); None where there is none.

    Of LaTeX: \\frac{3}{4}, 2\\frac{1}{2}, 10^{5}, 1.6\\times 10^{-19}, 1{,}234. A part of another expression is none
    (2\\sqrt{3}, x^2, a_1). Markdown's emphasis (**18**) is left out.
    """
    text = _DASH.sub("-", text or "")
    if any(sign in text for sign in ("\\", "^", "**", "{,}", "_")):
        text = _plain(text[-_LONGEST:])
    text = _NAME.sub(" ?", _SYMBOL.sub("?", text))
    text = _SIGN_APART.sub(lambda m: m[0].rstrip(), _SIGN.sub("-", text))
    found = _NUMBER.findall(text)
    if not found:
        return None
    number, percent = found[-1].rstrip("%"), found[-1].endswith("%")
    above, _, below = number.replace(",", "").replace(" ", "").partition("/")
    if len(number) > _MOST or (below and not int(below)):
        return None
    exponent = re.search(r"[eE]([-+]?\d+)$", above)
    if exponent and abs(int(exponent[1])) > _MOST:
        return None
    return Fraction(above) / int(below or 1) / (100 if percent else 1)


def _plain(text: str) -> str:
    """The text with LaTeX's numbers written plainly; a question mark stands for any other expression."""
    text = _EMPHASIS_OPENED.sub("", _EMPHASIS.sub(r"\2", text))
    text = text.replace("{,}", ",").replace("\\%", "%")
    text = re.sub(r"\\[,!;:]", "", text)
    text = _WORDS.sub(r" \1 ", text)
    text = _DEGREES.sub(" ", text)
    text = _SCIENTIFIC.sub(lambda m: f"{m[1]}e{m[2] or m[3]}", text)
    text = _POWER.sub(lambda m: _power(m[1], m[2] or m[3]), text)
    text = _FRACTION.sub(lambda m: _fraction(m[1], m[2] or m[3], m[4] or m[5]), text)
    text = _SPACES.sub(" ", text)
    text = _OTHER.sub("?", text)
    while text != (text := _OF_OTHER.sub("?", text)):  # \frac{\sqrt{3}}{2}, from the inside
        pass
    return text


def _power(base: str, exponent: str) -> str:
    if len(base) * abs(int(exponent[:6])) > _MOST or len(exponent) > 5 or (int(exponent) < 0 and not int(base)):
        return "?"
    return str(Fraction(base) ** int(exponent))


def _fraction(whole: str | None, above: str, below: str) -> str:
    if max(map(len, (whole or "", above, below))) > _MOST or not Fraction(below):
        return "?"
    return str(int(whole or 0) + Fraction(above) / Fraction(below))
