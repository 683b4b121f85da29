"""Action masks and weights against sorting, hand tables and dense matrices; 1 rank, 2 ranks, any order."""

import dataclasses
import math
import statistics

import pytest
import torch
from every import every
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core.batch import Batch
from mmrl.core.reduce import local
from mmrl.core.registry import Hook
from mmrl.core.token_features import fisher, prob_gap2
from mmrl.core.weight import MASKS, WEIGHTS, lp_reg_selection, order_statistic, phi

N, T = 8, 6


def make(features=None, columns=None, mask=None, reduce=local, **more):
    tensors = {name: torch.as_tensor(x) for name, x in (features or {}).items()}
    if mask is None:
        mask = torch.ones_like(next(iter(tensors.values())), dtype=torch.bool)
    mask = torch.as_tensor(mask, dtype=torch.bool)
    group = torch.zeros(len(mask), dtype=torch.int64)
    return Batch(group, 1, mask, reduce, features=tensors, columns=columns or {}, **more)


def mask_of(name, batch, advantage=None, **options):
    advantage = torch.ones(batch.mask.shape) if advantage is None else advantage
    return MASKS.bind(Hook(name, options))(advantage, batch)


def weight_of(name, batch, **options):
    return WEIGHTS.bind(Hook(name, options))(torch.ones(batch.mask.shape, dtype=torch.float64), batch)


def random_batch(reduce=local, rows=slice(None)):
    """Every feature that a mask or a weight needs; the same numbers at every call."""
    g = torch.Generator().manual_seed(5)
    logits = torch.randn(N, T, 9, generator=g) * 3
    ids = torch.randint(0, 9, (N, T), generator=g)
    features = {
        "entropy": torch.rand(N, T, generator=g),
        "token_class": torch.randint(0, 3, (N, T), generator=g),
        "decision": (torch.rand(N, T, generator=g) > 0.8).double(),
        "prob_gap2": prob_gap2(logits, ids),
        "fisher": fisher(logits, ids),
        "logp": -3 * torch.rand(N, T, generator=g),
        "proxy_logp": -3 * torch.rand(N, T, generator=g),
        "std": 0.1 + torch.rand(N, T, generator=g),
    }
    mask = torch.rand(N, T, generator=g) > 0.25
    truncated = torch.rand(N, generator=g) > 0.6
    expert = (torch.rand(N, generator=g) > 0.5).double()
    advantage = 3 * torch.randn(N, 1, generator=g, dtype=torch.float64).expand(N, T)
    batch = make(
        {name: x[rows] for name, x in features.items()},
        {"expert": expert[rows]},
        mask[rows],
        reduce,
        truncated=truncated[rows],
    )
    return advantage[rows], batch


HOOKS = [(MASKS, name) for name in MASKS] + [(WEIGHTS, name) for name in WEIGHTS]
ids = [f"{registry.kind}-{name}" for registry, name in HOOKS]


def call(hook, rows=slice(None), reduce=local):
    registry, name = hook
    return registry.bind(Hook(name))(*random_batch(reduce, rows))


# ------------------------------------------------------------------ every hook


@pytest.mark.parametrize("hook", HOOKS, ids=ids)
def test_two_ranks_equal_one(hook, ranks):
    cuts = [slice(0, 3), slice(3, N)]
    whole = call(hook)
    assert torch.equal(torch.cat(ranks(lambda rank, reduce: call(hook, cuts[rank], reduce))), whole)
    _, batch = random_batch()
    inside = whole[batch.mask]
    assert inside.min() < inside.max(), "the hook must have something to do in this test"


@pytest.mark.parametrize("hook", HOOKS, ids=ids)
def test_a_rank_may_have_nothing(hook, ranks):
    cuts = [slice(0, N), slice(N, N)]
    assert torch.equal(torch.cat(ranks(lambda rank, reduce: call(hook, cuts[rank], reduce))), call(hook))


@every("hook", HOOKS, ids=ids)
def test_a_rank_may_have_samples_without_an_action(hook, ranks):
    """Answers that a budget cut before their first token: the others are chosen as without that rank."""
    advantage, batch = random_batch()
    nothing = {name: x[:2, :0] for name, x in batch.features.items()}

    def work(rank, reduce):
        if rank == 0:
            return call(hook, reduce=reduce)
        empty = make(nothing, {"expert": torch.zeros(2)}, batch.mask[:2, :0], reduce, truncated=torch.zeros(2).bool())
        return hook[0].bind(Hook(hook[1]))(advantage[:2, :0], empty)

    whole, none = ranks(work)
    assert torch.equal(whole, call(hook)) and none.shape == (2, 0)


