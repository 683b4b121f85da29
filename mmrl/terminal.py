"""What a command prints: once, however many processes run it, and in words of mmrl's own."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click

from mmrl.launched import is_main

_HERE = str(Path(__file__).resolve().parent)
_INSTALLED = ("site-packages", "dist-packages")


def say(text: str) -> None:
    """Print a line, on one of several processes."""
    if is_main():
        click.echo(text)


@contextmanager
def own_warnings() -> Iterator[None]:
    """Warnings of mmrl, and of a user's own files, become a line `warning: ...` on stderr, once; those of installed
    libraries are left out unless Python was asked for them (`-W`, PYTHONWARNINGS)."""
    if sys.warnoptions:
        yield
        return
    with warnings.catch_warnings():
        warnings.showwarning = _show
        yield


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    ours = os.path.abspath(filename).startswith(_HERE)
    installed = any(part in _INSTALLED for part in Path(filename).parts) or filename.startswith(sys.prefix + os.sep)
    if (
        is_main()
        and (ours or not installed)
        and not issubclass(category, DeprecationWarning | FutureWarning | ResourceWarning)
    ):
        click.echo(f"warning: {message}", err=True)
