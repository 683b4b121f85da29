"""Files of records, by their suffix: raw rows, each with its line."""

from __future__ import annotations

import codecs
import csv
import gzip
import importlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from mmrl.config import ConfigError
from mmrl.data.rows import DECODER, Row, as_row, parsed

_SPACE = " \t\r\n"
PROGRAM = ".py"
LARGEST_CELL = 2**30  # letters, for pictures as texts


def file_rows(path: Path) -> Iterator[Row]:
    """The raw records of a file whose suffix, in any case, is in READERS, in its order; blank lines are none.

    A record that cannot be read comes with its problem. Raises ConfigError for another suffix, and for a file that
    cannot be read any further: a broken list of JSON or table, an error of the disk.
    """
    kind = kind_of(path)
    if kind is None:
        raise ConfigError(
            f"data: {path}: what it holds is told by its suffix; expected {', '.join(READERS)}, all but .parquet also "
            "with .gz behind it"
        )
    try:
        yield from READERS[kind](path)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"data: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def kind_of(path: Path) -> str | None:
    """The key of READERS that a file's name ends with, in any case; None for another."""
    name = path.name.lower().removesuffix(".gz")
    kind = Path(name).suffix
    return kind if kind in READERS and not (kind == ".parquet" and path.name.lower().endswith(".gz")) else None


def _binary(path: Path) -> IO[bytes]:
    packed = path.name.lower().endswith(".gz")
    return cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb")


# -------------------------------------------------------------------- lines


def _json_lines(path: Path) -> Iterator[Row]:
    return _lines(path, parsed)


def _text_lines(path: Path) -> Iterator[Row]:
    return _lines(path, _said)


def _lines(path: Path, read: Callable[[str, int, str], Row]) -> Iterator[Row]:
    """What `read` makes of (where, number from 1, text) of each line that is not blank."""
    place = f"{path}:"
    with _binary(path) as file:
        for number, raw in enumerate(file, 1):
            where = f"{place}{number}"
            raw = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                line = raw.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                yield Row(where, number, problem=f"not UTF-8: {error.reason} at byte {error.start}")
            else:
                if line:
                    yield read(where, number, line)


def _said(where: str, number: int, line: str) -> Row:
    if _is_json(line):
        raise ConfigError(f"data: {where}: this is JSON, not a prompt a line; name the file .jsonl or .json")
    if "\r" in line:
        return Row(where, number, problem="a carriage return stands within the line; end lines with a newline")
    return Row(where, number, {"prompt": line})


def _is_json(line: str) -> bool:
    """Whether a line is a record, or the beginning of records, and no prompt that a person would write."""
    if line in ("[", "{", "[{"):
        return True
    if not line.startswith(("{", "[")):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))


# -------------------------------------------------------------------- whole texts


def _json_file(path: Path) -> Iterator[Row]:
    """A list of records, one record a line, or one object, which is a record or holds the list of them."""
    text = _text(path)
    start = len(text) - len(text.lstrip())
    if text.startswith("[", start):
        return _listed(path, text, start + 1)
    try:
        value = DECODER.decode(text)
    except (ValueError, RecursionError):  # a record a line, or a line that is none
        return _json_lines(path)
    return _within(path, value)


def _within(path: Path, value: Any) -> Iterator[Row]:
    """The records of a file that is one object: those of its only list of objects, or the object itself.

    Raises ConfigError for several lists, of which nobody says which is meant.
    """
    where = f"{path}:1"
    lists = {key: v for key, v in value.items() if _are_records(v)} if isinstance(value, dict) else {}
    if not lists or _OWN & set(value):
        yield as_row(where, 1, value)
    elif len(lists) > 1:
        raise ConfigError(
            f"data: {path} is one object with several lists of records: {', '.join(lists)}; write the one that is "
            "meant to a file of its own"
        )
    else:
        for number, record in enumerate(next(iter(lists.values())), 1):
            yield as_row(f"{path}: {next(iter(lists))}[{number - 1}]", number, record)


def _are_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


# Columns of a record that is a file of its own: its lists of objects are messages, or steps.
_OWN = {"prompt", "messages", "conversations", "question", "problem", "goal", "query", "instruction", "chosen"}


