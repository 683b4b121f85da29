"""Numbers and names as a person reads them."""

from __future__ import annotations

import math
import re

from markupsafe import Markup, escape


def number(value: float | None) -> str:
    """Three decimals, or three significant digits when that would say too little or too much; – for None."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size == 0 or 0.01 <= size < 1000:
        text = f"{size:.3f}"
    elif 0.001 <= size < 0.01:
        text = f"{size:.5f}"
    else:
        text = f"{size:,.0f}" if 1000 <= size < 1e6 else f"{size:.2e}"
    return f"−{text}" if value < 0 else text


def signed(value: float | None) -> str:
    """`number` with its sign, a true minus."""
    if value is None or not math.isfinite(value):
        return "–"
    return number(value) if value < 0 else "+" + number(value)


def clip(text: str, limit: int) -> str:
    """The text, cut at `limit` characters with a count of what is left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def breakable(name: str) -> Markup:
    """A name, escaped, that a narrow column breaks behind its dots, slashes and underscores."""
    return Markup(re.sub(r"(?<=[._/])(?=[^._/])", "<wbr>", str(escape(name))))
