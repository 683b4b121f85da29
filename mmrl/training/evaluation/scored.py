"""Held-out records of a scalar reward model: how it orders their candidates, or how near to their numbers it comes."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor

from mmrl.config import ConfigError, RewardModelStage
from mmrl.core import pairwise
from mmrl.data.scored import Scored, hard, scored
from mmrl.data.showing import SHOW
from mmrl.modalities.adapter import Unsupported
from mmrl.training.evaluation.scores import chosen
from mmrl.training.learner import Learner, averaged
from mmrl.training.run import Run
from mmrl.training.scoring import Rows, micro_batches, rows_of, scores_of
from mmrl.types import Group, Prompt, Sample, Score

SCORE = "score"  # of a stored sample


def scored_metrics(run: Run, tag: str, learners: Sequence[Learner] = ()) -> dict[str, float]:
    """What the last stage that trains a scalar head measures of the held-out records, {} for a run without one.

    eval/pairs/accuracy, eval/pairs/margin, or eval/values/r2, eval/values/error (see metrics_of), and each for every
    value of the column `eval.by`, with /<value> behind it. eval/invalid: records that could not be scored, where there
    are any (data.on_bad_record: skip); they are in no mean. Candidates are stored as samples with their scores.
    Raises ConfigError for a record that cannot be scored, unless it is to be skipped.
    """
    options = run.measured_stage
    if options is None or not run.data.eval_prompts:
        return {}
    prompts, processes = chosen(run.data.eval_prompts, run.config.eval), run.processes
    mine = list(enumerate(prompts))[processes.rank :: processes.world]
    groups, invalid = [], 0
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    with averaged(learners):
        for learner in learners:
            learner.refuse_non_finite()
        records, made, places, invalid = _rows(run, options, mine)
        rows = Rows.of(made)
        parts = micro_batches(run.adapter, rows.samples, options.micro_batch)
        with run.whole():
            found = scores_of(run.adapter, rows, parts, options.outputs)
    for number, (record, samples) in enumerate(zip(records, made, strict=True)):
        own = found[rows.place[number][rows.present[number]]]
        task = record.prompt.record.get(run.config.eval.by) if run.config.eval.by else None
        for name, value in sums_of(options, Rows.of([samples]), [record], own).items():
            sums[""][name] += value
            if task is not None:
                sums[f"/{task}"][name] += value
        groups.append(_group(record, samples, places[number], own[:, 0]))
    whole: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for some in processes.gather(sums):
        for behind, values in some.items():
            for name, value in values.items():
                whole[behind][name] += value
    metrics = {f"eval/{k}{behind}": v for behind, some in whole.items() for k, v in metrics_of(some).items()}
    lost = processes.total(invalid)
    metrics |= {"eval/invalid": lost} if lost else {}
    if run.config.report.eval_prompts and options.rows == "candidates":
        run.keep(f"eval_{tag}", groups, run.config.report.eval_prompts, metrics)
    return metrics


def _rows(
    run: Run, options: RewardModelStage, mine: Sequence[tuple[int, Prompt]]
) -> tuple[list[Scored], list[list[Sample]], list[int], int]:
    """(records, their samples, their places, how many could not be read) of this process."""
    records, made, places, reasons = [], [], [], []
    for place, prompt in mine:
        try:
            record = _scored(prompt, options)
            made.append(rows_of(run.adapter, record, options.show))
            records.append(record)
            places.append(place)
        except Unsupported:
            raise
        except ValueError as error:  # a picture, a pair that is none, one that is too long
            if run.config.data.on_bad_record == "stop" and not isinstance(error, ConfigError):
                raise ConfigError(f"held-out {error}; mend it, or set data.on_bad_record: skip") from error
            if run.config.data.on_bad_record == "stop":
                raise
            reasons.append(f"{prompt.id!r}: {error}")
    if reasons:
        warnings.warn(f"{len(reasons)} held-out records are not scored, first {reasons[0]}", stacklevel=3)
    return records, made, places, len(reasons)


def _group(record: Scored, samples: Sequence[Sample], place: int, scores: Tensor) -> Group:
    """A record's candidates with their scores, for the sample store."""
    for sample, score in zip(samples, scores.tolist()) if len(samples) == len(scores) else ():
        sample.scores[SCORE] = Score.of(score)
        sample.reward = score
    return Group(record.prompt, place, list(samples))


