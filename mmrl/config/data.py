"""The `data:` section: where prompts and supervised records come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mmrl import objects
from mmrl.config.chain import ChainConfig
from mmrl.near import short
from mmrl.share import resolve
from mmrl.strict import Strict, When

RecordFormat = Literal[
    "auto", "plain", "trl", "swift", "satori", "mgpo", "visionthink", "vlm_r1", "mmpr", "ui_s1", "sat", "aqa", "alpaca",
    "execad", "cad_coder", "gencad_code", "cad_recode", "text2cad",
    "r1_reward", "vl_rewardbench", "mm_rlhf", "multimodal_rewardbench", "rewardbench", "rewardbench2", "pickapic",
    "hpdv3", "editreward_bench", "consistency_rank",
]  # fmt: skip

LOOKED_AT = 10_000  # prompts and records that are looked at before a run, of more


class DataConfig(Strict):
    """Where prompts and supervised records come from."""

    prompts: str | None = Field(
        None,
        description="Training prompts: a .jsonl or .parquet file (`prompt`, optional `id`, any columns), a .txt file "
        "(one prompt a line), a folder of files or one saved by the datasets library, a pattern (`shards/*.parquet`), "
        "`hub:owner/name`, or `file.py:function`, called as function(index, **prompts_options) and returning a dict. "
        "`share://` names files that ship with mmrl. A `prompt` is a text or a list of chat messages. In Python also "
        "rows or a function (docs/python.md).",
    )
    eval_prompts: str | None = Field(None, description="Held-out prompts, same formats.")
    looked_at: int | None = Field(
        None,
        ge=0,
        description="How many training prompts the model's tokenizer or processor and the rewards look at before the "
        "run, and of how many prompts and records pictures and sounds are opened; 0: all. null: the first 10,000, and "
        "all prompts where a stage uses every one once. Any other is looked at when it is first drawn, and passed "
        "over, with a warning, where it cannot be used. Their records are checked before the run in any case.",
    )
    where: dict[str, Any] = Field(
        default_factory=dict,
        description="Keep training prompts whose columns equal these values, or are numbers in a range, such as "
        "`attempts: {min: 2, max: 4}`, where one of both may be left out.",
    )
    eval_where: dict[str, Any] = Field(default_factory=dict, description="The same for held-out prompts.")
    shuffle_options: bool = Field(
        False,
        description="Multiple choice: each time that a training prompt is asked, its options stand in another order, "
        "`answer` and `choices` with them, and the stored samples tell it (docs/data.md).",
    )
    prompts_count: int = Field(1000, ge=1, description="How many training prompts of a function are used.")
    eval_prompts_count: int = Field(100, ge=1, description="How many held-out prompts of a function are used.")
    prompts_options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the function of training prompts."
    )
    eval_prompts_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of the function of held-out prompts; those that ship take `split: heldout`, which shares "
        "no problem with `split: train`.",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Our name of a column: its name in the files, such as `{prompt: question, answer: solution}`; dots "
        "reach into a column, as in `reward_model.ground_truth`.",
    )
    format: RecordFormat = Field(
        "auto",
        description="Whose form the records have; auto tells by their columns (docs/data.md). They become ours: "
        "`prompt` with an `<image>` for each of `images`, an `<audio>` for each of `sounds`, or `messages`; `answer`; "
        "of pairs (docs/pairs.md) `candidates` and `shares`; other columns stay.",
    )
    image_root: str | None = Field(
        None,
        description="Folder that names of pictures and sounds are below; null: the one of the file (or function) that "
        "names them.",
    )
    subset: str | None = Field(None, description="Configuration of a `hub:` dataset that has several.")
    split: str = Field("train", description="Split for training, of a source that has splits (folders, `hub:`).")
    eval_split: str = Field("test", description="The same for held-out prompts.")
    records: str | None = Field(
        None,
        description="Supervised records: `file.py:function`, called as function(index, **options) and returning a "
        "dict; or a file, folder or `hub:owner/name` as for prompts. The modality says which columns it needs; "
        "columns `image` and `images` name pictures beside the file, `sounds` sounds.",
    )
    train_turns: Literal["all", "last"] = Field(
        "all",
        description="Of supervised records that are conversations: every answer in them is learned, or only the last. "
        "A message with `loss: false` or `weight: 0` is never.",
    )
    chain: ChainConfig | None = Field(
        None,
        description="Supervised records with a chain of thought in `cot`: how it is written (docs/curriculum.md); `{}` "
        "takes its defaults. null: records bring their `completion`.",
    )
    records_count: int = Field(10_000, ge=1, description="How many records of an endless function are used.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the records function.")
    on_bad_record: Literal["stop", "skip"] = Field(
        "stop", description="A record that cannot be read stops the run, or is reported and skipped."
    )
    max_pixels: int = Field(50_000_000, ge=1, description="A larger picture is a bad record.")
    max_seconds: float = Field(600, gt=0, description="A longer sound is a bad record.")
    video_frames: int = Field(
        8, ge=1, description="Most frames of a video (column `videos`) that are shown, evenly spaced."
    )
    videos: Literal["frames", "whole"] = Field(
        "frames",
        description="frames: a video is shown as pictures. whole: as an input of its own, by processors that take one "
        "(Qwen's, InternVL's, LLaVA-OneVision's).",
    )

    effects: ClassVar[Mapping[str, When]] = {
        "prompts": When(
            lambda _, run: not run.only_scores or any(stage.reads_prompts for stage in run.stages),
            "a stage without `pairs:` of its own",
        ),
        "looked_at": When(
            lambda s, run: (
                (s.prompts and any(hasattr(stage, "curriculum") for stage in run.stages))
                or (s.records and not is_function(s.records))
            ),
            "`prompts` and a stage that draws them in the order of a curriculum, or `records` that are no function",
        ),
        "where": When(lambda s, _: s.prompts, "`prompts`"),
        "shuffle_options": When(lambda s, _: s.prompts, "`prompts`"),
        "eval_where": When(lambda s, _: s.eval_prompts, "`eval_prompts`"),
        "prompts_count": When(lambda s, _: is_function(s.prompts), "a function as `prompts`"),
        "prompts_options": When(lambda s, _: is_function(s.prompts), "a function as `prompts`"),
        "eval_prompts_count": When(lambda s, _: is_function(s.eval_prompts), "a function as `eval_prompts`"),
        "eval_prompts_options": When(lambda s, _: is_function(s.eval_prompts), "a function as `eval_prompts`"),
        "train_turns": When(lambda s, _: s.records, "`records`"),
        "chain": When(lambda s, _: s.records, "`records`"),
        "records_count": When(lambda s, _: is_function(s.records), "a function as `records`"),
        "options": When(lambda s, _: is_function(s.records), "a function as `records`"),
        "subset": When(
            lambda s, run: any(source.startswith("hub:") for source in (*s.sources, *_pairs(run))), "a `hub:` source"
        ),
        "split": When(
            lambda s, run: any(map(has_splits, (s.prompts, s.records, *_pairs(run)))),
            "prompts, records or pairs that have splits",
        ),
        "eval_split": When(lambda s, _: has_splits(s.eval_prompts), "`eval_prompts` that have splits"),
    }

    @property
    def first_looked_at(self) -> int | None:
        """How many are looked at before a run; None: all."""
        return LOOKED_AT if self.looked_at is None else self.looked_at or None

    @property
    def sources(self) -> list[str]:
        """Where prompts and records come from."""
        return [source for source in (self.prompts, self.eval_prompts, self.records) if source]

    @field_validator("where", "eval_where")
    @classmethod
    def _ranges_are_of_numbers(cls, where: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        for column, wanted in where.items():
            if not is_range(wanted):
                continue
            numbers = [n for n in wanted.values() if isinstance(n, int | float) and not isinstance(n, bool)]
            if len(numbers) < len(wanted) or wanted.get("min", -math.inf) > wanted.get("max", math.inf):
                raise ValueError(f"{info.field_name}: {column} is {short(wanted)}; give numbers, min up to max")
        return where

    @model_validator(mode="after")
    def _held_out_is_held_out(self) -> DataConfig:
        same = (self.prompts, self.prompts_options) == (self.eval_prompts, self.eval_prompts_options)
        if is_function(self.prompts) and same:
            raise ValueError(
                "eval_prompts is the function of the training prompts with the same options, so that they would be "
                "the same prompts; give eval_prompts_options of its own, such as {split: heldout}"
            )
        return self


def _pairs(run: Any) -> list[str]:
    """Where the stages of a run have pairs of their own."""
    return [str(stage.pairs) for stage in run.stages if getattr(stage, "pairs", None)]


def is_range(wanted: Any) -> bool:
    """Whether what `where` wants of a column is a range of numbers."""
    return isinstance(wanted, Mapping) and bool(wanted) and set(wanted) <= {"min", "max"}


def is_function(source: str | None) -> bool:
    """Whether a source is `file.py:function`, or a function that was given in Python."""
    return objects.is_function(source) or (bool(source) and str(source).rpartition(":")[0].endswith(".py"))


def has_splits(source: str | None) -> bool:
    """Whether a source may have splits: one of the hub, or a folder."""
    return (
        bool(source)
        and not is_function(source)
        and not objects.is_object(source)
        and (str(source).startswith("hub:") or not resolve(str(source)).is_file())
    )
