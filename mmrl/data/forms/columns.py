"""What the formats share: reading a text, and an answer that has another name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ANSWERS = ("answer", "solution", "original_answer")


def text_in(record: Mapping[str, Any], column: str, form: str) -> str:
    """The text of a column that the format needs. Raises ValueError for one that is missing, empty or no text."""
    value = record.get(column)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"format {form} needs `{column}`, a text that is not empty")
    return value


def answer_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """{"answer"} from the column of another name, {} where there is none or where it is there."""
    found = next((record[column] for column in ANSWERS if record.get(column) is not None), None)
    return {} if found is None else {"answer": found}
