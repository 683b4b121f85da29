"""Token features against dense matrices, loops over the vocabulary and autograd, in float64."""

import math

import pytest
import torch
from every import every
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core.token_features import FEATURES, entropy, fisher, log_prob, prob_gap2, proxy_log_prob

V = 7


def batch_of_logits(scale=2.0):
    return torch.randn(3, 5, V) * scale, torch.randint(0, V, (3, 5))


def by_token(logits, ids, function):
    """`function` (probabilities [V] float64, id) at each token, as a loop."""
    p = logits.double().exp() / logits.double().exp().sum(-1, keepdim=True)
    values = [function(row, int(i)) for row, i in zip(p.reshape(-1, V), ids.flatten())]
    return torch.tensor(values).reshape(ids.shape)


def dense_fisher(p, i):
    e = torch.eye(V, dtype=torch.float64)[i]
    matrix = torch.diag(p) - torch.outer(p, p)
    return float((e - p) @ matrix @ (e - p))


def dense_proxy(p, i, kappa=0.02):
    kept = [j for j in range(V) if p[j] >= kappa * max(p)]
    return math.log(p[i] / sum(p[j] for j in kept)) if i in kept else -1e4


DENSE = {
    "logp": lambda p, i: math.log(p[i]),
    "entropy": lambda p, i: -sum(float(x) * math.log(x) for x in p),
    "proxy_logp": dense_proxy,
    "prob_gap2": lambda p, i: sum((float(j == i) - float(x)) ** 2 for j, x in enumerate(p)),
    "fisher": dense_fisher,
}


@every("name", FEATURES)
@every("scale", [0.3, 2.0, 5.0])
def test_equals_the_dense_definition(name, scale):
    logits, ids = batch_of_logits(scale)
    got = FEATURES[name](logits, ids)
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), by_token(logits, ids, DENSE[name]).double(), atol=2e-6, rtol=2e-5)


def test_the_filter_is_at_work_in_that_test():
    logits, ids = batch_of_logits(5.0)
    filtered = proxy_log_prob(logits, ids) == -1e4
    assert filtered.any() and not filtered.all()


@every("name", FEATURES)
@every("dtype", [torch.float32, torch.bfloat16])
def test_chunks_give_the_same_numbers(name, dtype):
    logits, ids = batch_of_logits()
    logits = logits.to(dtype)
    whole = FEATURES[name](logits, ids)
    parts = [FEATURES[name](logits[:, a : a + 2], ids[:, a : a + 2]) for a in range(0, 5, 2)]
    assert torch.equal(torch.cat(parts, 1), whole)
    assert torch.equal(FEATURES[name](logits.float(), ids), whole)


@every("name", FEATURES)
def test_permuting_the_vocabulary_and_shifting_logits_change_nothing(name):
    logits, ids = batch_of_logits()
    order = torch.randperm(V)
    moved = logits[..., order] + 11.0
    places = order.argsort()[ids]
    assert torch.allclose(FEATURES[name](moved, places), FEATURES[name](logits, ids), atol=1e-5)


@every("name", FEATURES)
def test_a_forbidden_token_is_as_if_it_were_not_in_the_vocabulary(name):
    logits, ids = batch_of_logits()
    wider = torch.cat([logits, torch.full((3, 5, 1), -torch.inf)], -1)
    assert torch.allclose(FEATURES[name](wider, ids), FEATURES[name](logits, ids), atol=1e-6)


@every("function", [log_prob, entropy])
def test_gradients_of_log_prob_and_entropy(function):
    """d log p_i / dz = e - p; d H / dz_j = -p_j (log p_j + H). A forbidden token gets exactly 0."""
    logits, ids = batch_of_logits()
    logits[..., 0] = -torch.inf
    ids = ids.clamp(min=1)
    logits.requires_grad_()
    function(logits, ids).sum().backward()
    p = logits.detach().double().softmax(-1)
    if function is log_prob:
        expected = torch.nn.functional.one_hot(ids, V) - p
    else:
        logp = p.log().nan_to_num(neginf=0.0)
        expected = -p * (logp - (p * logp).sum(-1, keepdim=True))
    assert torch.allclose(logits.grad.double(), expected.double(), atol=1e-6)
    assert logits.grad[..., 0].abs().max() == 0


@every("name", ["proxy_logp", "prob_gap2", "fisher"])
def test_the_others_are_detached(name):
    logits, ids = batch_of_logits()
    assert not FEATURES[name](logits.requires_grad_(), ids).requires_grad


def test_prob_gap2_is_the_squared_gradient_of_log_prob():
    logits, ids = batch_of_logits()
    logits.requires_grad_()
    log_prob(logits, ids).sum().backward()
    assert torch.allclose(prob_gap2(logits, ids), (logits.grad**2).sum(-1), atol=1e-6)


def test_two_tokens_in_closed_form():
    """p = (1-q, q), id of q: e - p = (-(1-q), 1-q); |.|^2 = 2(1-q)^2, variance 4 q (1-q)^3."""
    q = torch.tensor([0.5, 0.2, 1e-3, 1 - 1e-3], dtype=torch.float64)
    logits = torch.stack([(1 - q).log(), q.log()], -1)
    ids = torch.ones(4, dtype=torch.int64)
    assert torch.allclose(prob_gap2(logits, ids).double(), 2 * (1 - q) ** 2, rtol=2e-4)
    assert torch.allclose(fisher(logits, ids).double(), 4 * q * (1 - q) ** 3, rtol=3e-4)


def test_proxy_by_hand():
    """p = .6, .3, .09, .01; kappa .1 cuts below .06: the sum of what stays is .99."""
    logits = torch.tensor([0.6, 0.3, 0.09, 0.01]).log().expand(4, 4)
    got = proxy_log_prob(logits, torch.arange(4), kappa=0.1)
    expected = [math.log(0.6 / 0.99), math.log(0.3 / 0.99), math.log(0.09 / 0.99), -1e4]
    assert got.tolist() == pytest.approx(expected, abs=1e-6)
    # A token of exactly kappa times the largest probability stays: equal logits at kappa = 1.
    assert proxy_log_prob(torch.zeros(2, 4), torch.tensor([0, 3]), kappa=1.0).exp().tolist() == pytest.approx(
        [0.25] * 2
    )


@every("kappa", [0.0, -1.0, 1.5, math.nan])
def test_proxy_refuses_a_share_outside_0_to_1(kappa):
    with pytest.raises(ValueError, match="kappa"):
        proxy_log_prob(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), kappa=kappa)


@given(st.lists(st.floats(-60, 60, width=32), min_size=2, max_size=12), st.integers(0, 11))
def test_bounds_hold_for_any_logits(values, i):
    logits, ids = torch.tensor([values]), torch.tensor([i % len(values)])
    assert -1e-6 <= entropy(logits, ids).item() <= math.log(len(values)) + 1e-5
    assert 0 <= prob_gap2(logits, ids).item() <= 2.0 + 1e-5
    # The variance of numbers that lie within 2 of each other is at most 1, and never negative.
    assert 0 <= fisher(logits, ids).item() <= 1.0
    proxy = proxy_log_prob(logits, ids).item()
    assert proxy == -1e4 or proxy >= log_prob(logits, ids).item() - 1e-5
