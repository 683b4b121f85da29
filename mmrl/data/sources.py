"""Where records come from: files, folders saved by the datasets library, the hub, functions of the index."""

from __future__ import annotations

import inspect
import stat
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmrl.config import ConfigError
from mmrl.data.files import file_rows, library, without_nan
from mmrl.data.rows import Row
from mmrl.importing import import_file
from mmrl.share import resolve

HUB = "hub:"
Function = Callable[[int], Any]


def read_rows(source: str, split: str, subset: str | None = None) -> Iterator[Row]:
    """Raw records of a file (see files.READERS), a folder saved by `datasets`, or `hub:owner/name`.

    A record that cannot be read comes with its problem. Raises ConfigError for a source that is missing or unreadable.
    """
    if source.startswith(HUB):
        return _table_rows(source, _hub_dataset(source.removeprefix(HUB), subset, split))
    path = _located(source)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ConfigError(f"data: no prompt file {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        raise ConfigError(
            f"data: {source!r:.200} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if stat.S_ISDIR(mode):
        return _table_rows(str(path), _saved_dataset(path, split))
    if not stat.S_ISREG(mode):
        raise ConfigError(f"data: no prompt file {path}: it is a pipe or a device")
    return file_rows(path)


def folder_of(source: str) -> str | None:
    """The folder that names in a source's records are below; None for the hub."""
    if source.startswith(HUB):
        return None
    file, _, _ = source.rpartition(":")
    return str(_located(file if file.endswith(".py") else source).parent)


def absolute(folder: str | None) -> str | None:
    """The folder's full path. Raises ConfigError for a name that is none."""
    if folder is None:
        return None
    try:
        return str(_located(folder).resolve())
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links that lead to one another
        raise ConfigError(f"data: {folder!r:.200} is no folder: {error}") from None


def _located(source: str) -> Path:
    try:
        return resolve(source)
    except (ValueError, RuntimeError) as error:  # RuntimeError: `~name` of nobody
        raise ConfigError(f"data: {source!r:.200}: {error}") from None


# -------------------------------------------------------------------- functions of the index


def function_of(source: str, options: Mapping[str, Any], key: str) -> Function | None:
    """The function of the index that `file.py:function` names, its options filled in; None for another source.

    key: of the configuration, for messages. Raises ConfigError for a file, a function or an option that is not there.
    """
    file, _, name = source.rpartition(":")
    if not file.endswith(".py"):
        return None
    path = _located(file)
    if not path.is_file():
        raise ConfigError(f"{key}: no file {path}")
    function = getattr(import_file(path), name, None)
    if function is None:
        raise ConfigError(f"{key}: {path} has no function {name!r}")
    options_key = "data.options" if key == "data.records" else f"{key}_options"
    unknown = set(options) - set(inspect.signature(function).parameters)
    if unknown:
        raise ConfigError(f"{options_key}: {name} does not take {', '.join(sorted(unknown))}")
    return lambda index: function(index, **options)


def function_rows(source: str, function: Function, count: int) -> Iterator[Row]:
    """The first `count` records of a function of the index."""
    return (function_row(source, function, index) for index in range(count))


def function_row(source: str, function: Function, index: int) -> Row:
    """Record number `index`; what the function raises is its problem, with the line that raised."""
    where = f"{source}({index})"
    try:
        record = function(index)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        return Row(where, index, problem=told)
    if not isinstance(record, dict):
        return Row(where, index, problem=f"returned {type(record).__name__}, expected a dict")
    return Row(where, index, record)


# -------------------------------------------------------------------- tables of the datasets library


def _table_rows(name: str, table: Any) -> Iterator[Row]:
    number, rows = 0, iter(table)
    while True:
        number += 1
        try:
            record = next(rows)
        except StopIteration:
            return
        except Exception as error:  # a picture that the library fails to decode, with whatever its reader raises
            yield Row(f"{name}:{number}", number, problem=f"cannot be read: {type(error).__name__}: {error}")
            rows = iter(table.skip(number))
        else:
            yield Row(f"{name}:{number}", number, without_nan(dict(record)))


def _saved_dataset(path: Path, split: str) -> Any:
    datasets = library("datasets", str(path))
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # the library raises what its parts raise: OSError, ValueError, KeyError, arrow's own
        raise ConfigError(f"data: {path} is no folder saved by the datasets library: {error}") from None
    if not isinstance(found, datasets.DatasetDict):
        return found
    if split not in found:
        raise ConfigError(
            f"data: {path} has no split {split!r}; it has {', '.join(found)} (data.split, data.eval_split)"
        )
    return found[split]


def _hub_dataset(name: str, subset: str | None, split: str) -> Any:
    datasets = library("datasets", HUB + name)
    try:
        return datasets.load_dataset(name, subset, split=split)
    except Exception as error:  # as above, and those of the hub's client
        raise ConfigError(f"data: {HUB}{name} cannot be loaded: {error}; see data.subset and data.split") from None
