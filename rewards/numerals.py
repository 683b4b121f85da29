"""Numerals as texts and LaTeX write them, as Python does: what number.py reads numbers from."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from .signs import ascii_signs, without_exclamations

MOST = 1000  # digits and exponents: 1e999999999 would fill the memory

# -------------------------------------------------------------------- LaTeX's numbers

_PLAIN = r"-?\d+(?:\.\d+)?"
_IN_BRACES = rf"\{{\s*({_PLAIN})\s*\}}"
_TABLE = re.compile(r"\\begin\{(\w*matrix|array|cases)\}.*?\\end\{\1\}", re.DOTALL)
_TABLE_OPENED = re.compile(r"\\begin\{(?:\w*matrix|array|cases)\}.*", re.DOTALL)
_SPACES = re.compile(r"\\(?:left|right|displaystyle|textstyle|quad|qquad)(?![a-zA-Z])|\\[,;: ]|~")
_SIGNS = {"times|cdot|ast": "*", "approx|simeq": "≈", "sim": " ", "pm|mp": "±", "div": "÷", "to|rightarrow": " → "}
_COMPARED = re.compile(r"\\(?:leq?|geq?|leqslant|geqslant|neq?|lt|gt)(?![a-zA-Z])")
_COMMANDS = [(re.compile(rf"\\(?:{names})(?![a-zA-Z])"), sign) for names, sign in _SIGNS.items()]
_WORDS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textrm|mathit|operatorname|boxed|fbox|mbox)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})")
_REPEATING = re.compile(r"(?<![\w.])(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{(\d+)\}")
_SCIENTIFIC = re.compile(
    rf"(?<![\w.])({_PLAIN})\s*(?:×|·|\*|[xX])\s*10\s*(?:\^|\*\*)\s*(?:\{{\s*([-+]?\d+)\s*\}}|([-+]?\d+))"
)
_FRACTION = re.compile(rf"(?:(?<![\w.}}])(\d+)\s*)?\\[dtc]?frac\s*(?:{_IN_BRACES}|(\d))\s*(?:{_IN_BRACES}|(\d))")
_POWER = re.compile(r"(?<![\w.)\]}])(\d+)\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\d+)\s*\}|([-+]?\d+))(?!\s*[\^_])")
# `**` and `_` with a base before them are a power and an index.
_EMPHASIS = re.compile(r"(?<![\w)\]}*\\])(\*{2,3}|_{1,3})(?=[^\s*_{])([^\n]*?[^\s*_])\1(?!\w)")
_EMPHASIS_OPENED = re.compile(r"(?<![\w)\]}*])\*\*(?=[^\s*])")
# What is no number though it holds digits: roots, logarithms, indices, powers of names.
_APPLIED = re.compile(
    r" {0,2}\\?(?<![A-Za-z])(?:sqrt|cbrt|log|ln|lg|exp|arc(?:sin|cos|tan)|sin|cos|tan|cot|sec|csc)"
    r"(?:\s?\[[^\[\]]{0,99}\])?(?:\s?_\s?(?:\{[^{}]{0,99}\}|\d+|\w))?(?:\^\{?-?\d\}?)?"
    r"\s?(?:\{[^{}]{0,99}\}|\([^()]{0,99}\)|-?\d[\d.]*(?:\^\\circ|°)?|[A-Za-z](?![A-Za-z]))"
    r"| {0,2}\\?(?<![A-Za-z])(?:gcd|lcm|min|max|det)\s?\([^()]{0,99}\)"
)
_CONSTANT = re.compile(r" {0,2}\\(?:pi|theta|infty|phi|varphi|alpha|beta|gamma|lambda|tau)(?![a-zA-Z])")
_OTHER = re.compile(
    r"\\[a-zA-Z]+(?:\s*\[[^\[\]]*\])?(?:\s*_?\{[^{}]*\})*|[\^_]\s*(?:\{[^{}]*\}|[-+]?\w+)|\*\*\s*[-+]?\d+"
)
_OF_OTHER = re.compile(r"\?(?:\s*\{[^{}]*\})+")

# -------------------------------------------------------------------- numbers of texts

_DASH = re.compile(r"\N{EN DASH}(?=\s*[\\{$€£¥.\d])")
# A sign's minus: nothing stands before that it could be taken from, only a currency or a brace before the number.
_SIGN = re.compile(r"(?<![\w)\]}?])-\s?(?:\\?[$€£¥]\s*|\{\s*)(?=[.\d])")
_SIGN_APART = re.compile(r"(?:^|[=({:≈]|\b(?:is|equals)\b)\s*(?:\$\s*)?-\s+(?=[.\d][\d.,/]*%?[\W_]*$)")
_SYMBOL = re.compile(r" {0,2}(?:√ ?(?:\([^()]{0,99}\)|\{[^{}]{0,99}\}|\d+)|[π√∞]|(?<![A-Za-z\\])pi(?![A-Za-z]))")
# A whole number with ! is a factorial; 3.5! and 1,000! are exclamations. The second kind cannot be told or worked out.
_FACTORIAL = re.compile(
    r"(?<![\w.,^!)\]}/])(\d{1,3})(?:(?:\\[,;:])?!(?![!\w(=])| factorial\b)"
    r"|(?<![\d.,])\d+!+(?![!=])|\(\s*\d+\s*(?:\\right\s*)?\)!(?!=)|\bfactorial of \d+",
    re.ASCII,
)
_FACTORIAL_IS = re.compile(r"(?<![\w.,^!)\]}/])(\d{1,2})!=(?=\s*(\d+)(?![\d.,]))", re.ASCII)  # and not "is not"
_LARGEST_FACTORIAL = 400
# Calculations in words and brackets: 17 mod 5, 5 choose 2, 5C2, ⌊2.5⌋.
_SIZE = re.compile(r"([^|]*)\|\s*-\s*(\d+(?:\.\d+)?)\s*\|([^|]*)")  # of a negative number; more bars are a table
_WORKED_OUT = re.compile(
    r"(?<![\w.])\d+(?:\s*(?:\\bmod|mod|choose)(?![A-Za-z])\s*\{?\d+\}?|[CP]\d+(?!\w))"
    r"|(?:\\left\s*)?(?:[⌊⌈]|\\l(?:floor|ceil)(?![A-Za-z])).{0,60}?(?:[⌋⌉]|\\r(?:floor|ceil)(?![A-Za-z]))"
)
_MARKUP = re.compile(r"</?[A-Za-z][^<>]{0,40}>|^\s*>\s")
# Names, units and formulas with digits: x2, cm2, H2O; but 1e5.
_NAME = re.compile(r"(?:(?<=\d)(?![eE][-+]?\d)|(?<![A-Za-z\d\\]))[A-Za-z]+\d\w*", re.ASCII)
_CALL = re.compile(r"(?<![A-Za-z])[A-Za-z]\([^()]{0,99}\)")
_NOT_ONE = re.compile(
    r"[(\[{]\s*[-+]?[\d.?]+\s?(?:[,;]\s*[-+]?[\d.?]+\s?)+[)\]}]"  # a tuple or an interval
    r"|(?<!\d)\d++(?:\s?/\s?\d++){2,}|(?<!\d)\d{4}-\d\d?-\d\d?(?!\d)"  # a date
    r"|(?<!\d)\d++(?::\d++| : \d)[\d:]*"  # a time or a ratio
)
_THOUSANDS_ALONE = re.compile(r"[(\[]\d{1,3}(?:,\d{3})+[)\]]")
_CLUMP = re.compile(r"(?<![A-Za-z\d_.,'])\d+(?:[.,'’]\d+)+", re.ASCII)
_SPACED = re.compile(r"(?<![\w.,])(?<!\d )\d{1,3}(?: \d{3})+(?! ?\d)")
_MIXED = re.compile(r"(?<![\w./])(\d{1,9}) (\d{1,9}) ?/ ?(\d{1,9})(?![\d/])")
_PER_CENT = re.compile(
    r"(?<=\d) ?(?:%|(?:per ?cent|prozent|pct|por ciento|pour cent|процент\w{0,3})(?!\w))", re.IGNORECASE
)
_MINUS = re.compile(r"\b(?:minus|negative)\s+(?=[.\d])", re.IGNORECASE)
_CITED = re.compile(r"(?<=\d) ?\[\d{1,2}\](?=[\s.]*$)")
_TIMES = (("thousand|tausend|тыс|千", 3), ("million(?:en|s)?|millones|Mio|млн", 6), ("万|萬", 4), ("亿|億", 8))
_TIMES += (("billion|Milliarden?|Mrd|млрд", 9), ("trillion", 12), ("hundred", 2))
_LETTERS_OF_SCALE = {"k": "e3", "K": "e3", "M": "e6", "B": "e9"}
_SCALED = re.compile(r"(?<=\d)[kKMB](?![A-Za-z\d])")
_SCALES = [(re.compile(rf"(?<=\d) ?(?:{names})(?![A-Za-z])", re.IGNORECASE), power) for names, power in _TIMES]


def readable(text: str) -> str:
    """The text with its numbers as Python writes them; ? stands for any other expression, ¤ for a name with digits."""
    text = _WORKED_OUT.sub("?", _without_factorials(without_exclamations(text)))
    text = f"{size[1]}{size[2]}{size[3]}" if (size := _SIZE.fullmatch(text)) else text
    text = _MARKUP.sub(" ", _DASH.sub("-", ascii_signs(text)))
    if any(sign in text for sign in ("\\", "^", "**", "{,}", "_", "~")):
        text = _without_latex(text)
    text = _CITED.sub("", _MINUS.sub("-", text))
    text = re.sub(r"(?<=\d)\s?[xX]\s?(?=\d)", "*", text)
    text = _CALL.sub("?", _APPLIED.sub("?", _SYMBOL.sub("?", text)))
    text = _NOT_ONE.sub(lambda m: m[0] if _THOUSANDS_ALONE.fullmatch(m[0]) else "?", _NAME.sub(" ¤", text))
    text = _SPACED.sub(lambda m: m[0].replace(" ", ""), _PER_CENT.sub("%", text))
    text = _MIXED.sub(_mixed, _CLUMP.sub(lambda m: _grouped(m[0]), text))
    text = _SCALED.sub(lambda m: _LETTERS_OF_SCALE[m[0]], text)
    for name, power in _SCALES:
        text = name.sub(f"e{power}", text)
    return _SIGN_APART.sub(lambda m: m[0].rstrip(), _SIGN.sub("-", text))


def without_repeating(text: str) -> str:
    """The text with decimals that repeat as fractions: 0.1\\overline{6} as 1/6."""
    return _REPEATING.sub(_repeating, text)


def _without_latex(text: str) -> str:
    text = _EMPHASIS_OPENED.sub("", _EMPHASIS.sub(r"\2", text))
    text = _TABLE_OPENED.sub("?", _TABLE.sub("?", text))
    text = text.replace("{,}", ",").replace("\\%", "%").replace("\\!", "")
    text = _SPACES.sub(" ", text)
    for command, sign in _COMMANDS:
        text = command.sub(sign, text)
    text = _DEGREES.sub(" ", _WORDS.sub(r" \1 ", _COMPARED.sub("≤", text)))
    text = _SCIENTIFIC.sub(lambda m: f"{m[1]}e{m[2] or m[3]}", text)
    text = _POWER.sub(lambda m: _power(m[1], m[2] or m[3]), text)
    text = without_repeating(text)
    text = _FRACTION.sub(lambda m: _fraction(m[1], m[2] or m[3], m[4] or m[5]), text)
    text = _OTHER.sub("?", _CONSTANT.sub("?", _APPLIED.sub("?", text)))
    while text != (text := _OF_OTHER.sub("?", text)):  # \frac{\sqrt{3}}{2}, from the inside
        pass
    return text


def _without_factorials(text: str) -> str:
    """5! as 120; ? for one that is too large, or in which nobody can tell what is meant: 5!!, 3!2!."""
    if "!" not in text and "factorial" not in text:
        return text
    text = _FACTORIAL_IS.sub(lambda m: f"{m[2]} = " if math.factorial(int(m[1])) == int(m[2][:200]) else m[0], text)
    return _FACTORIAL.sub(
        lambda m: str(math.factorial(int(m[1]))) if m[1] and int(m[1]) <= _LARGEST_FACTORIAL else "?", text
    )


def _power(base: str, exponent: str) -> str:
    if len(base) * abs(int(exponent[:6])) > MOST or len(exponent) > 5 or (int(exponent) < 0 and not int(base)):
        return "?"
    return str(Fraction(base) ** int(exponent))


def _fraction(whole: str | None, above: str, below: str) -> str:
    if max(map(len, (whole or "", above, below))) > MOST or not Fraction(below):
        return "?"
    return str(int(whole or 0) + Fraction(above) / Fraction(below))


def _mixed(found: re.Match[str]) -> str:
    whole, above, below = map(int, found.groups())
    return str(whole + Fraction(above, below)) if above < below else found[0]


def _repeating(found: re.Match[str]) -> str:
    whole, fixed, again = found.groups()
    if max(map(len, found.groups())) > 30:
        return "?"
    return str(int(whole or 0) + (int(fixed or 0) + Fraction(int(again), 10 ** len(again) - 1)) / 10 ** len(fixed))


def _grouped(text: str) -> str:
    """Digits with points, commas and apostrophes between them as one number; ? where they are several."""
    if re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|[1-9]\d?(?:,\d\d)+,\d{3}(?:\.\d+)?", text):
        return text.replace(",", "")
    if re.fullmatch(r"[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:\.\d{3}){2,}", text):
        return text.replace(".", "").replace(",", ".")
    if re.fullmatch(r"[1-9]\d{0,2}(?:['’]\d{3})+(?:[.,]\d+)?", text):
        return text.replace("'", "").replace("’", "").replace(",", ".")
    return text.replace(",", ".") if re.fullmatch(r"\d+[.,]\d+", text) else "?"
