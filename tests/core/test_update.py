"""What a step decides before its first micro-batch: the final mask, the weights, the preparations."""

import math

import pytest
import torch

from mmrl.core.aggregate import weights as aggregation
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.reduce import local
from mmrl.core.update import prepare_update

MASK = torch.tensor([[True, True, True], [True, True, False]])
A = torch.tensor([1.0, -1.0], dtype=torch.float64)
OLD = torch.zeros(2, 3, dtype=torch.float64)


def batch(**rest):
    return Batch(torch.tensor([0, 0]), 1, MASK, logp_old=OLD, **rest)


def test_an_algorithm_without_hooks_leaves_the_mask_and_has_no_weight():
    found, weight, metrics = prepare_update(batch(), A, Algorithm())
    assert weight is None
    assert metrics == {}
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
    found = prepare_update(given, A, algorithm).batch
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


def test_each_mask_chooses_among_what_the_ones_before_it_left():
    """Ten actions, two of them in a finished sample: the two with the least entropy. 20 % of those is one."""
    mask = torch.tensor([[True] * 8, [True, True] + [False] * 6])
    entropy = torch.arange(16, 0, -1).reshape(2, 8).float()
    whole = Batch(torch.zeros(2).long(), 1, mask, truncated=torch.tensor([True, False]), features={"entropy": entropy})
    found = prepare_update(whole, A, Algorithm(action_masks=["overlong", "top_entropy"])).batch
    assert found.mask.nonzero().tolist() == [[1, 0]]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(
    ("name", "options", "share"),
    [
        ("truncate", {}, 0.0),
        ("mask", {"level": "sequence", "cap": 3.0}, 3 / 5),
        ("icepop", {"low": 0.5, "high": 1.5}, 1 / 5),
        ("geometric", {"low": 0.9, "high": 1.1}, 3 / 5),
        ("opsm", {"delta": 0.05}, 2 / 5),
    ],
)
def test_the_share_that_a_correction_cut_is_told(name, options, share, drop):
    """Of five actions: the ratios of sample 0 are 1, 1 and 4 (geometric mean 4^(1/3)), those of sample 1 both 0.9."""
    ratio = torch.tensor([[1.0, 1.0, 4.0], [0.9, 0.9, 1.0]], dtype=torch.float64)
    given = batch(logp_sampler=-ratio.log(), features={"logp": OLD})
    correction = {"name": name, **options, **({} if name == "truncate" else {"drop": drop})}
    assert prepare_update(given, A, Algorithm(correction=correction)).metrics["rollout/cut"] == pytest.approx(share)


def test_opsm_needs_no_sampler_but_the_policy_that_sampled():
    """Without another engine's log-probs the drift since logp_old alone counts: here -1 at every action."""
    found = prepare_update(batch(features={"logp": OLD - 1}), A, Algorithm(correction="opsm"))
    assert found.weight[MASK].tolist() == [1, 1, 1, 0, 0]
    assert found.metrics["rollout/cut"] == pytest.approx(2 / 5)


@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean", "prompt_mean"])
def test_samples_without_advantage_stay_in_the_denominators(aggregate):
    """As TRL and verl average: the policy gradient of a step with a silent group is that of the others, diluted."""
    found = prepare_update(batch(), torch.tensor([1.0, 0.0]), Algorithm())
    weights = aggregation(aggregate, found.batch.mask, torch.tensor([0, 1]), 2, local)
    assert weights.sum() == pytest.approx(1)
    assert weights[1].sum() == pytest.approx({"token_mean": 2 / 5}.get(aggregate, 1 / 2))


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