@every("hook", HOOKS, ids=ids)
def test_permuting_samples_permutes_the_result(hook):
    order = torch.randperm(N)
    assert torch.equal(call(hook, order), call(hook)[order])


@every("hook", HOOKS, ids=ids)
@every("garbage", [math.nan, math.inf, 50.0])
def test_padding_changes_nothing(hook, garbage):
    registry, name = hook
    advantage, batch = random_batch()
    dirty = {key: torch.where(batch.mask, x, garbage) for key, x in batch.features.items()}
    again = registry.bind(Hook(name))(advantage, batch.having(features=dirty))
    assert torch.equal(again[batch.mask], call(hook)[batch.mask])
    assert again.isfinite().all()
    if registry is MASKS:
        assert not again[~batch.mask].any()
    else:
        assert again.dtype == advantage.dtype


@every("hook", HOOKS, ids=ids)
def test_a_batch_in_which_nothing_is_trained(hook):
    registry, name = hook
    advantage, batch = random_batch()
    empty = make(batch.features, batch.columns, torch.zeros(N, T), truncated=batch.truncated)
    got = registry.bind(Hook(name))(advantage, empty)
    assert got.isfinite().all()
    assert registry is WEIGHTS or not got.any()


@pytest.mark.parametrize("name", ["top_entropy", "capo", "forking"])
def test_a_feature_that_is_not_finite_is_an_error_on_every_rank(name, ranks):
    cuts = [slice(0, 3), slice(3, N)]

    def work(rank, reduce):
        advantage, batch = random_batch(reduce, cuts[rank])
        feature = MASKS[name].needs[0]
        values = batch.feature(feature).clone()
        if rank == 1:
            values[batch.mask] = math.nan
        with pytest.raises(ValueError, match=f"{feature}.*not finite"):
            MASKS.bind(Hook(name))(advantage, batch.having(features={feature: values}))
        return True

    assert ranks(work) == [True, True]


@every("hook", HOOKS, ids=ids)
def test_a_missing_input_is_named(hook):
    registry, name = hook
    if name == "top_advantage":  # the advantage is all it looks at
        return
    bare = make(mask=torch.ones(2, 3))
    needed = (*registry[name].needs, "truncated")
    with pytest.raises(ValueError, match="|".join(needed)):
        registry.bind(Hook(name))(torch.ones(2, 3), bare)


# ------------------------------------------------------------------ entropy


def test_top_entropy_by_hand():
    """Eight trained actions: a share of .25 is the two highest, 8 and 7; the 9 is padding."""
    entropy = [[1.0, 8.0, 9.0], [2.0, 3.0, 4.0], [5.0, 6.0, 7.0]]
    batch = make({"entropy": entropy}, mask=[[1, 1, 0], [1, 1, 1], [1, 1, 1]])
    kept = [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert mask_of("top_entropy", batch, share=0.25).int().tolist() == kept
    assert weight_of("top_entropy", batch, share=0.25).tolist() == kept
    assert torch.equal(mask_of("top_entropy", batch, share=1.0), batch.mask)
    assert not mask_of("top_entropy", batch, share=0.0).any()
    # ceil(.26 * 8) = 3
    assert mask_of("top_entropy", batch, share=0.26).sum() == 3


def test_ties_at_the_threshold_all_stay():
    batch = make({"entropy": [[0.0, 2.0, 2.0, 2.0, 3.0]]})
    assert mask_of("top_entropy", batch, share=0.4).tolist() == [[False, True, True, True, True]]


@every("count", [50, 100])
@every("share", [0.14, 0.2, 0.28, 0.56])
def test_shares_that_divide_evenly_are_exact(count, share):
    """0.14 * 50 is a little above 7 in floating point; the share is 7 actions nevertheless."""
    batch = make({"entropy": torch.randperm(count)[None].float()})
    assert mask_of("top_entropy", batch, share=share).sum() == round(share * count)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40), st.data())
def test_order_statistic_is_that_of_sorting(values, data):
    rank = data.draw(st.integers(0, len(values) - 1))
    assert order_statistic(torch.tensor(values), rank, local).item() == sorted(values)[rank]


def test_order_statistic_of_two_ranks(ranks):
    values = torch.cat([torch.randn(37), torch.zeros(5), -torch.zeros(5), torch.randn(20) * 1e-30])
    expected = values.sort().values
    for rank in range(0, len(values), 5):
        parts = ranks(lambda r, reduce, k=rank: order_statistic(values[r::2], k, reduce))
        assert parts[0].item() == parts[1].item() == expected[rank].item()


# ------------------------------------------------------------------ kinds of actions


