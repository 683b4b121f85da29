"""Records scored by a model with a scalar head: their rows, micro-batches, and the scores as the losses take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mmrl.config import ConfigError
from mmrl.data.scored import Scored
from mmrl.data.showing import candidate_row
from mmrl.media import pictures_of
from mmrl.modalities.adapter import Adapter
from mmrl.types import Candidate, Prompt, Sample


@dataclass(frozen=True)
class Rows:
    """Rows of P records, S of them, and where their K scores belong.

    samples: [S]. spans: of each sample in [K]. place: [P, C] int64 in [K], present: [P, C] bool; padded.
    """

    samples: list[Sample]
    spans: list[slice]
    place: Tensor
    present: Tensor

    @classmethod
    def of(cls, records: Sequence[Sequence[Sample]]) -> Rows:
        """The samples of each record (of `rows_of`), together."""
        samples = [sample for made in records for sample in made]
        ends = torch.tensor([0, *(scores_in(sample) for sample in samples)]).cumsum(0).tolist()
        counts = [sum(scores_in(sample) for sample in made) for made in records]
        present = torch.arange(max(counts, default=0))[None] < torch.tensor(counts, dtype=torch.int64)[:, None]
        place = torch.zeros(present.shape, dtype=torch.int64).masked_scatter(present, torch.arange(ends[-1]))
        return cls(samples, [slice(a, b) for a, b in pairwise(ends)], place, present)

    @property
    def count(self) -> int:
        """K, scores altogether."""
        return self.spans[-1].stop if self.spans else 0

    def at(self, rows: Sequence[int]) -> Tensor:
        """Places in [K] of the scores of some samples, sample by sample."""
        return torch.cat([torch.arange(self.spans[r].start, self.spans[r].stop) for r in rows])

    def padded(self, values: Sequence[Sequence[float]]) -> Tensor:
        """A number for each score of each record -> [P, C] float64, 0 where no score is."""
        flat = torch.tensor([value for some in values for value in some], dtype=torch.float64)
        return torch.zeros(self.present.shape, dtype=torch.float64).masked_scatter(self.present, flat)


def scores_in(sample: Sample) -> int:
    """How many scores a sample has: one, or one a step."""
    ends = sample.actions.tensors.get("ends")
    return 1 if ends is None else len(ends)


def rows_of(adapter: Adapter, record: Scored, show: str) -> list[Sample]:
    """The samples of a record: one a candidate, or one of all steps. Nothing is ever cut.

    Raises ValueError, which names the record, for one that does not fit into the model's context.
    """
    if record.steps:
        return [adapter.steps(record.prompt, record.steps)]
    made = [row_of(adapter, record.prompt, candidate, show) for candidate in record.candidates]
    for number, sample in enumerate(made):
        sample.index = number
    return made


def row_of(adapter: Adapter, prompt: Prompt, candidate: Candidate, show: str) -> Sample:
    """The sample of a candidate of a prompt. Raises ValueError as `rows_of`, and where the model does not see the
    pictures."""
    asked, answer = candidate_row(prompt, candidate, show)
    found = adapter.given(asked, [answer])
    if len(found) != 1 or found[0].trajectory is None or not found[0].trajectory.mask.any():
        raise ConfigError(
            f"{type(adapter).__name__}.given, record {prompt.id!r}: expected one sample with a trained action"
        )
    pictures = len(asked.record.get("images") or ())
    if (seen := len(pictures_of(found[0].media))) != pictures:
        raise ValueError(f"prompt {prompt.id!r}: {pictures} pictures, of which the model sees {seen}")
    return found[0]


def micro_batches(adapter: Adapter, samples: Sequence[Sample], budget: int) -> list[list[int]]:
    """Samples that are scored together. Raises ConfigError for an adapter that cuts a sample."""
    parts = [part.rows.tolist() for part in adapter.slices(samples, budget)] if samples else []
    if sorted(row for part in parts for row in part) != list(range(len(samples))):
        raise ConfigError(
            f"{type(adapter).__name__}.slices cuts samples within, and scores are of whole ones; raise the stage's "
            "micro_batch"
        )
    return parts


@torch.no_grad()
def scores_of(adapter: Adapter, rows: Rows, parts: Sequence[Sequence[int]], outputs: int) -> Tensor:
    """[K, outputs] float64 on the CPU, without gradient."""
    found = torch.zeros(rows.count, outputs, dtype=torch.float64)
    for part in parts:
        found[rows.at(part)] = (
            checked(adapter, [rows.samples[r] for r in part], len(rows.at(part)), outputs).cpu().double()
        )
    return found


def checked(adapter: Adapter, samples: Sequence[Sample], count: int, outputs: int) -> Tensor:
    """Adapter.scores of the samples. Raises ConfigError for another shape than [count, outputs]."""
    scores = adapter.scores(samples)
    if scores.shape != (count, outputs):
        raise ConfigError(
            f"{type(adapter).__name__}.scores is {' x '.join(map(str, scores.shape))} for {count} rows, expected "
            f"{count} x {outputs}"
        )
    return scores
