"""The gradient of losses of whole scores, against one backward through all rows at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mmrl.training.cursor import Cursor
from mmrl.training.learner import NonFiniteError
from mmrl.training.processes import Processes
from mmrl.training.stages.two_passes import two_passes

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # six rows of four actions
EVERYONE = 5  # records of all processes, three of them here


def pairwise(scores):
    """A loss of the pairs of rows (0, 1), (2, 3), (4, 5), which no sum over rows is."""
    return -torch.nn.functional.logsigmoid((scores[0::2] - scores[1::2]) * 3)


class Model:
    """Scores of rows: sums over actions of tanh(x * weight). A part is (rows, columns)."""

    def __init__(self) -> None:
        self.weight = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_(True)
        self.asked: list = []

    def again(self, part):
        self.asked.append(part)
        rows, columns = (torch.tensor(places) for places in part)
        return rows, torch.tanh(X * self.weight)[rows[:, None], columns[None, :]].sum(1)

    def scores(self):
        with torch.no_grad():
            return torch.tanh(X * self.weight).sum(1)


def stage(cursor=None):
    points: list = []
    run = SimpleNamespace(processes=Processes(), point=points.append, adapter=SimpleNamespace(shards=None))
    options = SimpleNamespace(kind="preference")
    return SimpleNamespace(run=run, cursor=cursor or Cursor(), options=options, points=points)


CUTS = {
    "at once": [([0, 1, 2, 3, 4, 5], [0, 1, 2, 3])],
    "row by row": [([row], [0, 1, 2, 3]) for row in range(6)],
    "pairs apart": [([0, 2, 4], [0, 1, 2, 3]), ([5, 1, 3], [0, 1, 2, 3])],
    "within rows": [([0, 1, 2, 3, 4, 5], [column]) for column in range(4)],
    "both": [([4, 0], [1, 3]), ([1, 2, 3, 5], [0, 1, 2, 3]), ([0, 4], [0, 2])],
}


def accumulate(model, parts, to=None, losses=pairwise):
    return two_passes(to or stage(), model.scores(), losses, parts, model.again, EVERYONE, ["a", "b", "c"])


@pytest.mark.parametrize("cut", CUTS)
def test_the_gradient_is_that_of_one_backward_however_rows_are_cut(cut):
    whole, model, to = Model(), Model(), stage()
    wanted = pairwise(torch.tanh(X * whole.weight).sum(1)).sum() / EVERYONE
    wanted.backward()
    assert accumulate(model, CUTS[cut], to) == pytest.approx(wanted.item(), rel=1e-12)
    torch.testing.assert_close(model.weight.grad, whole.weight.grad, rtol=1e-12, atol=0)
    assert (to.cursor.phase, to.cursor.micro, to.points) == ("update", len(CUTS[cut]), ["micro"] * len(CUTS[cut]))


@pytest.mark.parametrize("done", range(7))
def test_an_update_that_was_cut_goes_on_behind_what_is_done(done):
    parts, whole, first, rest = CUTS["row by row"], Model(), Model(), Model()
    accumulate(whole, parts)
    accumulate(first, parts[:done])
    accumulate(rest, parts, stage(Cursor(phase="update", micro=done)))
    assert rest.asked == parts[done:]
    grads = [model.weight.grad for model in (first, rest) if model.weight.grad is not None]
    torch.testing.assert_close(sum(grads), whole.weight.grad, rtol=1e-12, atol=0)


def test_a_loss_that_is_no_number_stops_before_any_gradient():
    model, to = Model(), stage(Cursor(step=2))
    with pytest.raises(NonFiniteError, match=r"^preference loss is nan at step 3, records a, b, c; lower optim\.lr"):
        accumulate(model, CUTS["row by row"], to, losses=lambda scores: pairwise(scores) * float("nan"))
    assert (model.weight.grad, model.asked, to.cursor.phase) == (None, [], "step")


def test_a_process_without_records_takes_part_and_adds_nothing():
    empty = torch.zeros(0, dtype=torch.float64)
    assert two_passes(stage(), empty, pairwise, [], Model().again, EVERYONE, []) == 0.0


def test_a_loss_that_no_score_moves_gives_zeros():
    model = Model()
    accumulate(model, CUTS["at once"], losses=lambda scores: torch.ones(3, requires_grad=True))
    assert model.weight.grad.tolist() == [0.0] * 4
