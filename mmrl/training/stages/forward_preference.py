"""The preference stage of flow models: pairs of pictures that are noised, and how well policy and reference undo it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from mmrl.config import ConfigError, ForwardPreferenceStage
from mmrl.core import flow_match
from mmrl.core.denoising_preference import diffusion_dpo
from mmrl.data.order import cyclic_indices
from mmrl.data.pairs import pair_of
from mmrl.data.prompts import load_prompts, reading
from mmrl.modalities.adapter import Adapter
from mmrl.training.cursor import Cursor
from mmrl.training.policy import Policy
from mmrl.training.run import Run
from mmrl.training.stages.base import Stage
from mmrl.training.stages.forward_update import Draws, refuse_other_path
from mmrl.training.stages.readable import Readable
from mmrl.training.stages.rows import tell_empty
from mmrl.training.stages.together import missing
from mmrl.training.stages.two_passes import two_passes
from mmrl.types import Noised, Pair, Prompt, Sample


class ForwardPreference(Stage[ForwardPreferenceStage]):
    """Diffusion-DPO on given pairs."""

    Options = ForwardPreferenceStage
    needs_reference = True

    def __init__(self, run: Run, options: ForwardPreferenceStage, policy: Policy, cursor: Cursor) -> None:
        super().__init__(run, options, policy, cursor)
        self.pairs = self._pairs()
        self.readable: Readable[Pair] = Readable(
            run.processes, run.config.data, lambda pair: pair.prompt, run.adapter.check_media
        )

    def begin(self) -> None:
        """An adapter that noises no samples, or takes no pictures, says so before anything is trained."""
        given_samples(self.run.adapter, self.pairs[:1])
        self.run.adapter.velocities([], torch.zeros(0), [], clean=torch.zeros(0))

    def _pairs(self) -> list[Pair]:
        """Raises ConfigError for a record that is no pair of two, or whose prompt the adapter cannot take, unless
        data.on_bad_record is skip."""
        pairs, data = self.options.pairs, self.run.config.data
        prompts, source = self.run.data.prompts, pairs or data.prompts
        if pairs:
            prompts = load_prompts(pairs, {}, data.on_bad_record, **reading(data, pairs))
        found, bad = [], []
        for prompt in prompts:
            try:
                found.append(_two(prompt, self.run.adapter))
            except ValueError as error:
                bad.append(str(error))
        if bad and (data.on_bad_record == "stop" or not found):
            raise ConfigError(f"{source}: {bad[0]}; mend it, or set data.on_bad_record: skip")
        if bad:
            warnings.warn(f"{len(bad)} of {len(bad) + len(found)} pairs are skipped, first {bad[0]}", stacklevel=2)
        return found

    def step(self) -> dict[str, Any]:
        """One optimizer step over `batch` pairs, both of a pair at the same times with the same noise."""
        began = time.monotonic()
        options, cursor, run = self.options, self.cursor, self.run
        processes, adapter, learner = run.processes, run.adapter, self.learners["policy"]
        order = cyclic_indices(cursor.step * options.batch, options.batch, len(self.pairs), self.seed)
        everyones = self.readable.of([self.pairs[i] for i in order])
        places = range(len(everyones))[processes.rank :: processes.world]
        pairs = [everyones[place] for place in places]
        samples = given_samples(adapter, pairs)
        names = [(cursor.step, place) for place in places for _ in range(2)]
        looks = Looks(
            samples, Draws.named(names, options.draws, options.times, self.seed, adapter), options.micro_batch
        )
        more = missing(run, len(looks.parts))
        spare = looks if looks.parts or not more else self._spare(everyones)
        own, reference = looks.errors(adapter)
        for context in (nullcontext, adapter.reference) * more:
            with torch.no_grad(), context():
                spare.first_error(adapter)
        smoothing = torch.tensor([smoothed(pair, options.label_smoothing) for pair in pairs], dtype=torch.float64)

        def losses(error: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            answers = (error[0::2], error[1::2], reference[0::2], reference[1::2])
            return diffusion_dpo(*answers, beta=options.beta, label_smoothing=smoothing)

        loss = two_passes(
            self,
            own,
            lambda leaf: losses(leaf)[0],
            looks.parts,
            lambda part: (part[:, 0], looks.error(adapter, part)),
            len(everyones),
            (pair.id for pair in pairs),
            lambda: spare.first_error(adapter),
        )
        share = 1 / max(len(everyones), 1)
        told = {f"preference/{k}": processes.total(float(v.sum())) * share for k, v in losses(own)[1].items()}
        told["preference/error"] = processes.total(float(own.sum())) * share / 2
        row: dict[str, Any] = {"loss": loss, **told}
        if not everyones:
            row = dict.fromkeys(row)  # means over no pair
            tell_empty(cursor.total_steps + 1, processes)
        row["grad_norm"] = learner.step()
        cursor.samples += 2 * len(everyones)
        cursor.actions += 2 * len(everyones) * options.draws
        return {**row, "lr": learner.rate, "time/step": time.monotonic() - began}

    def _spare(self, everyones: Sequence[Pair]) -> Looks:
        """Of another process's samples."""
        adapter, options = self.run.adapter, self.options
        samples = given_samples(adapter, everyones[:1])[:1]
        return Looks(samples, Draws.named([(self.cursor.step, 0)], 1, options.times, self.seed, adapter), 1)


