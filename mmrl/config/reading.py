"""A config from a file, a shipped name or a mapping, with overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mmrl.config.errors import ConfigError, near
from mmrl.config.overrides import apply
from mmrl.config.run import Config
from mmrl.config.validation import validate
from mmrl.share import resolve, share


def load(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Config:
    """Read a config and apply overrides.

    source: a mapping, a YAML file, or the name of a shipped config ("image/tiny").
    overrides: "key.sub=value" strings; the value is YAML; a stage is named by its index or its name.
    Raises ConfigError with one line per problem.
    """
    values = dict(source) if isinstance(source, Mapping) else _read_yaml(source)
    values = yaml.safe_load(yaml.safe_dump(values))  # a deep copy that shares nothing with the caller
    for override in overrides:
        apply(values, override)
    return validate(Config, values)


def _read_yaml(source: str | Path) -> dict[str, Any]:
    path = resolve(str(source))
    if not path.exists():
        shipped = share("configs") / f"{source}"
        path = next((p for p in (shipped, shipped.with_suffix(".yaml")) if p.is_file()), path)
    if not path.is_file():
        names = [str(p.relative_to(share("configs")).with_suffix("")) for p in share("configs").rglob("*.yaml")]
        raise ConfigError(
            f"no config {str(source)!r}: neither a file nor one of the shipped {near(str(source), names)}"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, got {type(values).__name__}")
    return values
