"""Where records come from: files, folders saved by the datasets library, the hub, functions of the index."""

from __future__ import annotations

import glob
import inspect
import re
import stat
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmrl import objects
from mmrl.config import ConfigError
from mmrl.data.files import PROGRAM, file_rows, kind_of, library, without_nan
from mmrl.data.rows import Row
from mmrl.importing import import_file
from mmrl.share import resolve

HUB = "hub:"
Function = Callable[[int], Any]


def read_rows(source: str, split: str, subset: str | None = None) -> Iterator[Row]:
    """Raw records of a file (see files.READERS), a pattern of files, a folder of them or one saved by `datasets`,
    `hub:owner/name`, or rows that were given in Python.

    A record that cannot be read comes with its problem. Raises ConfigError for a source that is missing or unreadable.
    """
    if source.startswith(HUB):
        return _table_rows(source, _hub_dataset(source.removeprefix(HUB), subset, split))
    if objects.is_object(source):
        return (Row(f"{source}[{n}]", n, without_nan(row)) for n, row in enumerate(_object(source, "data")))
    if _is_pattern(source):
        return _rows_of_files(matching(source))
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
        files = shards(path, split)
        return _rows_of_files(files) if files else _table_rows(str(path), _saved_dataset(path, split))
    if not stat.S_ISREG(mode):
        raise ConfigError(f"data: no prompt file {path}: it is a pipe or a device")
    if kind_of(path) == PROGRAM:
        raise ConfigError(
            f"data: {path}: name its function, as in {path.name}:record; where files of Python are the records, name "
            f"them by a pattern: {path.parent}/*.py"
        )
    return file_rows(path)


def folder_of(source: str) -> str | None:
    """The folder that names in a source's records are below; None for the hub."""
    if source.startswith(HUB):
        return None
    if objects.is_object(source):
        return "."
    if _is_pattern(source):
        source = re.split(r"[*?[]", source)[0] + "x"
    elif _is_folder_of_files(source):
        return str(_located(source))
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


def _object(name: str, key: str) -> Any:
    try:
        return objects.held(name)
    except objects.UnknownObject as error:
        raise ConfigError(f"{key}: {error}") from None


# -------------------------------------------------------------------- many files


def _is_pattern(source: str) -> bool:
    try:
        return glob.has_magic(source) and not _located(source).exists()
    except (OSError, ValueError):  # a name that is none: it is refused where it is opened
        return False


def _is_folder_of_files(source: str) -> bool:
    try:
        folder = _located(source)
        return folder.is_dir() and not any((folder / name).is_file() for name in _SAVED)
    except (OSError, ValueError):
        return False


def files_of(source: str, split: str) -> list[Path]:
    """The files of a folder or of a pattern that hold its records, in their order; [] for a source that is another."""
    if source.startswith(HUB) or objects.is_object(source):
        return []
    if _is_pattern(source):
        return matching(source)
    try:
        folder = _located(source)
        saved = sorted(folder.rglob("*.arrow")) if folder.is_dir() else []
        return saved or (shards(folder, split) if folder.is_dir() else [])
    except OSError:
        return []


def matching(pattern: str) -> list[Path]:
    """The files that a pattern names, in the order of their names. Raises ConfigError without one."""
    found = sorted(Path(name) for name in glob.glob(str(_located(pattern)), recursive=True))
    files = [path for path in found if path.is_file()]
    if not files:
        raise ConfigError(f"data: no file matches {pattern!r:.200}")
    return files


def shards(folder: Path, split: str) -> list[Path]:
    """The files of records in a folder (or in its folder `data`), in the order of their names; [] for a folder that the
    datasets library saved, and for one without such files.

    Where their names have a split among their words, as in train-00000-of-00002.parquet or gsm8k_train.jsonl, those of
    `split`; it is warned of files beside them whose names have none. Raises ConfigError for files of several kinds, and
    where none is of the split.
    """
    if any((folder / name).is_file() for name in _SAVED):
        return []
    files = [path for place in (folder, folder / "data") for path in _records_in(place)]
    kinds = {kind for path in files if (kind := kind_of(path))}
    if len(kinds) > 1:
        raise ConfigError(
            f"data: {folder} has files of {', '.join(sorted(kinds))}; name those that are meant: {folder}/*.x"
        )
    names = {path: next((w for w in re.split(r"[-_. ]", path.name.lower()) if w in _SPLITS), "") for path in files}
    splits = set(names.values()) - {""}
    if not splits:
        return files
    if split not in splits:
        raise ConfigError(
            f"data: {folder} has no file of split {split!r}; it has {', '.join(sorted(splits))} (data.split, "
            "data.eval_split)"
        )
    left_out = [path.name for path in files if not names[path]]
    if left_out:
        told = f"{', '.join(left_out[:5])}{' ...' if len(left_out) > 5 else ''}"
        warnings.warn(
            f"data: {folder}: left out are {told}, whose names have no split ({', '.join(sorted(splits))}); give them "
            f"one, or name the files that are meant: {folder}/*.x",
            stacklevel=2,
        )
    return [path for path in files if names[path] == split]


# Files that the datasets library writes into a folder that it saves.
_SAVED = ("dataset_info.json", "state.json", "dataset_dict.json")
_SPLITS = {"train", "test", "validation", "valid", "val", "dev", "eval"}


def _records_in(folder: Path) -> list[Path]:
    hidden = (".", "_")
    if not folder.is_dir():
        return []
    found = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(hidden)]
    return [p for p in found if kind_of(p) not in (None, PROGRAM)]  # what made them may lie beside them


def _rows_of_files(files: list[Path]) -> Iterator[Row]:
    """The rows of several files, numbered on."""
    number = 0
    for file in files:
        for row in file_rows(file):
            number += 1
            yield replace(row, number=number)


# -------------------------------------------------------------------- functions of the index


def function_of(source: str, options: Mapping[str, Any], key: str) -> Function | None:
    """The function of the index that `file.py:function` names, its options filled in; None for another source.

    key: of the configuration, for messages. Raises ConfigError for a file, a function or an option that is not there.
    """
    file, _, name = source.rpartition(":")
    if objects.is_function(source):
        function = _object(source, key)
    elif not file.endswith(".py"):
        return None
    else:
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
        return undecoded(found, datasets)
    if split not in found:
        raise ConfigError(
            f"data: {path} has no split {split!r}; it has {', '.join(found)} (data.split, data.eval_split)"
        )
    return undecoded(found[split], datasets)


def undecoded(table: Any, datasets: Any) -> Any:
    """The table with its columns of sounds as {"bytes", "path"}, which the library would open by another decoder."""
    audio = datasets.Audio(decode=False)
    for name, feature in (table.features or {}).items():
        if isinstance(feature, datasets.Audio):
            table = table.cast_column(name, audio)
        elif isinstance(getattr(feature, "feature", None), datasets.Audio):  # a list of them
            table = table.cast_column(name, type(feature)(audio))
    return table


def _hub_dataset(name: str, subset: str | None, split: str) -> Any:
    datasets = library("datasets", HUB + name)
    try:
        return undecoded(datasets.load_dataset(name, subset, split=split), datasets)
    except Exception as error:  # as above, and those of the hub's client
        raise ConfigError(f"data: {HUB}{name} cannot be loaded: {error}; see data.subset and data.split") from None
