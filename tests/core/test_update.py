"""What a step decides before its first micro-batch: the final mask, the weights, the preparations."""

import math

import pytest
import torch

from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.update import prepare_update

MASK = torch.tensor([[True, True, True], [True, True, False]])
A = torch.tensor([1.0, -1.0], dtype=torch.float64)
OLD = torch.zeros(2, 3, dtype=torch.float64)


def batch(**rest):
    return Batch(torch.tensor([0, 0]), 1, MASK, logp_old=OLD, **rest)


def test_an_algorithm_without_hooks_leaves_the_mask_and_has_no_weight():
    found, weight = prepare_update(batch(), A, Algorithm())
    assert weight is None
    assert torch.equal(found.mask, MASK)
    assert found.feature("advantage").tolist() == [[1, 1, 1], [-1, -1, 0]]


def test_an_advantage_per_action_is_kept_inside_the_mask():
    given = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, math.nan]])
    assert prepare_update(batch(), given, Algorithm())[0].feature("advantage").tolist() == [[1, 2, 3], [4, 5, 0]]


def test_masks_and_rejections_leave_the_mask_together():
    """Overlong drops sample 1; the sampler was e^-2 less sure of sample 0's last action: weight e^2 > 5."""
    sampler = torch.tensor([[0.0, 0.0, -2.0], [0.0, 0.0, math.nan]], dtype=torch.float64)
    given = batch(truncated=torch.tensor([False, True]), logp_sampler=sampler)
    algorithm = Algorithm(action_masks=["overlong"], correction={"name": "icepop", "drop": True})
    found, _ = prepare_update(given, A, algorithm)
    assert found.mask.tolist() == [[True, True, False], [False, False, False]]


def test_weights_multiply():
    """Truncation at 1.5 of ratios 1, 1.2, 2; dimension tokens, the first action of each row, weigh more."""
    sampler = -torch.tensor([[1.0, 1.2, 2.0], [1.0, 1.0, 9.0]], dtype=torch.float64).log()
    classes = torch.tensor([[1, 0, 0], [1, 0, 0]])
    given = batch(logp_sampler=sampler, features={"token_class": classes})
    alone = prepare_update(given, A, Algorithm(action_weights=["precision_tokens"]))[1]
    cut = {"name": "truncate", "cap": 1.5}
    both = prepare_update(given, A, Algorithm(action_weights=["precision_tokens"], correction=cut))[1]
    ratio = torch.tensor([[1.0, 1.2, 1.5], [1.0, 1.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(both[MASK], (alone * ratio)[MASK])
    assert alone[0, 0] > alone[0, 1] > 0


def test_preparations_see_the_final_mask():
    """BAPO counts: with sample 1, the only negative one, masked, the first bounds are enough."""
    features = {"logp": OLD}
    algorithm = Algorithm(gate={"name": "bapo", "target": 0.9}, action_masks=["overlong"])
    kept = batch(truncated=torch.tensor([False, False]), features=features)
    dropped = batch(truncated=torch.tensor([False, True]), features=features)
    assert prepare_update(kept, A, algorithm)[0].column("gate_high").tolist() == pytest.approx([3.0, 3.0])
    assert prepare_update(dropped, A, algorithm)[0].column("gate_high").tolist() == pytest.approx([1.2, 1.2])


def test_a_correction_without_the_samplers_log_probs_is_an_error():
    with pytest.raises(ValueError, match="no logp_sampler"):
        prepare_update(batch(), A, Algorithm(correction="truncate"))


def test_two_ranks_decide_as_one(ranks):
    """A quantile of entropy over both ranks: the top 20 % of five actions is one."""
    entropy = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.8, 0.0]])
    algorithm = Algorithm(action_masks=["top_entropy"])

    def work(rank, reduce):
        part = slice(rank, rank + 1)
        given = Batch(torch.tensor([0]), 1, MASK[part], reduce, logp_old=OLD[part], features={"entropy": entropy[part]})
        return prepare_update(given, A[part], algorithm)[0].mask

    whole = prepare_update(batch(features={"entropy": entropy}), A, algorithm)[0].mask
    assert torch.equal(torch.cat(ranks(work)), whole)
    assert whole.tolist() == [[False, True, False], [False, False, False]]
