"""`key.sub=value`: one value of a configuration that was read, put in place of another."""

from __future__ import annotations

from typing import Any

from mmrl.config.errors import ConfigError
from mmrl.config.markup import parse
from mmrl.near import near, short


def read(override: str) -> tuple[str, Any]:
    """(key, value) of `key.sub=value`, whose value is YAML. Raises ConfigError for a text that is none."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {short(override)}: expected key.sub=value")
    return key, parse(text, f"override {short(key)}")


def apply(values: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at `key` into `values`; sections that are missing, or null, on the way are made.

    An item of a list is named by its index, `name` or `kind`. Raises ConfigError where there is no such item, or where
    a value stands in the way.
    """
    *path, last = key.split(".")
    place: Any = values
    for part in path:
        if isinstance(place, list):
            place = place[_index(place, part, key)]
        else:
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        if not isinstance(place, dict | list):
            raise ConfigError(f"override {short(key)}: {short(part)} is a value, not a section")
    if isinstance(place, list):
        place[_index(place, last, key)] = value
    else:
        place[last] = value


def _index(items: list[Any], part: str, key: str) -> int:
    for number in range(len(items)):
        if part == str(number):
            return number
    names = [str(item.get("name") or item.get("kind")) if isinstance(item, dict) else "" for item in items]
    if part in names:
        return names.index(part)
    there = f"there are {near(part, names)} (or 0..{len(items) - 1})" if items else "the list is empty"
    raise ConfigError(f"override {short(key)}: no item {short(part)}; {there}")