def test_precision_tokens_by_hand():
    """A number weighs 3: 5 becomes 3 in the first row, 4 becomes 2 in the second; nothing is trained in the third."""
    classes = [[1, 0, 2], [1, 0, 1], [1, 1, 0]]
    batch = make({"token_class": classes}, mask=[[1, 1, 1], [1, 1, 0], [0, 0, 0]])
    got = weight_of("precision_tokens", batch, weight=3.0)
    assert got[batch.mask].tolist() == pytest.approx([9 / 5, 3 / 5, 3 / 5, 3 / 2, 1 / 2])
    assert got.isfinite().all()


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.floats(0.1, 20))
def test_precision_tokens_keep_the_mean_weight(classes, weight):
    got = weight_of("precision_tokens", make({"token_class": [classes]}), weight=weight)
    assert got.sum().item() == pytest.approx(len(classes))
    assert statistics.fmean(got.flatten().tolist()) == pytest.approx(1)


def test_noise_level_by_hand():
    """0.1, 0.3 and 0.2 are trained, mean 0.2; with a scale it is that times the deviation."""
    batch = make({"std": [[0.1, 0.3], [0.2, 9.0]]}, mask=[[1, 1], [1, 0]])
    assert weight_of("noise_level", batch)[batch.mask].tolist() == pytest.approx([0.5, 1.5, 1.0])
    assert weight_of("noise_level", batch, scale=2.25)[batch.mask].tolist() == pytest.approx([0.225, 0.675, 0.45])


def test_top_advantage_by_hand():
    """Of 4 samples and of 3, one of which has no action: the 2 largest |A| of each, and what equals the second."""
    rows = [[1.0, -0.5], [-2.0, 0.1], [0.5, 0.5], [-1.0, 0.2], [0.3, 0.0], [9.0, 9.0], [0.0, 0.1]]
    mask = [[1, 1], [1, 1], [1, 1], [1, 0], [1, 1], [0, 0], [1, 0]]
    batch = dataclasses.replace(make({}, mask=mask), group=torch.tensor([0, 0, 0, 0, 1, 1, 1]), n_groups=2)
    kept = {k: mask_of("top_advantage", batch, torch.tensor(rows), keep=k).any(1).int().tolist() for k in (1, 2, 9)}
    assert kept == {1: [0, 1, 0, 0, 1, 0, 0], 2: [1, 1, 0, 1, 1, 0, 1], 9: [1, 1, 1, 1, 1, 0, 1]}
    assert torch.equal(mask_of("top_advantage", batch, torch.tensor(rows), keep=9), batch.mask)


def test_selective_loss_drops_the_decision_alone():
    batch = make({"decision": [[0, 1, 0], [1, 0, 0]]}, mask=[[1, 1, 1], [1, 1, 0]])
    assert mask_of("selective_loss", batch).int().tolist() == [[1, 0, 1], [0, 1, 0]]


def test_overlong_drops_truncated_samples():
    batch = make(mask=[[1, 1, 0], [1, 1, 1]], truncated=torch.tensor([False, True]))
    assert mask_of("overlong", batch).int().tolist() == [[1, 1, 0], [0, 0, 0]]


def test_chord_phi_by_hand():
    p = torch.tensor([[0.5, 0.9, 0.1], [0.5, 0.9, 0.1]], dtype=torch.float64)
    batch = make({"logp": p.log()}, {"expert": torch.tensor([0, 1])})
    got = weight_of("chord_phi", batch)
    assert got[0].tolist() == [1, 1, 1]
    assert got[1].tolist() == pytest.approx([0.25, 0.09, 0.09])


def test_phi_is_detached_and_0_for_certain_and_impossible_tokens():
    logp = torch.tensor([0.0, -1e-6, -50.0, math.log(0.5)], dtype=torch.float64, requires_grad=True)
    got = phi(logp)
    assert not got.requires_grad
    assert got.tolist() == pytest.approx([0, 1e-6, math.exp(-50), 0.25], rel=1e-5)


