"""The preference stage: pairs of given answers, scored under policy and reference."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmrl.config import ConfigError, PreferenceStage
from mmrl.core import pair_losses as objectives
from mmrl.data.order import cyclic_indices
from mmrl.data.preferences import load_preferences
from mmrl.data.prompts import reading
from mmrl.modalities.adapter import Adapter
from mmrl.training.cursor import Cursor
from mmrl.training.policy import Policy
from mmrl.training.processes import Processes
from mmrl.training.run import Run
from mmrl.training.run_folder import result_path
from mmrl.training.stages.base import Stage
from mmrl.training.stages.readable import Readable
from mmrl.training.stages.rows import tell_empty
from mmrl.training.stages.together import missing
from mmrl.training.stages.two_passes import two_passes
from mmrl.types import Prompt, Sample, Slice


@dataclass(frozen=True)
class Shift:
    """The running mean of implicit rewards that bco compares with, over `count` of them."""

    delta: float = 0.0
    count: float = 0.0


class Preference(Stage[PreferenceStage]):
    """Offline preference training on pairs of answers, chosen and rejected."""

    Options = PreferenceStage

    def __init__(self, run: Run, options: PreferenceStage, policy: Policy, cursor: Cursor) -> None:
        super().__init__(run, options, policy, cursor)
        self.pairs = self._pairs()
        self._first = given_samples(run.adapter, self.pairs[:1])[0]  # an adapter that takes no answers says so
        self.readable: Readable[Prompt] = Readable(
            run.processes, run.config.data, lambda pair: pair, run.adapter.check_media
        )
        self.shift = Shift()

    def _pairs(self) -> Sequence[Prompt]:
        options, data = self.options, self.run.config.data
        if options.data_from:
            kept = result_path(self.run.folder, options.data_from)
            return load_preferences(kept, data.on_bad_record, max_pixels=data.max_pixels)
        return load_preferences(str(options.pairs), data.on_bad_record, **reading(data, str(options.pairs)))

    @property
    def needs_reference(self) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        """One optimizer step over `batch` pairs; the scores of the two passes are log-probs of whole answers."""
        began = time.monotonic()
        options, cursor, run = self.options, self.cursor, self.run
        processes, adapter, learner = run.processes, run.adapter, self.learners["policy"]
        order = cyclic_indices(cursor.step * options.batch, options.batch, len(self.pairs), self.seed)
        everyones = self.readable.of([self.pairs[i] for i in order])
        pairs = everyones[processes.rank :: processes.world]
        samples = given_samples(adapter, pairs)
        masks = _masks(samples)
        slices = list(adapter.slices(samples, options.micro_batch)) if samples else []
        more = missing(run, len(slices))
        logp, reference = score(adapter, samples, masks, slices)
        with torch.no_grad():
            for _ in range(more):
                self._spare(reference=True)
        shift = shifted(self.shift, options, processes, logp, reference)

        def losses(logp: Tensor) -> objectives.Outcome:
            return _objective(options, logp, reference, masks.sum(1), shift.delta)

        def again(part: Slice) -> tuple[Tensor, Tensor]:
            replay = adapter.logprobs([samples[r] for r in part.rows], part.columns)
            inside = _cut(masks, part).to(replay.logp.device)
            return part.rows, torch.where(inside, replay.logp, 0.0).sum(1)

        ids = (pair.id for pair in pairs)
        loss = two_passes(self, logp, lambda leaf: losses(leaf)[0], slices, again, len(everyones), ids, self._spare)
        row: dict[str, Any] = {"loss": loss, **_row(options, processes, losses(logp)[1], len(everyones), shift)}
        if not everyones:
            row = dict.fromkeys(row)  # means over no pair
            tell_empty(cursor.total_steps + 1, processes)
        row["grad_norm"] = learner.step()
        self.shift = shift
        cursor.samples += 2 * len(everyones)
        cursor.actions += int(processes.total(float(masks.sum())))
        return {**row, "lr": learner.rate, "time/step": time.monotonic() - began}

    def _spare(self, reference: bool = False) -> Tensor:
        """The log-prob of the first trained action of all: what every process can compute."""
        columns = torch.nonzero(self._first.actions.mask)[:1, 0]
        asks = {"reference": True} if reference else {}
        return self.run.adapter.logprobs([self._first], columns, **asks).logp

    # ---------------------------------------------------------------- a part of a checkpoint

    def state(self) -> dict[str, Any]:
        return {"delta": self.shift.delta, "count": self.shift.count}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        self.shift = Shift(**state)


def given_samples(adapter: Adapter, pairs: Sequence[Prompt]) -> list[Sample]:
    """The pairs as samples with trajectories, [chosen, rejected, chosen, ...]; from `adapter.given`."""
    samples: list[Sample] = []
    for pair in pairs:
        made = adapter.given(pair, [pair.record["chosen"], pair.record["rejected"]])
        if len(made) != 2 or any(s.trajectory is None or not s.trajectory.mask.any() for s in made):
            raise ConfigError(
                f"{type(adapter).__name__}.given, pair {pair.id!r}: expected two samples, each with a trajectory that "
                "has a trained action"
            )
        samples += made
    return samples


@torch.no_grad()
def score(adapter: Adapter, samples: Sequence[Sample], masks: Tensor, slices: Sequence[Slice]) -> tuple[Tensor, Tensor]:
    """Sums over trained actions of log-probs under the policy and under the reference, each [S] float64 on the CPU."""
    sums = torch.zeros(2, len(samples), dtype=torch.float64)
    for part in slices:
        replay = adapter.logprobs([samples[r] for r in part.rows], part.columns, reference=True)
        if replay.logp_reference is None:
            raise ConfigError(
                f"{type(adapter).__name__}.logprobs gives no logp_reference: a preference stage compares with the "
                "reference's log-probabilities"
            )
        inside = _cut(masks, part)
        for line, values in zip(sums, (replay.logp, replay.logp_reference)):
            line.index_add_(0, part.rows, torch.where(inside, values.cpu().double(), 0.0).sum(1))
    return sums[0], sums[1]


def shifted(shift: Shift, options: PreferenceStage, processes: Processes, logp: Tensor, reference: Tensor) -> Shift:
    """The shift after a step over answers [S] of this process; that of dpo stays as it is."""
    if options.objective == "dpo":
        return shift
    rewards = objectives.implicit_reward(logp, reference, options.beta)
    total, n = processes.total(float(rewards.sum())), processes.total(len(rewards))
    return Shift(*objectives.shifted(shift.delta, shift.count, total, n))


def _row(
    options: PreferenceStage, processes: Processes, metrics: Mapping[str, Tensor], pairs: int, shift: Shift
) -> dict[str, Any]:
    """Means over the `pairs` of all processes."""
    share = 1 / max(pairs, 1)
    row = {f"preference/{k}": processes.total(float(v.sum())) * share for k, v in metrics.items()}
    return row if options.objective == "dpo" else {**row, "preference/delta": shift.delta}


def _objective(
    options: PreferenceStage, logp: Tensor, reference: Tensor, length: Tensor, delta: float
) -> objectives.Outcome:
    """The losses of pairs, whose answers [S] take turns: chosen, rejected, chosen ..."""
    answers = (logp[0::2], logp[1::2], reference[0::2], reference[1::2])
    if options.objective == "mpo":
        return objectives.mpo(
            *answers,
            length_chosen=length[0::2],
            delta=delta,
            beta=options.beta,
            label_smoothing=options.label_smoothing,
            weights=options.weights,
        )
    if options.objective == "bco":
        return objectives.bco(*answers, delta=delta, beta=options.beta)
    return objectives.dpo(*answers, beta=options.beta, label_smoothing=options.label_smoothing, form=options.form)


def _masks(samples: Sequence[Sample]) -> Tensor:
    """[S, T] bool: the trained actions."""
    masks = [s.trajectory.mask.bool() for s in samples if s.trajectory is not None]
    if not masks:
        return torch.zeros(0, 0, dtype=torch.bool)
    return torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)


def _cut(masks: Tensor, part: Slice) -> Tensor:
    return masks[part.rows[:, None], part.columns[None, :]]
