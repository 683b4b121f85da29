"""Supervised records by index, in batches of a seeded order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmrl.config import ConfigError, DataConfig
from mmrl.data.checks import Checker, good_records, identity, refused
from mmrl.data.heard import bound_sounds
from mmrl.data.images import bound_images
from mmrl.data.order import cyclic_indices
from mmrl.data.rows import Row
from mmrl.data.sources import absolute, folder_of, function_of, function_row, read_rows
from mmrl.data.videos import film_refs
from mmrl.media import Clip
from mmrl.pictures import open_image

_WARNINGS = 10  # bad records of a function told one by one


def record_columns(adapter: Any, objectives: Iterable[str]) -> tuple[str, ...]:
    """Columns that supervised records need besides `prompt`: the adapter's `record_columns` of each objective."""
    return tuple(dict.fromkeys(column for objective in objectives for column in adapter.record_columns(objective)))


class Records:
    """Supervised records by index: a function's endless stream cut at `records_count`, or a source's records.

    columns: what every record needs besides its prompt; a column `image` is opened, so are the frames of `video`, and
    the names in `images` become functions that open them, those in `sounds` paths. Every record has an `id`, a text:
    its number where it brings none. A source is checked at once, a function when a record is asked for, and so are the
    pictures and sounds of a source's later records (`data.looked_at`). Raises ConfigError for a source that is missing,
    unreadable or without a usable record, and as `data.on_bad_record` says for a record that cannot be used.
    """

    def __init__(self, config: DataConfig, columns: Sequence[str] = ()) -> None:
        assert config.records is not None
        self.source, self.on_bad = config.records, config.on_bad_record
        self.root = absolute(config.image_root or folder_of(self.source))
        read = (
            config.max_pixels,
            config.train_turns == "all",
            config.video_frames,
            config.videos == "whole",
            config.max_seconds,
        )
        self.checker = Checker(columns, config.columns, config.format, self.root, *read, chain=config.chain)
        if config.chain is not None and "completion" not in columns:
            raise ConfigError("data.chain: the modality learns no `completion` from its records; leave it out")
        self.get: Callable[[int], dict[str, Any]]
        function = function_of(self.source, config.options, "data.records")
        if function is not None:
            self.count = config.records_count
            row_of = partial(function_row, self.source, function)
            self.get = self._good(row_of, self._checked)
        else:
            rows = read_rows(self.source, config.split, config.subset)
            good = good_records(rows, self.checker, self.on_bad, looked_at=config.first_looked_at)
            if not len(good):
                raise ConfigError(f"data.records: {self.source} holds no usable record ({good.bad} bad)")
            self.count = len(good)

            def made(index: int, _: Row) -> dict[str, Any]:
                record = good.records[index][1]
                if index >= good.looked_at:
                    self.checker.look(record)
                return self._ready(good.names[index], record)

            self.get = self._good(lambda index: Row(good.records[index][0], index), made)

    def batch(self, step: int, size: int, seed: int) -> list[dict[str, Any]]:
        """The `step`-th batch of a seeded, endlessly reshuffled pass over the records."""
        return [self.get(i) for i in cyclic_indices(step * size, size, self.count, seed)]

    def _good(
        self, rows: Callable[[int], Row], made: Callable[[int, Row], dict[str, Any]]
    ) -> Callable[[int], dict[str, Any]]:
        """Record number `index`; where it is skipped, the next good one, which depends on nothing but the index: so it
        is the same on every process, and after a resume."""
        told: set[int] = set()

        def get(index: int) -> dict[str, Any]:
            for number in (*range(index, self.count), *range(index)):
                row = rows(number)
                try:
                    return made(number, row)
                except ValueError as error:
                    message = refused(row, error, self.on_bad)
                    if number not in told and len(told) < _WARNINGS:
                        warnings.warn(message, stacklevel=2)
                    told.add(number)
            raise ConfigError(f"data.records: {self.source} holds no usable record ({self.count} bad)")

        return get

    def _checked(self, _: int, row: Row) -> dict[str, Any]:
        record = self.checker.record(row)
        return self._ready(identity(record, row), record)

    def _ready(self, name: str, record: dict[str, Any]) -> dict[str, Any]:
        bound = self.checker.max_pixels
        made = bound_images({**record, "id": name}, self.root, bound)
        made = bound_sounds(made, self.root)
        if "image" in self.checker.columns:
            made["image"] = open_image(made["image"], self.root, bound)
        if "video" in self.checker.columns:
            refs = film_refs(made["video"], self.root, self.checker.video_frames)
            made["video"] = Clip(tuple(open_image(ref, self.root, bound) for ref in refs))
        return made


class KeptRecords(Records):
    """Supervised records that a filter stage wrote."""

    def __init__(self, path: Path, max_pixels: int, max_seconds: float) -> None:
        super().__init__(DataConfig(records=str(path), max_pixels=max_pixels, max_seconds=max_seconds))
