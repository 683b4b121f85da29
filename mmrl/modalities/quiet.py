"""Model libraries without a voice of their own, where mmrl says it in a line, once."""

from __future__ import annotations

import importlib
import logging
import os

# diffusers, for every prompt of every batch; the adapter warns once.
TRUNCATED = "The following part of your input was truncated"


def quiet(*libraries: str) -> None:
    """No bars of these libraries (transformers, diffusers) for what they load, which would fight with the run's, no
    reports of transformers, and nothing that the adapters say; downloads still show their bars, and a verbosity that
    the environment asks for stays."""
    for library in libraries:
        voice = importlib.import_module(f"{library}.utils.logging")
        voice.disable_progress_bar()
        if library == "transformers" and "TRANSFORMERS_VERBOSITY" not in os.environ:
            voice.set_verbosity_error()
        for handler in logging.getLogger(library).handlers:
            if _told not in handler.filters:
                handler.addFilter(_told)


def _told(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(TRUNCATED)
