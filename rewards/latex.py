"""LaTeX as plain text: what is compared as text, and what numbers and expressions are read from."""

from __future__ import annotations

import re

from .signs import ascii_signs

LONGEST = 4000  # characters of a text that holds LaTeX; more is no answer
_WORDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|texttt|mathrm|mathbf|mathit|mathsf|mathbb|operatorname|boxed|fbox|mbox|bold|bm)"
    r"\s*\{([^{}]*)\}"
)
_SMALL = re.compile(
    r"\\[,;:! ]|~|\\(?:left|right|displaystyle|textstyle|limits|quad|qquad|big|Big|bigg|Bigg)(?![a-zA-Z])"
)
_FENCES = re.compile(r"(?<!\\)\$|\\[()\[\]]")
_SIGNS = {
    r"times|cdot|ast": "*",
    r"div": "/",
    r"pm": "±",
    r"leq?|leqslant": "≤",
    r"geq?|geqslant": "≥",
    r"neq?": "≠",
    r"approx|simeq": "≈",
    r"pi": "π",
    r"infty": "∞",
    r"cup": "∪",
    r"cap": "∩",
    r"degree": "°",
    r"to|rightarrow": "→",
}
_COMMAND = re.compile("|".join(rf"(\\(?:{names})(?![a-zA-Z]))" for names in _SIGNS))
_PLAIN_OF = tuple(_SIGNS.values())
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_ROOT = re.compile(r"\\sqrt\s*(?:\{([^{}]*)\}|(\d))")
_DEGREES = re.compile(r"\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})")
_RAISED = re.compile(r"([\^_])\s*\{\s*(\w|-?\d+)\s*\}")
_INDEX = re.compile(r"(?<=[A-Za-z])_(?=\d)")
_ATOM = re.compile(r"-?[\w.]+|\(.*\)|√\w+", re.DOTALL)
_AROUND_SIGNS = re.compile(r"\s*([-+*/=^<>≤≥≠≈±,;:(){}\[\]])\s*")


def plain_text(text: str) -> str:
    """The text with LaTeX's commands as plain signs: \\frac{1}{2} as 1/2, 50\\% as 50%, H_2O as H2O, \\text{x} as x.

    White space beside signs is left out where there is a digit; what is not known stays as it is. Two texts that are
    written alike in LaTeX and without it become equal. A text of over 4000 characters stays as it is.
    """
    if len(text) > LONGEST:
        return text
    text = ascii_signs(text)
    if any(sign in text for sign in "\\$^_~"):
        text = without_fractions(_unwrapped(text), bare=True)
        text = _RAISED.sub(r"\1\2", text.replace("{,}", ","))
        text = re.sub(r"\\([%$&#_{}])", r"\1", _INDEX.sub("", text))
    text = re.sub(r"[×·]", "*", text).replace("÷", "/")
    if any(c.isdigit() for c in text):
        text = _AROUND_SIGNS.sub(r"\1", text)
    return text.strip()


def without_fractions(text: str, bare: bool = False) -> str:
    """\\frac{a}{b} as ((a)/(b)), from the inside out; \\sqrt{a} as √(a). bare: without brackets that say nothing."""

    def fraction(found: re.Match[str]) -> str:
        above, below = found[1] or found[2] or "", found[3] or found[4] or ""
        if bare:
            return "/".join(one if _ATOM.fullmatch(one) else f"({one})" for one in (above.strip(), below.strip()))
        return f"(({above})/({below}))"

    while text != (text := _FRACTION.sub(fraction, _ROOT.sub(_root, text))):
        if len(text) > 2 * LONGEST:
            break
    return text


def arithmetic(text: str) -> str:
    """A calculation as Python writes it: \\left(8 - 3\\right) \\times \\frac{4}{2} as (8 - 3) * ((4)/(2))."""
    text = without_fractions(_unwrapped(ascii_signs(text)))
    text = re.sub(r"[×·]|(?:(?<=[1-9)\]}])|(?<=\d0)|(?<=[\d)\]}]) )[xX] ?(?=[\d(\[{])", "*", text).replace("÷", "/")
    return text.translate(_ROUND)


def _root(found: re.Match[str]) -> str:
    inside = (found[1] or found[2] or "").strip()
    return f"√{inside}" if inside.isalnum() else f"√({inside})"


_ROUND = str.maketrans("[]{}", "()()")


def _unwrapped(text: str) -> str:
    """Without what only sets the type: dollars, spaces, \\text{}, \\left; commands of one sign as this sign."""
    if text.count("$") - text.count("\\$") != 1:  # one alone is money
        text = _FENCES.sub("", text)
    text = _DEGREES.sub("°", _SMALL.sub(lambda m: "" if m[0] in ("\\,", "\\!") else " ", text))
    text = _COMMAND.sub(lambda m: _PLAIN_OF[(m.lastindex or 1) - 1], text)
    for _ in range(3):
        text = _WORDS.sub(r"\1", text)
    return text
