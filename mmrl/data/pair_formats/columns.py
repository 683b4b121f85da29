"""What the formats of pairs share: answers and pictures that must be there, and ids that do not tell records apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BETTER_FIRST = [1.0, 0.0]


def reply_in(record: Mapping[str, Any], column: str, form: str) -> str:
    """The answer in a column, which may be an empty text. Raises ValueError for one that is missing or no text."""
    value = record.get(column)
    if not isinstance(value, str):
        found = "it is missing" if value is None else f"it is {type(value).__name__}"
        raise ValueError(f"format {form} needs `{column}`, a text; {found}")
    return value


def shown_in(record: Mapping[str, Any], column: str, form: str) -> Any:
    """The picture in a column. Raises ValueError where there is none."""
    if record.get(column) is None:
        raise ValueError(f"format {form} needs `{column}`, a picture; it is missing")
    return record[column]


def set_apart(record: Mapping[str, Any], column: str = "id") -> dict[str, Any]:
    """{"id": None, "source_id"}: where several records of a benchmark have one id, its number tells a record apart."""
    return {"id": None, "source_id": record.get(column)}
