"""What a configuration that cannot be run raises."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be run; the message says which key and what to write instead."""
