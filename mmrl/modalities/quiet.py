"""Model libraries without bars of their own: those for every file of a checkpoint would fight with the run's."""

from __future__ import annotations

import importlib


def no_bars(*libraries: str) -> None:
    """No bars of these libraries (transformers, diffusers) for what they load; downloads still show theirs."""
    for library in libraries:
        importlib.import_module(f"{library}.utils.logging").disable_progress_bar()
