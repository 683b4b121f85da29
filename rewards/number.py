"""Numbers as texts and LaTeX write them, read exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from .signs import ascii_signs

_LONGEST = 4000  # characters; a number that stands before the last so many is no final answer
_MOST = 1000  # digits and exponents: 1e999999999 would fill the memory
_NEAR = 60  # characters around a number that say what it belongs to

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
_SYMBOL = re.compile(r" {0,2}(?:√ ?(?:\([^()]{0,99}\)|\{[^{}]{0,99}\}|\d+)|[π√∞])")
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
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}?])[-+])?(?<!\?)(?<!\?/)(?<!\d)"
    r"(?:\d++(?:\.\d++)?|\.\d++)(?:[eE][-+]?\d++)?(?: ?/ ?\d++)?%?(?![\d)\]}]*\?)",
    re.ASCII,
)
_EQUALS = re.compile(r"(?<![<>!=:])=(?![=>])|≈")
_CARDINALS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_CALCULATION = re.compile(r"[\d\s()+*/×·÷.,?!$%-]+")
_ENDS_IN_ONE = re.compile(r"\d%?[\s$*]*$")

# -------------------------------------------------------------------- what a number belongs to

_JOINS = r"(?:, ?(?:or|and)\b|\b(?:or|and|to|oder|und|bis|ou|et|o|y|e|или|и)\b|[或和至到~±/|&,;–—-])"
_HEDGE = r"(?:\s*\b(?:maybe|perhaps|possibly|probably|even|vielleicht|peut-être|quizás)\b)?"
_LISTED = re.compile(rf"(?:[\s$]*{_JOINS}{_HEDGE}[\s$*({{]*(?:[A-Za-z]\??\s*=\s*)?|[\s$]+)\$?")
_LISTED_AFTER_OTHER = re.compile(rf"\?[\s$]*{_JOINS}[\s$]*(?:[A-Za-z]\??\s*=\s*)?$")
_UNITS = r"(?:h|hrs?|hours?|min|minutes?|ft|feet|foot|km|cm|m|kg|lbs?|pounds?|days?|weeks?|years?|months?|°|')"
_COMPOUND = re.compile(rf"\s{{0,3}}{_UNITS}\s*(?:and\s*|,\s*)?")
_DENIED = re.compile(
    r"(?:(?:\b(?:not|cannot|never|rather than|instead of|nicht|keine?|pas|не)|n['’]t)\s+(?:be\s+|the\s+|equal to\s+)?"
    r"|不(?:是|等于)|ではなく)[\s$*({]*$",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(r"\s*(?:or|oder|ou|o|或)\b")
_WHOLE_OF = re.compile(r"\d%? (?:out )?of (?:the |all )?$")
_LESS_OR_MORE = re.compile(
    r"(?:(?<![-=])>|<(?!-)|[≤≥≠±]|[<>!]=|\b(?:less|more|fewer|greater|larger|smaller|higher|lower|other) than"
    r"|\bat (?:least|most)|\bup to)[\s$*]*$",
    re.IGNORECASE,
)
_KNOWN = re.compile(r"\d[^.!?]* (?:in|of|for|from|among|across|with) (?:the|all|these|those|his|her|their|both|its) $")
_WHEN = re.compile(r"\d[^.!?]* (?:in|after|within|during|since|until|for) $")
_LABEL = re.compile(r"\b(?:step|question|problem|part|example|case|exercise|task) $", re.IGNORECASE)
_TERM_BEFORE = re.compile(r"[-+*/^\d)] ?[(\[]\s*$|(?:[\d)\]}?%¤]|(?<![A-Za-z])[A-Za-z]) ?[-+*/^×·÷][\s{$]*$")
_TERM_BEFORE_SIGN = re.compile(r"(?<![A-Za-z])[A-Za-z)?¤] +$")
_TERM_AFTER = re.compile(
    r"\s?(?:[-+*/×·÷]|\^)\s*(?:[\d(?]|(?![aAI] )[A-Za-z](?![A-Za-z]))|[abinpqrxyz](?![A-Za-z])|!(?=\s*[*/)+])"
)


def number_in(text: str | None) -> Fraction | None:
    """The last number in `text`, exactly: 1,234.5, -3, 3/4, 1e-3, 12% (as 12/100), 3 million; None where there is none.

    Of LaTeX: \\frac{3}{4}, 2\\frac{1}{2}, 10^{5}, 1.6\\times 10^{-19}, 1{,}234. A part of another expression is none
    (2\\sqrt{3}, x^2, 2x + 3, 10:30), nor is one of several (3 or 5, (3, 5), 5 ± 1), one that is compared (x > 5) or
    denied (not 5). Of an equation it is the last side, or else one that is a number: 8 in "7 + 1 = 8" and "8 = 7 + 1".
    Markdown's emphasis (**18**) is left out.

    A point or a comma is a decimal one, but for a comma before three digits: 1,234 is 1234, and 3,14 is 3.14. Where
    both occur the last is the decimal one (1.234,5). 1.234.567, 1 234 and 1'234 are thousands, 1,2,3 is a list.
    """
    text = _without_remark(_readable((text or "")[-_LONGEST:]))
    sides = [span for span in _sides(text) if any(c.isdigit() or c == "?" for c in text[slice(*span)])]
    if not sides:
        bare = text.strip(" .!*$_\n").lower()
        return Fraction(_CARDINALS.index(bare)) if bare in _CARDINALS else None
    found = _last(text, *sides[-1])
    if found is not None or not _CALCULATION.fullmatch(text[slice(*sides[-1])]):
        return found
    results = (_last(text, *side) for side in reversed(sides[:-1]) if _ENDS_IN_ONE.search(text[slice(*side)]))
    return next((number for number in results if number is not None), None)


def numbers_named(text: str) -> bool:
    """Whether any number stands in the text, be it a part of a list or of a calculation."""
    return number_in(text) is not None or _NUMBER.search(_readable(text[-_LONGEST:])) is not None


def without_repeating(text: str) -> str:
    """The text with decimals that repeat as fractions: 0.1\\overline{6} as 1/6."""
    return _REPEATING.sub(_repeating, text)


def _last(text: str, start: int, end: int) -> Fraction | None:
    """The last number of text[start:end] that is not denied; None where it is a part of something else."""
    tokens = list(_NUMBER.finditer(text, max(0, start - _NEAR), end))
    for place in reversed(range(len(tokens))):
        token = tokens[place]
        before, after = text[max(0, token.start() - _NEAR) : token.start()], text[token.end() : token.end() + _NEAR]
        if token.start() < start:
            return None
        if any(p.search(before) for p in (_DENIED, _WHOLE_OF, _KNOWN)):
            continue
        if _LABEL.search(before) and after[:1] in (":", ")"):
            continue
        if _TERM_AFTER.match(after) or any(p.search(before) for p in (_LESS_OR_MORE, _WHEN, _TERM_BEFORE)):
            return None
        if token[0][0] in "+-" and _TERM_BEFORE_SIGN.search(before):
            return None
        number = _value(token[0])
        if _LISTED_AFTER_OTHER.search(before):
            return None
        if place:
            between = text[tokens[place - 1].end() : token.start()]
            if (_LISTED.fullmatch(between) and _value(tokens[place - 1][0]) != number) or _COMPOUND.fullmatch(between):
                return None
        return number
    return None


def _value(token: str) -> Fraction | None:
    number, percent = token.rstrip("%"), token.endswith("%")
    above, _, below = number.replace(" ", "").partition("/")
    if len(number) > _MOST or (below and not int(below)):
        return None
    exponent = re.search(r"[eE]([-+]?\d+)$", above)
    if exponent and abs(int(exponent[1])) > _MOST:
        return None
    return Fraction(above) / int(below or 1) / (100 if percent else 1)


def _sides(text: str) -> Iterator[tuple[int, int]]:
    """Where the sides of an equation are, or all of the text."""
    start = 0
    for sign in _EQUALS.finditer(text):
        yield start, sign.start()
        start = sign.end()
    yield start, len(text)


# -------------------------------------------------------------------- what is read as what


def _readable(text: str) -> str:
    """The text with its numbers as Python writes them; ? stands for any other expression, ¤ for a name with digits."""
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


def _power(base: str, exponent: str) -> str:
    if len(base) * abs(int(exponent[:6])) > _MOST or len(exponent) > 5 or (int(exponent) < 0 and not int(base)):
        return "?"
    return str(Fraction(base) ** int(exponent))


def _fraction(whole: str | None, above: str, below: str) -> str:
    if max(map(len, (whole or "", above, below))) > _MOST or not Fraction(below):
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


def _without_remark(text: str) -> str:
    """The text without words in brackets at its end that explain a number before: "7 (see step 2)", not "7 (or 8)"."""
    bare = text.rstrip(" .!*$\n")
    start = bare.rfind("(")
    if not bare.endswith(")") or start < 1 or not bare[start - 1].isspace() or _ALTERNATIVE.match(bare, start + 1):
        return text
    explains = any(c.isalpha() or c == "=" for c in bare[start:])
    return text[:start] if explains and any(c.isdigit() for c in text[:start]) else text
