"""The clause that a prompt alone gives the samples that it gives beside others: exact, but for what 16 bits round."""

from __future__ import annotations

import pytest
import torch

from mmrl.training.check_company import Shared, in_company, shared
from mmrl.types import Group, Prompt, Sample, Trajectory

PROMPT = Prompt("p", "a")


def group(rows, logp=-1.0, **tensors):
    """A group of one sample for each row of ids."""
    samples = []
    for index, ids in enumerate(rows):
        made = {"ids": torch.tensor(ids), **tensors}
        samples.append(Sample(PROMPT, index, "", Trajectory(torch.full((len(ids),), logp), torch.ones(len(ids)), made)))
    return Group(PROMPT, 0, samples)


class Alone:
    """An adapter whose rollout of one prompt is given."""

    def __init__(self, precision, made):
        self.precision, self.made = precision, made

    def rollout(self, groups, n, step, seed):
        return [self.made]


def holds(precision, together, alone):
    return in_company(Alone(precision, alone), [together], [PROMPT], len(together.samples), 0)[0]


TWENTY = [[5] * 10, [6] * 10]
ONE_OVER = [[5] * 9 + [7], [6] * 10]  # 19 choices that are the same, and one that is not
OTHERS = [[7] * 10, [8] * 10]


@pytest.mark.parametrize(
    ("precision", "alone", "passes"),
    [
        (torch.float32, group(TWENTY, -1.00005), True),
        (torch.float32, group(TWENTY, -1.001), False),
        (torch.float32, group(ONE_OVER), False),
        (torch.bfloat16, group(TWENTY, -1.09), True),
        (torch.bfloat16, group(TWENTY, -1.12), False),
        (torch.bfloat16, group(ONE_OVER, -1.09), True),
        (torch.bfloat16, group(OTHERS), False),  # though every log-prob is the same
        (torch.bfloat16, group([[5, 5, 5, 7], [6, 6, 6, 7]]), False),
        (torch.bfloat16, group([[5] * 9, [6] * 10]), True),  # one ended sooner
        (torch.bfloat16, group(TWENTY, prompt=torch.tensor([1, 2, 3])), False),  # behind something else
        (torch.float16, group(TWENTY, -1.015), True),
        (torch.float16, group(TWENTY, -1.03), False),
        (torch.float16, group(ONE_OVER), False),
    ],
)
def test_the_precision_decides_what_passes(precision, alone, passes):
    assert holds(precision, group(TWENTY), alone) is passes


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_neighbouring_ids_of_a_large_vocabulary_are_other_actions(precision):
    """As numbers 151,000 and 151,001 are as near as rounding."""
    assert not holds(precision, group([[151_000] * 3]), group([[151_001] * 3]))


def test_what_is_shared_ends_where_a_choice_went_over():
    later = group([[5, 5, 9, 9], [6, 6, 6, 6]])
    later.samples[0].trajectory.logp[2:] = -7.0  # of other tokens: not compared
    assert shared([group([[5, 5, 5], [6, 6, 6, 6]])], [later]) == Shared(actions=6, parted=1, gap=0.0)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_latents_are_compared_as_numbers(precision):
    some, other = (group([[0, 1]], x=torch.tensor([[1.0], [value]])) for value in (100.0, 100.005))
    assert holds(precision, some, other)
    assert not holds(precision, some, group([[0, 1]], x=torch.tensor([[1.0], [150.0]])))
