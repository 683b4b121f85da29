"""Prompts and supervised records: where they come from, what they must hold, the seeded order of their use."""

from __future__ import annotations

import importlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrl.config import ConfigError, DataConfig, RecordFormat
from mmrl.data.formats import normalised
from mmrl.data.images import bound_images, check_images
from mmrl.data.order import cyclic_indices
from mmrl.importing import import_file
from mmrl.pictures import PictureError, open_image
from mmrl.share import resolve
from mmrl.types import Prompt

HUB = "hub:"
MAX_PIXELS = DataConfig.model_fields["max_pixels"].default
_WARNINGS = 10  # bad records told one by one; the rest is counted


@dataclass(frozen=True)
class Row:
    """One raw record: where it stands, its number (the id, where it brings none), and what is wrong with it."""

    where: str
    number: int
    record: dict[str, Any]
    problem: str = ""


# -------------------------------------------------------------------- prompts


def training_prompts(data: DataConfig, columns: Sequence[str] = ()) -> list[Prompt]:
    """The training prompts that `data` names, [] for none; `columns` must be in each besides `prompt`."""
    if not data.prompts:
        return []
    function = _function(data.prompts, data.prompts_options, "data.prompts")
    rows = function_rows(data.prompts, function, data.prompts_count) if function else None
    return load_prompts(
        data.prompts,
        data.where,
        data.on_bad_record,
        columns,
        data.columns,
        data.split,
        data.subset,
        rows,
        **reading(data, data.prompts),
    )


def heldout_prompts(data: DataConfig, columns: Sequence[str] = ()) -> list[Prompt]:
    """The held-out prompts that `data` names, [] for none; `columns` must be in each besides `prompt`."""
    source = data.eval_prompts
    if not source:
        return []
    function = _function(source, data.eval_prompts_options, "data.eval_prompts")
    rows = function_rows(source, function, data.eval_prompts_count) if function else None
    return load_prompts(
        source,
        data.eval_where,
        data.on_bad_record,
        columns,
        data.columns,
        data.eval_split,
        data.subset,
        rows,
        **reading(data, source),
    )


def reading(data: DataConfig, source: str) -> dict[str, Any]:
    """How a config wants the records and pictures of a source read: keywords of `load_prompts`."""
    return {"form": data.format, "root": data.image_root or _folder(source), "max_pixels": data.max_pixels}