class Looks:
    """S samples at K draws each. parts: micro-batches [b, 2] of (sample, draw); an error is a mean over the draws."""

    def __init__(self, samples: Sequence[Sample], draws: Draws, micro_batch: int) -> None:
        self.samples, self.draws = samples, draws
        pairs = torch.cartesian_prod(torch.arange(len(samples)), torch.arange(draws.times.shape[1])).view(-1, 2)
        self.parts: list[Tensor] = list(pairs.split(micro_batch)) if len(pairs) else []

    def error(self, adapter: Adapter, part: Tensor) -> Tensor:
        """[b]: what a micro-batch adds to the errors of its samples, differentiable."""
        return self._error(self._noised(adapter, part))

    def _error(self, found: Noised) -> Tensor:
        return flow_match.matching_error(found.velocity, found.clean, found.noise) / self.draws.times.shape[1]

    @torch.no_grad()
    def errors(self, adapter: Adapter) -> Tensor:
        """[2, S] float64 on the CPU: under the policy, and under the reference."""
        sums = torch.zeros(2, len(self.samples), dtype=torch.float64)
        for number, part in enumerate(self.parts):
            for line, context in zip(sums, (nullcontext, adapter.reference)):
                with context():
                    found = self._noised(adapter, part)
                if number == 0:
                    refuse_other_path(adapter, found, self.draws.times[part[:, 0], part[:, 1]])
                line.index_add_(0, part[:, 0], self._error(found).double().cpu())
        return sums

    def first_error(self, adapter: Adapter) -> Tensor:
        """[1]: of the first sample at its first draw, differentiable."""
        return self.error(adapter, self.parts[0][:1])

    def _noised(self, adapter: Adapter, part: Tensor) -> Noised:
        rows, columns = part[:, 0], part[:, 1]
        samples = [self.samples[row] for row in rows.tolist()]
        seeds = [self.draws.seeds[row][column] for row, column in part.tolist()]
        return adapter.velocities(samples, self.draws.times[rows, columns], seeds)


def given_samples(adapter: Adapter, pairs: Sequence[Pair]) -> list[Sample]:
    """The pairs as samples that store what they are, [preferred, other, preferred, ...]; from `adapter.given`."""
    samples: list[Sample] = []
    for pair in pairs:
        better = int(pair.shares[1] > pair.shares[0])
        made = adapter.given(pair.prompt, [pair.candidates[better], pair.candidates[1 - better]])
        if len(made) != 2 or any(s.trajectory is None or "clean" not in s.trajectory.tensors for s in made):
            raise ConfigError(
                f"{type(adapter).__name__}.given, pair {pair.id!r:.60}: expected two samples that store `clean`, as a "
                "forward_preference stage noises them"
            )
        samples += made
    return samples


def smoothed(pair: Pair, label_smoothing: float) -> float:
    """How likely the label of a pair is swapped: what its soft shares say, with so many of the labels swapped."""
    return label_smoothing + (1 - 2 * label_smoothing) * min(pair.shares)


def _two(prompt: Prompt, adapter: Adapter) -> Pair:
    pair = pair_of(prompt)
    if len(pair.candidates) != 2 or pair.better is None:
        raise ValueError(f"pair {pair.id!r:.60}: expected two candidates, of which one is preferred")
    if (why := adapter.usable(prompt)) is not None:
        raise ValueError(f"pair {pair.id!r:.60}: {why}")
    return pair
