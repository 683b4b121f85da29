"""The prompts of a run: records of any source that are rolled out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmrl import objects
from mmrl.config import ConfigError, DataConfig, RecordFormat
from mmrl.data.checks import MAX_PIXELS, MAX_SECONDS, VIDEO_FRAMES, Checker, good_records
from mmrl.data.held import Prompts
from mmrl.data.rows import Row
from mmrl.data.sources import HUB, absolute, folder_of, function_of, function_rows, read_rows
from mmrl.share import resolve
from mmrl.types import Prompt


def training_prompts(data: DataConfig, columns: Sequence[str] = (), looked_at: int | None = None) -> Sequence[Prompt]:
    """The training prompts that `data` names, [] for none; `columns` must be in each besides `prompt`. looked_at: see
    load_prompts."""
    source = data.prompts
    if not source:
        return []
    function = function_of(source, data.prompts_options, "data.prompts")
    rows = function_rows(source, function, data.prompts_count) if function else None
    how = reading(data, source)
    return load_prompts(source, data.where, data.on_bad_record, columns, rows=rows, looked_at=looked_at, **how)


def heldout_prompts(data: DataConfig, columns: Sequence[str] = ()) -> Sequence[Prompt]:
    """The held-out prompts that `data` names, [] for none; `columns` must be in each besides `prompt`."""
    source = data.eval_prompts
    if not source:
        return []
    function = function_of(source, data.eval_prompts_options, "data.eval_prompts")
    rows = function_rows(source, function, data.eval_prompts_count) if function else None
    how = reading(data, source) | {"split": data.eval_split}
    return load_prompts(source, data.eval_where, data.on_bad_record, columns, rows=rows, **how)


def reading(data: DataConfig, source: str) -> dict[str, Any]:
    """How a config wants the records and pictures of a source read: keywords of `load_prompts`."""
    return {
        "mapping": data.columns,
        "split": data.split,
        "subset": data.subset,
        "form": data.format,
        "root": data.image_root or folder_of(source),
        "max_pixels": data.max_pixels,
        "max_seconds": data.max_seconds,
        "video_frames": data.video_frames,
        "whole_videos": data.videos == "whole",
    }


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
    max_seconds: float = MAX_SECONDS,
    video_frames: int = VIDEO_FRAMES,
    whole_videos: bool = False,
    looked_at: int | None = None,
) -> Sequence[Prompt]:
    """Prompts of a source (see DataConfig.prompts), in its order; those whose columns are as `where` says. Many are
    made from a temporary file when they are asked for (see held.Prompts).

    A record needs `prompt` (or `messages`) and `columns`, after `mapping` (our name -> the source's) and after it was
    made ours from `form` (see formats.normalised); its id is `id`, or its number. Chat messages give the text of the
    last user message, and the record keeps them as `messages`.
    rows: the raw records, where they do not come from files. root: folder that its pictures and sounds are below, None
    for the source's own; each is looked at, and not decoded. looked_at: of how many prompts; those of the others by
    held.Prompts.look. None: of all.
    Raises ConfigError with file and line for a bad record (or warns, skips and counts it, as `on_bad` says), one with
    the id of another included, and for a source without prompts.
    """
    root = absolute(root or folder_of(source))
    rows = read_rows(source, split, subset) if rows is None else rows
    checker = Checker(
        columns,
        mapping,
        form,
        root,
        max_pixels,
        video_frames=video_frames,
        whole_videos=whole_videos,
        max_seconds=max_seconds,
    )
    good = good_records(rows, checker, on_bad, where, looked_at)
    if not len(good):
        name = source if source.startswith(HUB) or objects.is_object(source) else resolve(source)
        raise ConfigError(
            f"data: {name} holds no prompts" + (f" with {dict(where)}" if where else "") + f" ({good.bad} bad)"
        )
    prompts = Prompts(good.records, good.names, root, read=good.looked_at, later=checker.look)
    return list(prompts) if good.records.in_memory and good.looked_at == len(good) else prompts
