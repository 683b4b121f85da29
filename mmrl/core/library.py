"""Every registry of the core by the field of Algorithm that names its functions; imported only when asked."""

from __future__ import annotations

import importlib

from mmrl.core.algorithm import Algorithm
from mmrl.core.registry import Hook, Registry

# Field of Algorithm -> module of mmrl.core, registry in it.
PLACES: dict[str, tuple[str, str]] = {
    "advantage": ("advantage", "ESTIMATORS"),
    "gate": ("gate", "GATES"),
    "tame": ("tame", "TAMERS"),
    "shape": ("shape", "SHAPERS"),
    "filters": ("filter", "FILTERS"),
    "action_weights": ("weight", "WEIGHTS"),
    "action_masks": ("weight", "MASKS"),
    "correction": ("correction", "CORRECTIONS"),
    "terms": ("terms", "TERMS"),
}


def registry(field: str) -> Registry:
    """The registry behind a field of Algorithm ("gate", "terms" ...)."""
    module, name = PLACES[field]
    found: Registry = getattr(importlib.import_module(f"mmrl.core.{module}"), name)
    return found


def registries() -> dict[str, Registry]:
    """All registries, by field."""
    return {field: registry(field) for field in PLACES}


def hooks(algorithm: Algorithm) -> list[tuple[Registry, Hook]]:
    """Every hook of the algorithm with its registry: what mmrl.core.registry.prepared takes."""
    return [(registry(field), hook) for field, hook in algorithm.hooks]


def check_hooks(algorithm: Algorithm) -> None:
    """Raise ValueError, in one line that names the option and the fix, for a hook that cannot be used."""
    for found, hook in hooks(algorithm):
        found.check(hook)


def needs(algorithm: Algorithm) -> set[str]:
    """Names of the features and columns that the batch must have for this algorithm."""
    return {name for found, hook in hooks(algorithm) for name in found.check(hook).needs}