def _program(path: Path) -> Iterator[Row]:
    """A file of Python is one record, of a program and its name."""
    yield Row(str(path), 1, {"code": _text(path), "path": path.name})


def _listed(path: Path, text: str, place: int) -> Iterator[Row]:
    """The records of a JSON list whose first item is sought from `place`."""
    number, line, counted = 0, 1, 0
    while (place := _next(text, place)) < len(text) and (number or text[place] != "]"):
        line, counted, number = line + text.count("\n", counted, place), place, number + 1
        where = f"{path}:{line}"
        try:
            value, place = DECODER.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise ConfigError(f"data: {path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from None
        except RecursionError:
            raise ConfigError(f"data: {where}: brackets in brackets, too many deep") from None
        yield as_row(where, number, value)
        place = _next(text, place)
        if text[place : place + 1] != ",":
            break
        place += 1
    wrong = _next(text, place + 1) if text[place : place + 1] == "]" else place
    if wrong < len(text) or wrong == place:
        line += text.count("\n", counted, wrong)
        raise ConfigError(f"data: {path}:{line}: not JSON: expected a comma, or the end of the list and of the file")


def _next(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place


def _text(path: Path) -> str:
    try:
        with _binary(path) as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"data: {path}: not UTF-8: {error.reason} at byte {error.start}") from None


# -------------------------------------------------------------------- tables


def _commas(path: Path) -> Iterator[Row]:
    return _cells(path, ",", strict=True)


def _tabs(path: Path) -> Iterator[Row]:
    # Tabs are written without quotes as often as with them: a quote inside of a cell is one of its letters.
    return _cells(path, "\t", strict=False)


def _cells(path: Path, delimiter: str, strict: bool) -> Iterator[Row]:
    """Rows below a line of names, as texts; a cell without a text is None.

    A first column without a name, the numbers of rows as pandas writes them, is left out.
    """
    last = 0
    csv.field_size_limit(LARGEST_CELL)
    try:
        with io.TextIOWrapper(_binary(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=strict)
            names = next((cells for cells in reader if cells), [])
            if len(set(names)) < len(names) or not all(names[1:]) or names == [""]:
                where = f"{path}:{reader.line_num}"
                raise ConfigError(f"data: {where}: expected a name of its own for each column, got {names!r:.200}")
            number, last = 0, reader.line_num
            for cells in reader:
                where, last = f"{path}:{last + 1}", reader.line_num
                if not cells:
                    continue
                number += 1
                if not strict and any("\n" in cell and delimiter in cell for cell in cells):
                    raise ConfigError(f"data: {where}: a quote is opened and holds whole lines; close it, or double it")
                if len(cells) == len(names):
                    yield Row(where, number, {name: cell or None for name, cell in zip(names, cells) if name})
                else:
                    yield Row(where, number, problem=f"has {len(cells)} cells below {len(names)} names of columns")
    except UnicodeDecodeError as error:
        raise ConfigError(f"data: {path}: not UTF-8: {error.reason}, behind line {last}") from None
    except csv.Error as error:
        raise ConfigError(f"data: {path}:{last + 1}: no table of cells: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    arrow, parquet = library("pyarrow", str(path)), library("pyarrow.parquet", str(path))
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield Row(f"{path}:{number}", number, without_nan(record))
    except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"data: {path} is no whole parquet file: {error}") from None


def without_nan(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a table, None for each column that is NaN: so pandas writes what is missing."""
    return {key: None if isinstance(value, float) and value != value else value for key, value in record.items()}


def library(module: str, source: str) -> Any:
    """A module of an optional package. Raises ConfigError with the command that installs it."""
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        found = None
    # Run beside a folder `datasets`, Python finds that folder where the library is not installed.
    if found is None or getattr(found, "__file__", None) is None:
        raise ConfigError(f'data: {source} needs the package {module.partition(".")[0]!r}: pip install "mmrl[text]"')
    return found


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_file,
    ".csv": _commas,
    ".tsv": _tabs,
    ".txt": _text_lines,
    ".parquet": _parquet,
    PROGRAM: _program,
}
