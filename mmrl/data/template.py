"""Columns that are handed to the chat template: tools, and its arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def handed_to_template(record: Mapping[str, Any]) -> dict[str, Any]:
    """{"tools", "chat_template_kwargs"} as a list of schemas and an object, which may be texts of JSON.

    Keys that hold null are left out: tables write them. Raises ValueError for what is neither.
    """
    made: dict[str, Any] = {}
    tools, text = _read(record.get("tools"), "tools"), isinstance(record.get("tools"), str)
    if isinstance(tools, Mapping) or (text and tools and not are_schemas(tools)):
        raise ValueError("`tools` must be a list of JSON schemas of functions")
    if text or are_schemas(tools):
        made["tools"] = tools if text else _dense(tools)
    arguments = _read(record.get("chat_template_kwargs"), "chat_template_kwargs")
    if arguments is not None:
        if not isinstance(arguments, Mapping):
            raise ValueError("`chat_template_kwargs` must be an object of arguments")
        made["chat_template_kwargs"] = _dense(arguments)
    return made


def are_schemas(tools: Any) -> bool:
    """Whether it is a list of objects, as functions are described; one of names is something else."""
    return isinstance(tools, list) and bool(tools) and all(isinstance(tool, Mapping) for tool in tools)


def _read(value: Any, column: str) -> Any:
    if not isinstance(value, str) or not value.strip():
        return None if isinstance(value, str) else value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(f"`{column}` is a text that is no JSON: {value:.60}") from None


def _dense(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _dense(inner) for key, inner in value.items() if inner is not None}
    return [_dense(inner) for inner in value] if isinstance(value, list) else value