# -------------------------------------------------------------------- records


def _scored(prompt: Prompt, options: RewardModelStage) -> Scored:
    return scored(prompt, options.rows, options.reads, options.objective == "bce")


def kept_records(prompts: Sequence[Prompt], options: RewardModelStage, on_bad: str) -> list[Scored]:
    """The records of prompts as the stage takes them, those of low confidence left out.

    Raises ConfigError for a bad one, unless `on_bad` is skip, and where none is left.
    """
    found, bad, unsure = [], [], 0
    for prompt in prompts:
        try:
            record = _scored(prompt, options)
        except ValueError as error:
            if on_bad == "stop":
                raise ConfigError(f"{error}; mend it, or set data.on_bad_record: skip") from None
            bad.append(str(error))
            continue
        if record.confidence is not None and record.confidence < options.confidence:
            unsure += 1
        else:
            found.append(record)
    if bad:
        warnings.warn(f"{len(bad)} of {len(prompts)} records are skipped, first {bad[0]}", stacklevel=2)
    if not found:
        raise ConfigError(
            f"stage {options.name!r}: no record is left of {len(prompts)} ({len(bad)} bad, {unsure} below confidence "
            f"{options.confidence:g})"
        )
    if options.confidence and not unsure and all(record.confidence is None for record in found):
        raise ConfigError(f"stage {options.name!r}: confidence: no record has a column `confidence`; leave it out")
    if options.show != SHOW and not any(one.images for record in found for one in record.candidates):
        raise ConfigError(f"stage {options.name!r}: show: no candidate has pictures; leave it out")
    return found


def heldout_records(run: Run) -> list[Scored]:
    """The run's held-out records, as they are measured, those of low confidence too: a measurement leaves nothing
    out."""
    options = run.measured_stage
    if options is None or not run.data.eval_prompts:
        return []
    everything = options.model_copy(update={"confidence": 0.0, "show": SHOW})
    return kept_records(run.data.eval_prompts, everything, run.config.data.on_bad_record)


# -------------------------------------------------------------------- metrics


def shares_of(record: Scored, options: RewardModelStage) -> tuple[float, ...]:
    return hard(record.shares) if options.labels == "hard" else record.shares


def sums_of(options: RewardModelStage, rows: Rows, records: Sequence[Scored], found: Tensor) -> dict[str, float]:
    """What the metrics of records are made of; sums of several processes add up."""
    made = found[:, 0][rows.place] if len(found) else found.new_zeros(rows.place.shape)
    if options.reads == "shares":
        shares = rows.padded([shares_of(record, options) for record in records])
        accuracy, margin, decided = pairwise.outcome(made, shares, rows.present)
        known = decided.double()
        sums = {"accuracy": accuracy * known, "margin": margin * known, "decided": known}
        return {f"pairs/{name}": float(value.sum()) for name, value in sums.items()}
    every = rows.padded([record.values for record in records])
    known = rows.present & ~every.isnan()
    values = every[known]
    given = made[known].sigmoid() if options.objective == "bce" else made[known]
    sums = {"error": (given - values).abs(), "squared": (given - values) ** 2, "value": values, "value2": values**2}
    return {f"values/{name}": float(value.sum()) for name, value in sums.items()} | {"values/count": float(len(values))}


def metrics_of(sums: dict[str, float]) -> dict[str, float]:
    """Metrics of the sums of all processes, NaN of nothing. pairs/accuracy, pairs/margin: over records with a preferred
    candidate. values/error: mean absolute error; values/r2: 1 - squared error / variance of the values."""
    if "pairs/decided" in sums:
        decided = sums["pairs/decided"] or math.nan
        return {name: sums[name] / decided for name in ("pairs/accuracy", "pairs/margin")}
    count = sums["values/count"] or math.nan
    around = sums["values/value2"] - sums["values/value"] ** 2 / count
    spread = around if around > 1e-12 * count else math.nan
    return {"values/error": sums["values/error"] / count, "values/r2": 1 - sums["values/squared"] / spread}
