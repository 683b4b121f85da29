"""What a configuration that cannot be run raises."""

from __future__ import annotations

from mmrl.near import near


class ConfigError(ValueError):
    """A configuration that cannot be run; the message says which key and what to write instead."""


__all__ = ["ConfigError", "near"]