# ------------------------------------------------------------------ stability


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_capo_against_dense_matrices(scale):
    """The two shifts from the gradient G = A v h' of the last layer, token by token: |h|^2 lr is the scale."""
    logits, ids = 2 * torch.randn(4, 5, 6), torch.randint(0, 6, (4, 5))
    advantage = (3 * torch.randn(4, 1)).expand(4, 5).double()
    batch = make({"prob_gap2": prob_gap2(logits, ids), "fisher": fisher(logits, ids)})
    limits = {"policy_limit": 0.4, "objective_limit": 1.5}
    hidden, rate = torch.tensor([1.0, 2.0], dtype=torch.float64), scale / 5
    expected = torch.zeros(4, 5, dtype=torch.bool)
    seen = set()
    for i in range(4):
        for t in range(5):
            p, a = logits[i, t].double().softmax(-1), advantage[i, t]
            v = torch.eye(6, dtype=torch.float64)[ids[i, t]] - p
            layer = a * torch.outer(v, hidden)
            moved, matrix = layer @ hidden, torch.diag(p) - torch.outer(p, p)
            policy = rate**2 * (v @ moved) ** 2 / 2
            hessian = a * ((v @ moved) ** 2 - moved @ matrix @ moved)
            objective = rate * (layer**2).sum() + rate**2 * hessian / 2
            seen.add((bool(policy < 0.4), bool(objective.abs() < 1.5)))
            expected[i, t] = policy < 0.4 and objective.abs() < 1.5
    assert {(True, True), (False, False)} <= seen
    assert torch.equal(mask_of("capo", batch, advantage, scale=scale, **limits), expected)


def test_capo_limits_work_alone_and_switch_off():
    """A = 6, v'v = 1/2, v'Fv = 1/5, scale 1: policy shift (6/2)^2 / 2 = 4.5, objective 18 + 216 / 20 / 2 = 23.4."""
    batch = make({"prob_gap2": [[0.5]], "fisher": [[0.2]]})
    advantage = torch.tensor([[6.0]])

    def kept(policy, objective, sign=1):
        limits = {"policy_limit": policy, "objective_limit": objective}
        return mask_of("capo", batch, sign * advantage, scale=1.0, **limits).item()

    assert kept(None, None)
    assert kept(4.6, None) and not kept(4.4, None)
    assert kept(None, 23.5) and not kept(None, 23.3)
    # Punishing the same token gains less: 18 - 5.4.
    assert kept(None, 12.7, sign=-1) and not kept(None, 12.5, sign=-1)


def otsu(values):
    """The values above the split that separates two classes the most, by trying them all; all of them without one."""
    best, kept = -1.0, list(values)
    for cut in sorted(set(values))[:-1]:
        low, high = [v for v in values if v <= cut], [v for v in values if v > cut]
        apart = len(low) * len(high) * (statistics.fmean(high) - statistics.fmean(low)) ** 2
        if apart > best + 1e-12:
            best, kept = apart, high
    return sorted(kept)


@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=7), min_size=1, max_size=4))
def test_forking_tokens_are_above_each_samples_own_otsu_threshold(rows):
    mask = torch.tensor([[1] * len(row) + [0] * (7 - len(row)) for row in rows])
    entropy = torch.tensor([[*map(float, row), *[math.nan] * (7 - len(row))] for row in rows], dtype=torch.float64)
    keep = mask_of("forking", make({"entropy": entropy}, mask=mask))
    assert [sorted(e[k].tolist()) for e, k in zip(entropy, keep)] == [otsu(row) for row in rows]


def test_lp_reg_selection_by_hand():
    """Six punished actions: half of them, the three lowest, are -9, -8, -7; the -8 is below a filtered proxy."""
    logp = [[-9.0, -1.0, -8.0], [-7.0, -2.0, -3.0], [-50.0, -60.0, -70.0], [-55.0, -65.0, -75.0]]
    proxy = [[-4.0, -0.5, -1e4], [-6.0, -1.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    advantage = torch.tensor([[-1.0], [-0.5], [1.0], [0.0]]).expand(4, 3)
    batch = make({"logp": logp, "proxy_logp": proxy})
    got = lp_reg_selection(advantage, batch, share=0.5)
    assert got.int().tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    # Three candidates: a minimum of three is met, a minimum of four is not.
    assert torch.equal(lp_reg_selection(advantage, batch, share=0.5, minimum=3), got)
    assert not lp_reg_selection(advantage, batch, share=0.5, minimum=4).any()


def test_lp_reg_needs_two_hundred_punished_actions_by_default():
    for count, expected in [(199, 0), (200, 2), (399, 3)]:
        batch = make({"logp": -torch.arange(count)[None].float(), "proxy_logp": torch.zeros(1, count)})
        assert lp_reg_selection(-torch.ones(1, count), batch).sum() == expected


def test_lp_reg_selection_on_two_ranks(ranks):
    cuts = [slice(0, 3), slice(3, N)]

    def select(rows, reduce):
        advantage, batch = random_batch(reduce, rows)
        return lp_reg_selection(-advantage.abs(), batch, share=0.4)

    whole = select(slice(None), local)
    assert torch.equal(torch.cat(ranks(lambda rank, reduce: select(cuts[rank], reduce))), whole)
    assert whole[:3].any() and whole[3:].any()
