"""Prompts and supervised records: where they come from, what they must hold, the seeded order of their use."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmrl.config import ConfigError, DataConfig
from mmrl.modalities.load import import_file
from mmrl.seeds import seed_of
from mmrl.share import resolve
from mmrl.types import Prompt

HUB = "hub:"
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
        data.prompts, data.where, data.on_bad_record, columns, data.columns, data.split, data.subset, rows
    )


def heldout_prompts(data: DataConfig, columns: Sequence[str] = ()) -> list[Prompt]:
    """The held-out prompts that `data` names, [] for none; `columns` must be in each besides `prompt`."""
    if not data.eval_prompts:
        return []
    function = _function(data.eval_prompts, data.eval_prompts_options, "data.eval_prompts")
    rows = function_rows(data.eval_prompts, function, data.eval_prompts_count) if function else None
    return load_prompts(
        data.eval_prompts,
        data.eval_where,
        data.on_bad_record,
        columns,
        data.columns,
        data.eval_split,
        data.subset,
        rows,
    )


def load_prompts(
    source: str,
    where: Mapping[str, Any],
    on_bad: str,
    columns: Sequence[str] = (),
    mapping: Mapping[str, str] | None = None,
    split: str = "train",
    subset: str | None = None,
    rows: Iterable[Row] | None = None,
) -> list[Prompt]:
    """Prompts of a source (see DataConfig.prompts), in its order; those whose columns equal `where`.

    A record needs `prompt` (or `messages`) and `columns`, after `mapping` (our name -> the source's); its id is `id`,
    or its number. Chat messages give the text of the last user message, and the record keeps them as `messages`.
    rows: the raw records, where they do not come from files.
    Raises ConfigError with file and line for a bad record (or warns, skips and counts it, as `on_bad` says), for a
    source without prompts, and for an id that occurs twice.
    """
    rows = read_rows(source, split, subset) if rows is None else rows
    found, bad = good_records(rows, on_bad, columns, mapping or {})
    prompts = [
        Prompt(str(record.get("id", row.number)), record["prompt"], record)
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

    columns: what every record needs besides its prompt; a column `image` is opened. Raises ConfigError for a source
    that is missing, unreadable or empty, and as `data.on_bad_record` says for a record that lacks a column.
    """

    def __init__(self, config: DataConfig, columns: Sequence[str] = ()) -> None:
        assert config.records is not None
        function = _function(config.records, config.options, "data.records")
        if function is not None:
            self.get, self.count = function, config.records_count
        else:
            self.get, self.count = _source_records(config.records, config, columns)

    def batch(self, step: int, size: int, seed: int) -> list[dict[str, Any]]:
        """The `step`-th batch of a seeded, endlessly reshuffled pass over the records."""
        return [self.get(i) for i in cyclic_indices(step * size, size, self.count, seed)]


def _source_records(
    source: str, config: DataConfig, columns: Sequence[str]
) -> tuple[Callable[[int], dict[str, Any]], int]:
    rows = read_rows(source, config.split, config.subset)
    found, bad = good_records(rows, config.on_bad_record, columns, config.columns)
    records = [{**record, "id": str(record.get("id", row.number))} for row, record in found]
    if "image" not in columns:
        if not records:
            raise ConfigError(f"data.records: {source} holds no usable record ({bad} bad)")
        return records.__getitem__, len(records)

    root = Path() if source.startswith(HUB) else resolve(source).parent.resolve()
    usable = []
    for record in records:
        try:
            open_picture(root, record["image"], config.max_pixels)
        except ConfigError as error:
            if config.on_bad_record == "stop":
                raise
            warnings.warn(f"{error}; skipped", stacklevel=2)
        else:
            usable.append(record)
    if not usable:
        raise ConfigError(f"data.records: {source} holds no usable record")

    def get(index: int) -> dict[str, Any]:
        return {**usable[index], "image": open_picture(root, usable[index]["image"], config.max_pixels)}

    return get, len(usable)


def open_picture(root: Path, name: Any, max_pixels: int):
    """A picture, decoded to RGB: a file below `root`, or one that the table holds (a PIL image, {"bytes": ...}).

    Raises ConfigError when it is outside, missing, too large or corrupt.
    """
    from PIL import Image, UnidentifiedImageError

    held = isinstance(name, Mapping) and isinstance(name.get("bytes"), bytes)
    if not (held or isinstance(name, str | Image.Image)):
        raise ConfigError(f"picture: expected a file name or a picture, got {type(name).__name__}")
    path = (root / name).resolve() if isinstance(name, str) else "of the table"
    if isinstance(name, str) and ("://" in name or not Path(path).is_relative_to(root)):
        raise ConfigError(f"picture {name!r}: must be a file below {root}")
    try:
        source = io.BytesIO(name["bytes"]) if held else path
        with name.copy() if isinstance(name, Image.Image) else Image.open(source) as image:
            if image.width * image.height > max_pixels:
                raise ConfigError(
                    f"picture {path}: {image.width}x{image.height} is over data.max_pixels={max_pixels}; "
                    "scale it down or raise the bound"
                )
            image.load()
            return image.convert("RGB")
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"picture {path}: no such file") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ConfigError(f"picture {path}: cannot be read: {error}") from None


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
    rows: Iterable[Row], on_bad: str, needed: Sequence[str], mapping: Mapping[str, str]
) -> tuple[list[tuple[Row, dict[str, Any]]], int]:
    """(rows with their checked records, number of bad ones).

    Raises ConfigError at the first bad record when `on_bad` is "stop"; otherwise warns of it and skips it.
    """
    good: list[tuple[Row, dict[str, Any]]] = []
    bad = total = 0
    for row in rows:
        total += 1
        try:
            if row.problem:
                raise ValueError(row.problem)
            good.append((row, _checked(row.record, needed, mapping)))
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


def _checked(record: Mapping[str, Any], needed: Sequence[str], mapping: Mapping[str, str]) -> dict[str, Any]:
    record = {**record, **{ours: _reach(record, ours, theirs) for ours, theirs in mapping.items()}}
    prompt = record.get("prompt", record.get("messages"))
    if isinstance(prompt, list) and prompt:
        record |= {"prompt": last_user_text(prompt), "messages": prompt}
    elif not isinstance(prompt, str) or not prompt.strip():
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


def last_user_text(messages: Sequence[Any]) -> str:
    """The text of the last message of role `user`, its text parts joined by newlines.

    Raises ValueError for what is no list of {"role", "content"}, and where no user says anything.
    """
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(f"message {number} of `prompt` needs `role` and `content`")
    for message in reversed(messages):
        if message["role"] == "user":
            content = message["content"]
            parts = content if isinstance(content, list) else [{"text": content}]
            text = "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
            if text.strip():
                return text
            break
    raise ValueError("`prompt` has no text in a last message of role `user`")


def cyclic_indices(start: int, count: int, size: int, seed: int) -> list[int]:
    """Entries start..start+count of an endless sequence of seeded permutations of range(size)."""
    found: list[int] = []
    while len(found) < count:
        epoch, offset = divmod(start + len(found), size)
        generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
        order = torch.randperm(size, generator=generator)
        found += order[offset : offset + count - len(found)].tolist()
    return found
