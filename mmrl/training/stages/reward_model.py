"""The stage of scalar reward models: rows of records, scored, and losses of their scores."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.config import ConfigError, RewardModelStage
from mmrl.core import pairwise
from mmrl.data.order import cyclic_indices
from mmrl.data.prompts import load_prompts, reading, training_prompts
from mmrl.data.scored import Scored
from mmrl.media import MediaError
from mmrl.modalities.adapter import Unsupported
from mmrl.training.cursor import Cursor
from mmrl.training.evaluation.scored import heldout_records, kept_records, metrics_of, shares_of, sums_of
from mmrl.training.policy import Policy
from mmrl.training.processes import Processes
from mmrl.training.run import Run
from mmrl.training.run_folder import result_path
from mmrl.training.scoring import Rows, checked, micro_batches, rows_of, scores_in, scores_of
from mmrl.training.stages.base import Stage
from mmrl.training.stages.readable import Readable
from mmrl.training.stages.together import missing
from mmrl.training.stages.two_passes import two_passes
from mmrl.types import Prompt, Sample


class RewardModel(Stage[RewardModelStage]):
    """Training of a scalar head on preferences among candidates, or on numbers of candidates or of steps."""

    Options = RewardModelStage

    def __init__(self, run: Run, options: RewardModelStage, policy: Policy, cursor: Cursor) -> None:
        super().__init__(run, options, policy, cursor)
        self.records = kept_records(self._prompts(), options, run.config.data.on_bad_record)
        run.adapter.score_notes = {**run.adapter.score_notes, **_about(run, options)}
        self._first = rows_of(run.adapter, self.records[0], options.show)[0]  # an adapter that takes no answers says so
        with torch.no_grad():
            self._spare()
        self.readable: Readable[Scored] = Readable(
            run.processes, run.config.data, lambda record: record.pictures, run.adapter.check_media
        )

    def _spare(self) -> Tensor:
        """Scores of the first row of all: what every process can compute."""
        return checked(self.run.adapter, [self._first], scores_in(self._first), self.options.outputs)

    def _prompts(self) -> Sequence[Prompt]:
        options, data = self.options, self.run.config.data
        if options.data_from:
            kept = str(result_path(self.run.folder, options.data_from))
            return load_prompts(kept, {}, data.on_bad_record, max_pixels=data.max_pixels, max_seconds=data.max_seconds)
        if options.pairs:
            return load_prompts(options.pairs, {}, data.on_bad_record, **reading(data, options.pairs))
        if options.options is not None:
            return training_prompts(data.model_copy(update={"prompts_options": options.options}))
        return self.run.data.prompts

    def step(self) -> dict[str, Any]:
        """One optimizer step over `batch` records; a step of one micro-batch scores once, for both passes."""
        began = time.monotonic()
        options, cursor, run = self.options, self.cursor, self.run
        adapter, processes, learner = run.adapter, run.processes, self.learners["policy"]
        order = cyclic_indices(cursor.step * options.batch, options.batch, len(self.records), self.seed)
        records, made, everyone = self._shown(self.readable.of([self.records[i] for i in order]))
        rows = Rows.of(made)
        parts = micro_batches(adapter, rows.samples, options.micro_batch)

        def scored(part: list[int]) -> tuple[Tensor, Tensor]:
            places = rows.at(part)
            return places, checked(adapter, [rows.samples[r] for r in part], len(places), options.outputs)

        more = missing(run, len(parts))
        is_short = len(parts) + more == 1 and cursor.micro == 0
        once = scored(parts[0]) if is_short and parts else None
        extra = self._spare() if is_short and more else None  # when the others score theirs
        found = scores_of(adapter, rows, parts, options.outputs) if once is None else _put(once)
        if not is_short:
            with torch.no_grad():
                for _ in range(more):
                    self._spare()
        loss = two_passes(
            self,
            found,
            lambda leaf: losses(options, rows, records, leaf),
            parts,
            scored if once is None else lambda _: once,
            everyone,
            (record.id for record in records),
            self._spare if extra is None else lambda: extra,
        )
        row = {"loss": loss, **_row(options, processes, rows, records, found)}
        row["grad_norm"] = learner.step()
        cursor.samples += int(processes.total(len(rows.samples)))
        cursor.actions += int(processes.total(rows.count))
        return {**row, "lr": learner.rate, "time/step": time.monotonic() - began}

    def _shown(self, everyones: Sequence[Scored]) -> tuple[list[Scored], list[list[Sample]], int]:
        """(this process's records, their samples, records of all processes) that fit into the model's context.

        The others are told and left out, alike everywhere, or stop the run, as data.on_bad_record says."""
        processes = self.run.processes
        mine: list[Scored] = []
        made: list[list[Sample]] = []
        unfit: list[str] = []
        for record in everyones[processes.rank :: processes.world]:
            try:
                made.append(rows_of(self.run.adapter, record, self.options.show))
                mine.append(record)
            except (ConfigError, MediaError, Unsupported):
                raise
            except ValueError as error:
                unfit.append(f"record {record.id!r}: {error}")
        told = [why for some in processes.gather(unfit) for why in some]
        if told and self.run.config.data.on_bad_record == "stop":
            raise ConfigError(f"{told[0]}; mend it, or set data.on_bad_record: skip")
        if told and processes.is_main:
            warnings.warn(f"{len(told)} records are left out, first {told[0]}", stacklevel=3)
        return mine, made, len(everyones) - len(told)

    def end(self) -> None:
        """Store the mean and the standard deviation of scores with the model."""
        run, options = self.run, self.options
        if not options.calibrate:
            return
        held = heldout_records(run)
        records = self.readable.of((held or self.records)[: options.calibrate])
        rows, processes = Rows.of(self._shown(records)[1]), run.processes
        parts = micro_batches(run.adapter, rows.samples, options.micro_batch)
        with run.whole():
            own = scores_of(run.adapter, rows, parts, options.outputs)[:, 0].tolist()
        scores = torch.tensor([score for some in processes.gather(own) for score in some], dtype=torch.float64)
        if len(scores) < 2:
            warnings.warn(
                f"stage {options.name!r}: calibrate: {len(scores)} scores have no standard deviation, none is stored",
                stacklevel=2,
            )
            return
        spread = {"mean": float(scores.mean()), "std": float(scores.std()), "scores": len(scores)}
        run.adapter.score_notes = {**run.adapter.score_notes, **spread}


def _about(run: Run, options: RewardModelStage) -> dict[str, Any]:
    """What a reader of the model has to know to show it candidates as the training did."""
    section = run.config.model
    model = section.model_dump(mode="json") if hasattr(section, "model_dump") else {}
    return {"modality": run.config.modality, "model": model, "show": options.show, "rows": options.rows}


def _put(scored: tuple[Tensor, Tensor]) -> Tensor:
    """Scores [K, outputs] at their places: float64 on the CPU, without gradient."""
    places, scores = scored
    found = torch.zeros(scores.shape, dtype=torch.float64)
    found[places] = scores.detach().cpu().double()
    return found


def _row(
    options: RewardModelStage, processes: Processes, rows: Rows, records: Sequence[Scored], found: Tensor
) -> dict[str, Any]:
    """Metrics over all processes of scores [K, outputs]."""
    sums = sums_of(options, rows, records, found)
    means = metrics_of({name: processes.total(value) for name, value in sums.items()})
    return {**means, **spread_of(found[:, 0], processes)}


def losses(options: RewardModelStage, rows: Rows, records: Sequence[Scored], scores: Tensor) -> Tensor:
    """[P] of scores [K, outputs]."""
    made = scores[:, 0][rows.place] if len(scores) else scores.new_zeros(rows.place.shape)
    if options.reads == "values":
        cost = pairwise.squared_error if options.objective == "mse" else pairwise.cross_entropy
        values = rows.padded([record.values for record in records])
        return cost(made, values.nan_to_num(), rows.present & ~values.isnan())
    margin: Tensor | float = torch.tensor([margin_of(record, options) for record in records], dtype=torch.float64)
    shares = rows.padded([shares_of(record, options) for record in records])
    if options.objective == "uncertainty":
        loss = pairwise.uncertain(made, scores[:, 1][rows.place], shares, rows.present, margin)
    elif options.objective == "ties":
        loss = pairwise.with_ties(made, shares, rows.present, margin, options.tie_edge)
    elif options.objective == "plackett_luce":
        loss = pairwise.plackett_luce(made, shares, rows.present, margin)
    else:
        loss = pairwise.bradley_terry(made, shares, rows.present, margin)
    return loss + options.centre * pairwise.centring(made, rows.present)


def margin_of(record: Scored, options: RewardModelStage) -> float:
    return (record.margin or 0.0) if options.margin is None else options.margin


def spread_of(scores: Tensor, processes: Processes) -> dict[str, float]:
    """score/mean, score/min, score/max over all processes."""
    count = processes.total(len(scores))
    total = processes.total(float(scores.sum()))
    low = processes.total(float(scores.min()) if len(scores) else math.inf, "min")
    high = processes.total(float(scores.max()) if len(scores) else -math.inf, "max")
    return {"score/mean": total / count, "score/min": low, "score/max": high} if count else {}
