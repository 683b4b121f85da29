"""Packages that a config needs and that may not be installed, asked for before anything is loaded."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

from mmrl.config import Config, ConfigError
from mmrl.training.processes import check_trackers


def check_packages(config: Config) -> None:
    """Raise ConfigError, with the command that installs it, for an optional package that is missing.

    Rewards, data and modalities say so themselves where they are loaded.
    """
    check_trackers(config.trackers)
    for option, package, command in _needed(config):
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            raise ConfigError(f"{option} needs the package {package!r}: {command}")


def _needed(config: Config) -> Iterator[tuple[str, str, str]]:
    """(option, its package, the command) of what is imported when the first completion is sampled, or later."""
    model = config.model
    engine = getattr(model, "engine", None)
    if engine is not None and engine.name == "vllm" and engine.options.get("mode", "colocated") == "colocated":
        yield "model.engine.name=vllm", "vllm", 'pip install "mmrl[vllm]"'
    if getattr(model, "attention", None) == "flash_attention_2":
        yield "model.attention=flash_attention_2", "flash_attn", "pip install flash-attn"
