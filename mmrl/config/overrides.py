"""`key.sub=value`: one value of a configuration that was read, put in place of another."""

from __future__ import annotations

import contextlib
from typing import Any

import yaml

from mmrl.config.errors import ConfigError, near


def apply(values: dict[str, Any], override: str) -> None:
    """Put the value of `key.sub=value` into `values`; sections that are missing on the way are made.

    The value is YAML; an item of a list is named by its index, `name` or `kind`. Raises ConfigError where there is no
    such item, or where a value stands in the way.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected key.sub=value")
    *path, last = key.split(".")
    place: Any = values
    for part in path:
        place = place[_index(place, part, key)] if isinstance(place, list) else place.setdefault(part, {})
        if not isinstance(place, dict | list):
            raise ConfigError(f"override {key!r}: {part!r} is a value, not a section")
    parsed = yaml.safe_load(text)
    if isinstance(parsed, str):  # YAML 1.1 reads 1e-4 as text
        with contextlib.suppress(ValueError):
            parsed = float(parsed)
    if isinstance(place, list):
        place[_index(place, last, key)] = parsed
    else:
        place[last] = parsed


def _index(items: list[Any], part: str, key: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    names = [str(item.get("name") or item.get("kind")) if isinstance(item, dict) else "" for item in items]
    if part in names:
        return names.index(part)
    raise ConfigError(f"override {key!r}: no item {part!r}; there are {near(part, names)} (or 0..{len(items) - 1})")
