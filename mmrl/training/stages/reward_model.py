"""The stage of scalar reward models: rows of records, scored, and an exact gradient however they are cut."""

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
from mmrl.modalities.adapter import Unsupported
from mmrl.pictures import PictureError
from mmrl.training.cursor import Cursor
from mmrl.training.evaluation.scored import heldout_records, kept_records, metrics_of, shares_of, sums_of
from mmrl.training.learner import NonFiniteError
from mmrl.training.policy import Policy
from mmrl.training.processes import Processes
from mmrl.training.run import Run
from mmrl.training.run_folder import result_path
from mmrl.training.scoring import Rows, checked, micro_batches, rows_of, scores_of
from mmrl.training.stages.base import Stage
from mmrl.training.stages.readable import Readable
from mmrl.types import Prompt, Sample


class RewardModel(Stage[RewardModelStage]):
    """Training of a scalar head on preferences among candidates, or on numbers of candidates or of steps."""

    Options = RewardModelStage

    def __init__(self, run: Run, options: RewardModelStage, policy: Policy, cursor: Cursor) -> None:
        super().__init__(run, options, policy, cursor)
        self.records = kept_records(self._prompts(), options, run.config.data.on_bad_record)
        run.adapter.score_notes = {**run.adapter.score_notes, **_about(run, options)}
        first = rows_of(run.adapter, self.records[0], options.show)  # an adapter that takes no answers says so
        checked(run.adapter, first[:1], Rows.of([first[:1]]).count, options.outputs)
        self.readable: Readable[Scored] = Readable(run.processes, run.config.data, lambda record: record.pictures)

    def _prompts(self) -> Sequence[Prompt]:
        options, data = self.options, self.run.config.data
        if options.data_from:
            kept = str(result_path(self.run.folder, options.data_from))
            return load_prompts(kept, {}, data.on_bad_record, max_pixels=data.max_pixels)
        if options.pairs:
            return load_prompts(options.pairs, {}, data.on_bad_record, **reading(data, options.pairs))
        if options.options is not None:
            return training_prompts(data.model_copy(update={"prompts_options": options.options}))
        return self.run.data.prompts

    def step(self) -> dict[str, Any]:
        """One optimizer step over `batch` records.

        The loss is of all scores of a record, and its gradient is a number for each score. So where a step takes
        several micro-batches, scores are computed without gradient first, the loss is differentiated by them, and the
        second pass, micro-batch by micro-batch, is a weighted sum of scores: the gradient is the same however rows are
        cut, and the rows of a record need not be in memory together.
        """
        began = time.monotonic()
        options, cursor, run = self.options, self.cursor, self.run
        adapter, processes, learner = run.adapter, run.processes, self.learners["policy"]
        order = cyclic_indices(cursor.step * options.batch, options.batch, len(self.records), self.seed)
        records, made, everyone = self._shown(self.readable.of([self.records[i] for i in order]))
        rows = Rows.of(made)
        parts = micro_batches(adapter, rows.samples, options.micro_batch)
        graph: Tensor | None = None
        if len(parts) == 1 and cursor.micro == 0:
            graph = checked(adapter, [rows.samples[r] for r in parts[0]], rows.count, options.outputs)
            found = torch.zeros(graph.shape, dtype=torch.float64)
            found[rows.at(parts[0])] = graph.detach().cpu().double()
        else:
            found = scores_of(adapter, rows, parts, options.outputs)
        weights, row = differentiate(options, processes, rows, records, found, everyone)
        if not math.isfinite(row["loss"]):
            ids = ", ".join(record.id for record in records[:8])
            raise NonFiniteError(
                f"reward model's loss is {row['loss']} at step {cursor.step + 1}, records {ids}; lower optim.lr or "
                "look at these records"
            )
        cursor.phase = "update"
        for number, part in enumerate(parts):
            if number < cursor.micro:
                continue
            places = rows.at(part)
            if graph is None:
                graph = checked(adapter, [rows.samples[r] for r in part], len(places), options.outputs)
            if graph.requires_grad:
                graph.backward(weights[places].to(graph))
            graph = None
            cursor.micro = number + 1
            run.point("micro")
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
            except (ConfigError, PictureError, Unsupported):
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


def differentiate(
    options: RewardModelStage,
    processes: Processes,
    rows: Rows,
    records: Sequence[Scored],
    found: Tensor,
    everyone: int,
) -> tuple[Tensor, dict[str, Any]]:
    """(gradient [K, outputs] of the mean loss by each score, metrics over all processes).

    found: [K, outputs] scores. everyone: records of the step, on all processes.
    """
    leaf = found.clone().requires_grad_(True)
    loss = losses(options, rows, records, leaf)
    share = 1 / max(everyone, 1)
    (gradient,) = torch.autograd.grad(loss.sum() * share, leaf, allow_unused=True) if len(leaf) else (None,)
    row: dict[str, Any] = {"loss": processes.total(float(loss.detach().sum())) * share}
    sums = sums_of(options, rows, records, found)
    row |= metrics_of({name: processes.total(value) for name, value in sums.items()})
    return torch.zeros_like(found) if gradient is None else gradient, row | spread_of(found[:, 0], processes)


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