def load_prompts(
    source: str,
    where: Mapping[str, Any],
    on_bad: str,
    columns: Sequence[str] = (),
    mapping: Mapping[str, str] | None = None,
    split: str = "train",
    subset: str | None = None,
    rows: Iterable[Row] | None = None,
    *,
    form: RecordFormat = "auto",
    root: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> list[Prompt]:
    """Prompts of a source (see DataConfig.prompts), in its order; those whose columns equal `where`.

    A record needs `prompt` (or `messages`) and `columns`, after `mapping` (our name -> the source's) and after it was
    made ours from `form` (see formats.normalised); its id is `id`, or its number. Chat messages give the text of the
    last user message, and the record keeps them as `messages`.
    rows: the raw records, where they do not come from files. root: folder that its pictures are below, None for the
    source's own; each is looked at, and not decoded.
    Raises ConfigError with file and line for a bad record (or warns, skips and counts it, as `on_bad` says), for a
    source without prompts, and for an id that occurs twice.
    """
    root = _resolved(root or _folder(source))
    rows = read_rows(source, split, subset) if rows is None else rows
    found, bad = good_records(rows, on_bad, columns, mapping or {}, form, root, max_pixels)
    prompts = [
        Prompt(str(record.get("id", row.number)), record["prompt"], record, root)
        for row, record in found
        if all(record.get(key) == value for key, value in where.items())
    ]
    if not prompts:
        name = source if source.startswith(HUB) else resolve(source)
        raise ConfigError(
            f"data: {name} holds no prompts" + (f" with {dict(where)}" if where else "") + f" ({bad} bad)"
        )
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise ConfigError(f"data: {source}: the id {prompt.id!r} occurs more than once; ids tell prompts apart")
        seen.add(prompt.id)
    return prompts


# -------------------------------------------------------------------- supervised records


def record_columns(adapter: Any, objectives: Iterable[str]) -> tuple[str, ...]:
    """Columns that supervised records need besides `prompt`: the adapter's `record_columns` of each objective.

    An adapter without that method needs none.
    """
    ask = getattr(adapter, "record_columns", None)
    if ask is None:
        return ()
    return tuple(dict.fromkeys(column for objective in objectives for column in ask(objective)))


class Records:
    """Supervised records by index: a function's endless stream cut at `records_count`, or a source's records.

    columns: what every record needs besides its prompt; a column `image` is opened, the names in `images` become
    functions that open them. Raises ConfigError for a source that is missing, unreadable or empty, and as
    `data.on_bad_record` says for a record that lacks a column or has a bad picture.
    """

    def __init__(self, config: DataConfig, columns: Sequence[str] = ()) -> None:
        assert config.records is not None
        function = _function(config.records, config.options, "data.records")
        self.root = _resolved(config.image_root or _folder(config.records))
        self.config = config
        if function is not None:
            self.get, self.count = self._of_function(function), config.records_count
        else:
            self.get, self.count = self._of_source(columns)

    def batch(self, step: int, size: int, seed: int) -> list[dict[str, Any]]:
        """The `step`-th batch of a seeded, endlessly reshuffled pass over the records."""
        return [self.get(i) for i in cyclic_indices(step * size, size, self.count, seed)]

    def _of_function(self, function: Callable[[int], dict[str, Any]]) -> Callable[[int], dict[str, Any]]:
        def get(index: int) -> dict[str, Any]:
            try:
                record = normalised(function(index), self.config.format)
            except ValueError as error:
                raise ConfigError(f"{self.config.records}({index}): {error}") from error
            return bound_images(record, self.root, self.config.max_pixels)

        return get

    def _of_source(self, columns: Sequence[str]) -> tuple[Callable[[int], dict[str, Any]], int]:
        config, source = self.config, str(self.config.records)
        rows = read_rows(source, config.split, config.subset)
        found, bad = good_records(
            rows, config.on_bad_record, columns, config.columns, config.format, self.root, config.max_pixels
        )
        records = [
            bound_images({**record, "id": str(record.get("id", row.number))}, self.root, config.max_pixels)
            for row, record in found
        ]
        if "image" in columns:
            records = self._with_whole_images(records)
        if not records:
            raise ConfigError(f"data.records: {source} holds no usable record ({bad} bad)")
        if "image" not in columns:
            return records.__getitem__, len(records)
        return lambda index: {**records[index], "image": self._image(records[index])}, len(records)

    def _with_whole_images(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records whose `image` can be decoded."""
        usable = []
        for record in records:
            try:
                self._image(record)
            except PictureError as error:
                if self.config.on_bad_record == "stop":
                    raise ConfigError(f"{self.config.records}: record {record['id']!r}: {error}") from None
                warnings.warn(f"{error}; skipped", stacklevel=2)
            else:
                usable.append(record)
        return usable

    def _image(self, record: Mapping[str, Any]) -> Any:
        return open_image(record["image"], self.root, self.config.max_pixels)


# -------------------------------------------------------------------- sources: rows as they stand there


def read_rows(source: str, split: str, subset: str | None = None) -> Iterator[Row]:
    """Raw records of a .jsonl, .txt or .parquet file, a folder saved by `datasets`, or `hub:owner/name`.

    A line that cannot be read comes with its problem. Raises ConfigError for a source that is missing or unreadable.
    """
    if source.startswith(HUB):
        return _table_rows(source, _hub_dataset(source.removeprefix(HUB), subset, split))
    path = resolve(source)
    if path.is_dir():
        return _table_rows(str(path), _saved_dataset(path, split))
    if not path.is_file():
        raise ConfigError(f"data: no prompt file {path}")
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    return _line_rows(path)


def function_rows(source: str, function: Callable[[int], Any], count: int) -> Iterator[Row]:
    """The first `count` records of a function of the index."""
    for index in range(count):
        record = function(index)
        problem = "" if isinstance(record, dict) else f"returned {type(record).__name__}, expected a dict"
        yield Row(f"{source}({index})", index, record if not problem else {}, problem)


def _line_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{path}:{number}"
            try:
                line = raw.decode("utf-8").strip()
                if line:
                    record = json.loads(line) if path.suffix == ".jsonl" else {"prompt": line}
                    is_record = isinstance(record, dict)
                    yield Row(
                        where,
                        number,
                        record if is_record else {},
                        "" if is_record else "needs a non-empty string `prompt` in an object",
                    )
            except UnicodeDecodeError as error:
                yield Row(where, number, {}, f"not UTF-8: {error.reason} at byte {error.start}")
            except json.JSONDecodeError as error:
                yield Row(where, number, {}, f"not JSON: {error}")


def _parquet_rows(path: Path) -> Iterator[Row]:
    arrow, parquet = _library("pyarrow", str(path)), _library("pyarrow.parquet", str(path))
    try:
        table = parquet.ParquetFile(path)
        number = 0
        for batch in table.iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield Row(f"{path}:{number}", number, record)
    except (arrow.ArrowException, OSError) as error:
        raise ConfigError(f"data: {path} is no whole parquet file: {error}") from None


def _table_rows(name: str, table: Iterable[dict[str, Any]]) -> Iterator[Row]:
    for number, record in enumerate(table, 1):
        yield Row(f"{name}:{number}", number, dict(record))


def _saved_dataset(path: Path, split: str) -> Any:
    library = _library("datasets", str(path))
    try:
        found = library.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"data: {path} is no folder saved by the datasets library: {error}") from None
    if not isinstance(found, library.DatasetDict):
        return found
    if split not in found:
        raise ConfigError(
            f"data: {path} has no split {split!r}; it has {', '.join(found)} (data.split, data.eval_split)"
        )
    return found[split]


def _hub_dataset(name: str, subset: str | None, split: str) -> Any:
    library = _library("datasets", HUB + name)
    try:
        return library.load_dataset(name, subset, split=split)
    except (OSError, ValueError) as error:
        raise ConfigError(f"data: {HUB}{name} cannot be loaded: {error}; see data.subset and data.split") from None


def _library(module: str, source: str) -> Any:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        found = None
    # Run beside a folder `datasets`, Python finds that folder where the library is not installed.
    if found is None or getattr(found, "__file__", None) is None:
        raise ConfigError(f'data: {source} needs the package {module.partition(".")[0]!r}: pip install "mmrl[text]"')
    return found


def _folder(source: str) -> str | None:
    """The folder that names in a source's records are below; None for the hub."""
    if source.startswith(HUB):
        return None
    file, _, _ = source.rpartition(":")
    return str(resolve(file if file.endswith(".py") else source).parent)


def _resolved(folder: str | None) -> str | None:
    return None if folder is None else str(resolve(folder).resolve())


def _function(source: str, options: Mapping[str, Any], key: str) -> Callable[[int], dict[str, Any]] | None:
    """The function of the index that `file.py:function` names, its options filled in; None for another source."""
    file, _, name = source.rpartition(":")
    if not file.endswith(".py"):
        return None
    path = resolve(file)
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


# -------------------------------------------------------------------- what a record must hold


def good_records(
    rows: Iterable[Row],
    on_bad: str,
    needed: Sequence[str],
    mapping: Mapping[str, str],
    form: RecordFormat = "auto",
    root: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> tuple[list[tuple[Row, dict[str, Any]]], int]:
    """(rows with their checked records in our form, number of bad ones); pictures are looked at below `root`.

    Raises ConfigError at the first bad record when `on_bad` is "stop"; otherwise warns of it and skips it.
    """
    good: list[tuple[Row, dict[str, Any]]] = []
    bad = total = 0
    for row in rows:
        total += 1
        try:
            if row.problem:
                raise ValueError(row.problem)
            record = _checked(row.record, needed, mapping, form)
            check_images(record, root, max_pixels)
            good.append((row, record))
        except ValueError as error:
            message = f"{row.where}: {error}"
            if on_bad == "stop":
                raise ConfigError(f"{message}; mend the line or set data.on_bad_record: skip") from None
            bad += 1
            if bad <= _WARNINGS:
                warnings.warn(f"{message}; skipped", stacklevel=3)
    if bad:
        warnings.warn(f"data: skipped {bad} of {total} records", stacklevel=3)
    return good, bad


def _checked(
    record: Mapping[str, Any], needed: Sequence[str], mapping: Mapping[str, str], form: RecordFormat
) -> dict[str, Any]:
    record = normalised({**record, **{ours: _reach(record, ours, theirs) for ours, theirs in mapping.items()}}, form)
    prompt = record.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("needs a non-empty string `prompt`, or a list of messages (data.columns maps other names)")
    missing = [column for column in needed if record.get(column) is None]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    return record


def _reach(record: Mapping[str, Any], ours: str, theirs: str) -> Any:
    if theirs in record:
        return record[theirs]
    place: Any = record
    for part in theirs.split("."):
        if not isinstance(place, Mapping) or part not in place:
            raise ValueError(f"lacks {theirs!r}, which data.columns gives for {ours!r}; it has {', '.join(record)}")
        place = place[part]
    return place
