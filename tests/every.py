"""`@every`: a table of quick rows as one test that tells each row that fails."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest


def every(names: str | Sequence[str], rows: Iterable[Any], ids: Iterable[Any] | Callable | None = None) -> Callable:
    """What `pytest.mark.parametrize` does, for rows of microseconds: a test costs milliseconds, whatever it does.

    Rows of one name are values, of several are tuples; a `pytest.param` gives its row an id. Stacked decorators make
    the product of their rows. Fixtures are made once for all rows. A row that fails stops no other one: a single
    failure is raised as it is, several as a group; each has a note with its row.
    """
    fields = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    table = list(_labelled(fields, list(rows), ids))
    assert table, f"no rows for {fields}"

    def decorate(function: Callable) -> Callable:
        body = getattr(function, "body", function)
        both = [
            (f"{label}-{above}" if label else above, {**row, **more})
            for label, row in getattr(function, "rows", [("", {})])
            for above, more in table
        ]

        @functools.wraps(function)
        def test(**fixtures: Any) -> None:
            _run(body, fixtures, both)

        test.body, test.rows = body, both
        left = [p for name, p in inspect.signature(function).parameters.items() if name not in fields]
        assert len(left) == len(inspect.signature(function).parameters) - len(fields), f"{fields} of {body.__name__}"
        test.__signature__ = inspect.Signature(left)
        return test

    return decorate


def _labelled(fields: list[str], rows: list[Any], ids: Any) -> Iterable[tuple[str, dict[str, Any]]]:
    labels = [None] * len(rows) if ids is None or callable(ids) else [str(label) for label in ids]
    for label, row in zip(labels, rows, strict=True):
        if hasattr(row, "marks"):  # a pytest.param
            assert not row.marks, "a row that is marked is a test of its own: use pytest.mark.parametrize"
            label, values = row.id or label, row.values
        else:
            values = (row,) if len(fields) == 1 else tuple(row)
        parts = [ids(value) if callable(ids) else value for value in values]
        yield label or "-".join(str(part)[:60] for part in parts), dict(zip(fields, values, strict=True))


def _run(body: Callable, fixtures: dict[str, Any], rows: list[tuple[str, dict[str, Any]]]) -> None:
    failed: list[BaseException] = []
    skipped: list[str] = []
    for label, row in rows:
        try:
            body(**fixtures, **row)
        except pytest.skip.Exception as reason:
            skipped.append(str(reason))
        except (Exception, pytest.fail.Exception) as error:
            error.add_note(f"row: {label}")
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise BaseExceptionGroup(f"{len(failed)} of {len(rows)} rows", failed)
    if len(skipped) == len(rows):
        pytest.skip(skipped[0])
