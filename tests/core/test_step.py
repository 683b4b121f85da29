"""policy_loss against autograd of the published losses, and its invariances, metrics and errors."""

import math

import pytest
import torch

from mmrl.core import aggregate
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.reduce import local
from mmrl.core.registry import Entry
from mmrl.core.resolving import resolve
from mmrl.core.step import MAXIMA, PER_ACTION, policy_loss
from mmrl.core.terms import TERMS
from mmrl.types import ActionLogProbs

B, T = 6, 5
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])
LENGTHS = torch.tensor([5, 2, 0, 3, 1, 4])
MASK = torch.arange(T)[None, :] < LENGTHS[:, None]
A = torch.tensor([1.5, -0.7, 0.4, 0.0, -1.2, 0.9], dtype=torch.float64)


@pytest.fixture
def old():
    return -torch.rand(B, T, dtype=torch.float64) - 0.1


@pytest.fixture
def now(old):
    """Log-probs far enough from the old ones that every bound is crossed on both sides."""
    return (old + 0.8 * torch.randn(B, T, dtype=torch.float64)).requires_grad_()


def shares(algorithm, mask=MASK):
    return aggregate.weights(algorithm.aggregate, mask, GROUP, 2, local, algorithm.constant_length)


def gradient(loss, logp):
    return torch.autograd.grad(loss, logp)[0]


def means(values):
    """Mean over each sequence's actions, then over the sequences that have any."""
    rows = [row[:n].mean() for row, n in zip(values, LENGTHS.tolist()) if n]
    return torch.stack(rows).mean()


def ppo(logp, old):
    r, a = (logp - old).exp(), A[:, None]
    return -means(torch.minimum(r * a, r.clamp(0.8, 1.2) * a))


def dapo(logp, old):
    r, a = (logp - old).exp(), A[:, None]
    return -torch.minimum(r * a, r.clamp(0.8, 1.28) * a)[MASK].mean()


def dr_grpo(logp, old):
    r, a = (logp - old).exp(), A[:, None]
    return -torch.minimum(r * a, r.clamp(0.8, 1.2) * a)[MASK].sum() / (5 * 8)


def gspo(logp, old):
    total = []
    for row, n in enumerate(LENGTHS.tolist()):
        if n:
            s = (logp - old)[row, :n].mean().exp()
            total.append(torch.minimum(s * A[row], s.clamp(1 - 3e-4, 1 + 4e-4) * A[row]))
    return -torch.stack(total).mean()


def cispo(logp, old):
    r = (logp - old).exp().clamp(max=5).detach()
    return -(r * A[:, None] * logp)[MASK].mean()


def sapo(logp, old):
    r, a = (logp - old).exp(), A[:, None]
    tau = torch.where(a > 0, 1.0 + 0 * a, 1.05 + 0 * a)
    return -means(4 / tau * torch.sigmoid(tau * (r - 1)) * a)


def scalerl(logp, old):
    r = (logp - old).exp().clamp(max=5).detach()
    terms = r * A[:, None] * logp
    prompts = [terms[rows][MASK[rows]].mean() for rows in (slice(0, 3), slice(3, 6))]
    return -torch.stack(prompts).mean()


def topr(logp, old):
    """Whole sequences: A log pi where A >= 0, min(ratio, 1) A log pi where A < 0; mean over sequences."""
    total = []
    for row, n in enumerate(LENGTHS.tolist()):
        if n:
            joint = logp[row, :n].sum()
            weight = (joint - old[row, :n].sum()).exp().clamp(max=1).detach() if A[row] < 0 else 1.0
            total.append(weight * A[row] * joint)
    return -torch.stack(total).mean()


def rloo(logp, old):
    """A sequence is one action: its product ratio is clipped, and it counts once (TRL)."""
    total = []
    for row, n in enumerate(LENGTHS.tolist()):
        if n:
            r = (logp - old)[row, :n].sum().exp()
            total.append(torch.minimum(r * A[row], r.clamp(0.8, 1.2) * A[row]))
    return -torch.stack(total).mean()


def topr_token(logp, old):
    """ROLL's: A log pi where A > 0, min(ratio, 1) A log pi elsewhere, token by token."""
    a = A[:, None]
    weight = torch.where(a > 0, 1.0, (logp - old).exp().clamp(max=1)).detach()
    return -means(weight * a * logp)


def stable_reinforce(logp, old):
    r, a = (logp - old).clamp(math.log(1e-3), math.log(1e3)).exp(), A[:, None]
    return -means(torch.minimum(r * a, r.clamp(0.8, 1.2) * a))


PUBLISHED = {
    "grpo": ppo,
    "dapo": dapo,
    "dr_grpo": dr_grpo,
    "gspo": gspo,
    "cispo": cispo,
    "sapo": sapo,
    "scalerl": scalerl,
    "topr": topr,
    "topr_token": topr_token,
    "rloo": rloo,
    "eapo": gspo,
    "top_entropy": dapo,
    "stable_reinforce": stable_reinforce,
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_gradient_is_that_of_the_published_loss(preset, now, old):
    overrides = {"constant_length": 8} if preset == "dr_grpo" else {}
    algorithm = resolve(preset, overrides).with_defaults(0.2, 0.2)
    loss, _ = policy_loss(ActionLogProbs(now), old, MASK, A, shares(algorithm), algorithm)
    expected = gradient(PUBLISHED[preset](now, old), now)
    assert torch.allclose(gradient(loss, now), expected, atol=1e-9, rtol=0)
    assert expected.abs().max() > 1e-3


def test_gspo_token_takes_an_advantage_per_action(now, old):
    """Its surrogate s_t = sg(s) p / sg(p), with bounds wide enough to cut some rows only."""
    advantage = torch.randn(B, T, dtype=torch.float64)
    algorithm = Algorithm(ratio="sequence_token", clip_low=0.1, clip_high=0.1)
    total = []
    for row, n in enumerate(LENGTHS.tolist()):
        if n:
            a = advantage[row, :n]
            s = (now - old)[row, :n].mean().exp().detach() * (now - now.detach())[row, :n].exp()
            total.append(torch.minimum(s * a, s.clamp(0.9, 1.1) * a).mean())
    expected = gradient(-torch.stack(total).mean(), now)
    loss, _ = policy_loss(ActionLogProbs(now), old, MASK, advantage, shares(algorithm), algorithm)
    assert torch.allclose(gradient(loss, now), expected, atol=1e-9, rtol=0)


def test_gspo_and_gspo_token_agree_while_the_advantage_is_constant(now, old):
    both = []
    for level in ("sequence", "sequence_token"):
        algorithm = Algorithm(ratio=level, clip_low=0.1, clip_high=0.1)
        loss, _ = policy_loss(ActionLogProbs(now), old, MASK, A, shares(algorithm), algorithm)
        both.append(gradient(loss, now))
    assert torch.allclose(*both, atol=1e-12)


@pytest.mark.parametrize("gate", ["ppo", "two_sided", "dual_clip", "cispo", "sapo", "none"])
def test_the_first_update_is_reinforce_with_the_value_of_the_mean_advantage(gate, old):
    logp = old.clone().requires_grad_()
    algorithm = Algorithm(gate=gate, clip_low=1e-4, clip_high=1e-4)
    w = shares(algorithm)
    loss, metrics = policy_loss(ActionLogProbs(logp), old, MASK, A, w, algorithm)
    assert torch.allclose(gradient(loss, logp), -w * A[:, None], atol=1e-12)
    assert loss.item() == pytest.approx(-A[LENGTHS > 0].mean().item())
    assert metrics["ratio/max_dev"] == 0
    assert metrics["clip/low"] == metrics["clip/high"] == 0


def test_value_is_the_surrogate_where_nothing_is_cut(now, old):
    """Without a gate: the importance-weighted mean of -r A."""
    algorithm = Algorithm(gate="none", aggregate="token_mean")
    loss, metrics = policy_loss(ActionLogProbs(now), old, MASK, A, shares(algorithm), algorithm)
    expected = -((now - old).exp() * A[:, None])[MASK].mean()
    assert loss.item() == pytest.approx(expected.item())
    assert metrics["policy_loss"].item() == pytest.approx(expected.item())


def test_weight_scales_an_action_but_stays_out_of_the_denominator(now, old):
    algorithm = Algorithm(clip_low=0.2, clip_high=0.2)
    weight = torch.rand(B, T)
    plain, _ = policy_loss(ActionLogProbs(now), old, MASK, A, shares(algorithm), algorithm)
    scaled, _ = policy_loss(ActionLogProbs(now, weight=weight), old, MASK, A, shares(algorithm), algorithm)
    assert torch.allclose(gradient(scaled, now), weight * gradient(plain, now), atol=1e-12)


def test_the_adapters_own_log_ratio_replaces_the_difference(now, old):
    """Twice the difference: the ratio is squared and so is its gradient's factor 2."""
    algorithm = Algorithm(gate="none", aggregate="token_mean")
    replay = ActionLogProbs(now, log_ratio=2 * (now - old))
    loss, _ = policy_loss(replay, old, MASK, A, shares(algorithm), algorithm)
    expected = gradient(-(((now - old).exp() ** 2) * A[:, None])[MASK].mean(), now)
    assert torch.allclose(gradient(loss, now), expected, atol=1e-9)


@pytest.mark.parametrize("ratio", ["sequence", "sequence_token"])
def test_an_own_log_ratio_needs_the_token_level(ratio, now, old):
    algorithm = Algorithm(ratio=ratio, clip_low=0.2, clip_high=0.2)
    with pytest.raises(ValueError, match="ratio='token'"):
        policy_loss(ActionLogProbs(now, log_ratio=now - old), old, MASK, A, shares(algorithm), algorithm)


@pytest.mark.parametrize("preset", PUBLISHED)
def test_micro_batches_and_order_do_not_change_the_gradient(preset, now, old):
    overrides = {"constant_length": 8} if preset == "dr_grpo" else {}
    algorithm = resolve(preset, {"kl_coef": 0.1, **overrides}).with_defaults(0.2, 0.2)
    reference = old + 0.3
    w = shares(algorithm)

    def of(rows):
        replay = ActionLogProbs(now[rows], logp_reference=reference[rows])
        loss, metrics = policy_loss(replay, old[rows], MASK[rows], A[rows], w[rows], algorithm)
        return gradient(loss, now), metrics

    whole, metrics = of(torch.arange(B))
    parts = [of(torch.tensor(rows)) for rows in ([4, 0], [2], [5, 3, 1])]
    assert torch.allclose(sum(g for g, _ in parts), whole, atol=1e-14)
    for name, value in metrics.items():
        pieces = torch.stack([m[name] for _, m in parts])
        joined = pieces.max() if name in MAXIMA else pieces.sum()
        assert joined.item() == pytest.approx(value.item(), abs=1e-12), name


def test_columns_may_be_cut_at_the_token_level(now, old):
    """Denoising steps are replayed a few at a time."""
    algorithm = Algorithm(clip_low=0.2, clip_high=0.2)
    w = shares(algorithm)

    def of(columns):
        replay = ActionLogProbs(now[:, columns])
        return gradient(policy_loss(replay, old[:, columns], MASK[:, columns], A, w[:, columns], algorithm)[0], now)

    assert torch.allclose(of(slice(0, 2)) + of(slice(2, 5)), of(slice(0, 5)), atol=1e-14)


@pytest.mark.parametrize("preset", ["grpo", "gspo", "cispo", "sapo", "topr", "stable_reinforce"])
def test_masked_entries_may_hold_anything_and_get_no_gradient(preset, now, old):
    algorithm = resolve(preset, {"kl_coef": 0.1}).with_defaults(0.2, 0.2)
    w = shares(algorithm)

    def of(fill):
        def outside(x):
            return torch.where(MASK, x, fill)

        logp = outside(now.detach()).requires_grad_()
        replay = ActionLogProbs(logp, weight=outside(w), logp_reference=outside(old + 0.2), entropy=outside(old.abs()))
        advantage = outside(A[:, None].expand(B, T))
        loss, metrics = policy_loss(replay, outside(old), MASK, advantage, outside(w), algorithm)
        return loss, gradient(loss, logp), metrics

    clean, dirty = of(0.0), of(math.nan)
    assert clean[0].item() == dirty[0].item()
    assert torch.equal(clean[1], dirty[1])
    assert clean[2] == dirty[2]
    assert (dirty[1][~MASK] == 0).all()


def test_a_batch_in_which_everything_is_masked(now, old):
    algorithm = Algorithm(clip_low=0.2, clip_high=0.2)
    nothing = torch.zeros_like(MASK)
    loss, metrics = policy_loss(ActionLogProbs(now), old, nothing, A, shares(algorithm, nothing), algorithm)
    assert loss.item() == 0
    assert gradient(loss, now).tolist() == torch.zeros(B, T).tolist()
    assert metrics["actions"] == 0


@pytest.mark.parametrize("preset", ["grpo", "gspo", "cispo", "sapo", "topr", "stable_reinforce"])
@pytest.mark.parametrize("gap", [500.0, -500.0])
def test_a_gap_of_500_is_finite(preset, gap, old):
    logp = (old.float() + gap).requires_grad_()
    algorithm = resolve(preset, {"kl_coef": 0.1}).with_defaults(0.2, 0.2)
    replay = ActionLogProbs(logp, logp_reference=old.float())
    loss, metrics = policy_loss(replay, old.float(), MASK, A, shares(algorithm), algorithm)
    assert loss.isfinite()
    assert gradient(loss, logp).isfinite().all()
    assert all(value.isfinite() for value in metrics.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs(dtype, old):
    """The same numbers, stored in half precision and in float64, give the same loss."""
    stored, other = old.to(dtype), (old + 0.05).to(dtype)
    algorithm = Algorithm(clip_low=0.2, clip_high=0.2)
    w = shares(algorithm)
    half, _ = policy_loss(ActionLogProbs(other), stored, MASK, A, w, algorithm)
    full, _ = policy_loss(ActionLogProbs(other.double()), stored.double(), MASK, A, w, algorithm)
    assert half.item() == pytest.approx(full.item(), rel=1e-5)


# ------------------------------------------------------------------ KL


@pytest.mark.parametrize(
    ("estimator", "formula"),
    [
        ("k2", lambda d: d**2 / 2),
        ("k3", lambda d: (-d).exp() + d - 1),
    ],
)
def test_sampled_kl_in_the_loss(estimator, formula, now, old):
    """With no advantage only the KL is left; it is aggregated like the loss and not scaled by `weight`."""
    reference = old - 0.3
    algorithm = Algorithm(kl_coef=0.04, kl_estimator=estimator, clip_low=0.2, clip_high=0.2)
    replay = ActionLogProbs(now, logp_reference=reference, weight=torch.full((B, T), 7.0))
    loss, metrics = policy_loss(replay, old, MASK, 0 * A, shares(algorithm), algorithm)
    values = formula(now - reference)
    expected = 0.04 * means(values)
    assert loss.item() == pytest.approx(expected.item())
    assert torch.allclose(gradient(loss, now), gradient(expected, now), atol=1e-12)
    assert metrics["kl"].item() == pytest.approx(values[MASK].sum().item())
    assert metrics["policy_loss"] == 0


def test_exact_kl_is_the_adapters(now, old):
    algorithm = Algorithm(kl_coef=0.5, kl_estimator="exact", clip_low=0.2, clip_high=0.2)
    kl = now**2
    loss, metrics = policy_loss(ActionLogProbs(now, kl=kl), old, MASK, 0 * A, shares(algorithm), algorithm)
    assert torch.allclose(gradient(loss, now), shares(algorithm) * now.detach(), atol=1e-12)
    assert metrics["kl"].item() == pytest.approx(kl[MASK].sum().item())


@pytest.mark.parametrize("options", [{"kl_coef": 0.0}, {"kl_coef": 0.5, "kl_place": "reward", "kl_estimator": "k1"}])
def test_kl_outside_the_loss_is_only_reported(options, now, old):
    algorithm = Algorithm(clip_low=0.2, clip_high=0.2, **options)
    w = shares(algorithm)
    with_kl, metrics = policy_loss(ActionLogProbs(now, logp_reference=old - 5), old, MASK, A, w, algorithm)
    without, bare = policy_loss(ActionLogProbs(now), old, MASK, A, w, algorithm)
    assert torch.equal(gradient(with_kl, now), gradient(without, now))
    assert metrics["kl"] > 0
    assert "kl" not in bare


@pytest.mark.parametrize(
    ("estimator", "given", "missing"), [("exact", "logp_reference", "`kl`"), ("k3", "kl", "`logp_reference`")]
)
def test_a_missing_reference_is_an_error(estimator, given, missing, now, old):
    algorithm = Algorithm(kl_coef=0.1, kl_estimator=estimator, clip_low=0.2, clip_high=0.2)
    with pytest.raises(ValueError, match=missing):
        policy_loss(ActionLogProbs(now, **{given: old}), old, MASK, A, shares(algorithm), algorithm)


# ------------------------------------------------------------------ action weights and terms


def test_action_weights_scale_the_policy_term_only(now, old):
    algorithm = Algorithm(kl_coef=0.1, clip_low=0.2, clip_high=0.2)
    weight, own, w = torch.rand(B, T), torch.rand(B, T), shares(algorithm)

    def of(action_weight=None, replay_weight=None, coef=1.0):
        replay = ActionLogProbs(now, logp_reference=old - 0.3, weight=replay_weight)
        loss, _ = policy_loss(replay, old, MASK, coef * A, w, algorithm, action_weight=action_weight)
        return gradient(loss, now)

    kl = of(coef=0.0)
    plain = of() - kl
    assert torch.allclose(of(weight) - kl, weight * plain, atol=1e-12)
    assert torch.allclose(of(weight, own) - kl, weight * own * plain, atol=1e-12)
    assert torch.equal(of(torch.where(MASK, weight, math.nan)), of(weight))


@pytest.fixture
def quadratic(monkeypatch):
    """A term over actions: sum of shares x A x logp^2 x the feature "size"."""

    def term(replay, shares, mask, advantage, batch, *, coef: "float" = 1.0):
        assert torch.equal(batch.mask, mask)
        assert advantage.shape == shares.shape == mask.shape
        return coef * (shares * advantage * replay.logp**2 * batch.feature("size")).sum()

    monkeypatch.setitem(TERMS._entries, "quadratic", Entry("quadratic", term, needs=("size",)))
    size = torch.rand(B, T, dtype=torch.float64)
    return Batch(GROUP, 2, MASK, features={"size": size})


def test_a_term_is_added_and_reported(quadratic, now, old):
    algorithm = Algorithm(terms=[{"name": "quadratic", "coef": 3.0}], clip_low=0.2, clip_high=0.2)
    w = shares(algorithm)
    plain, _ = policy_loss(ActionLogProbs(now), old, MASK, A, w, Algorithm(clip_low=0.2, clip_high=0.2))
    loss, metrics = policy_loss(ActionLogProbs(now), old, MASK, A, w, algorithm, batch=quadratic)
    expected = 3 * (w * A[:, None] * now**2 * quadratic.feature("size")).sum()
    assert (loss - plain).item() == pytest.approx(expected.item())
    assert torch.allclose(gradient(loss, now) - gradient(plain, now), gradient(expected, now), atol=1e-12)
    assert metrics["term/quadratic"].item() == pytest.approx(expected.item())
    assert not metrics["term/quadratic"].requires_grad


def test_terms_of_micro_batches_add_up(quadratic, now, old):
    algorithm = Algorithm(terms=["quadratic"], clip_low=0.2, clip_high=0.2)
    w, columns = shares(algorithm), torch.arange(T)

    def of(rows):
        part = quadratic.at(rows, columns)
        loss, found = policy_loss(
            ActionLogProbs(now[rows]), old[rows], MASK[rows], A[rows], w[rows], algorithm, batch=part
        )
        return gradient(loss, now), found["term/quadratic"]

    whole, value = of(torch.arange(B))
    parts = [of(torch.tensor(rows)) for rows in ([4, 0], [2], [5, 3, 1])]
    assert torch.allclose(sum(g for g, _ in parts), whole, atol=1e-14)
    assert sum(v for _, v in parts).item() == pytest.approx(value.item())


def test_a_term_without_its_inputs_is_an_error(now, old):
    algorithm = Algorithm(terms=["pairwise"], clip_low=0.2, clip_high=0.2)
    arguments = (ActionLogProbs(now), old, MASK, A, shares(algorithm), algorithm)
    with pytest.raises(ValueError, match="reads the batch"):
        policy_loss(*arguments)
    with pytest.raises(ValueError, match=r"needs level, logp, logp_reference.* ask for the reference policy"):
        policy_loss(*arguments, batch=Batch(GROUP, 2, MASK))


def test_the_gate_sees_the_micro_batch(now, old):
    """Bounds of each row's own: rows 0 and 1 are bounded by (0.5, 1.5), the others by (0.9, 1.1)."""
    low, high = torch.tensor([0.5, 0.5, 0.9, 0.9, 0.9, 0.9]), torch.tensor([1.5, 1.5, 1.1, 1.1, 1.1, 1.1])
    batch = Batch(GROUP, 2, MASK, columns={"gate_low": low.double(), "gate_high": high.double()})
    algorithm = Algorithm(gate={"name": "bapo", "clip_bound": 1e6}, aggregate="token_mean")
    loss, _ = policy_loss(ActionLogProbs(now), old, MASK, A, shares(algorithm), algorithm, batch=batch)
    r, a = (now - old).exp(), A[:, None]
    bounded = torch.maximum(torch.minimum(r, high[:, None].double()), low[:, None].double())
    expected = gradient(-torch.minimum(r * a, bounded * a)[MASK].mean(), now)
    assert torch.allclose(gradient(loss, now), expected, atol=1e-9, rtol=0)


# ------------------------------------------------------------------ metrics


def test_metrics_by_hand():
    """Ratios 2, 1/2, 1 and a masked one; A > 0 on row 0, A < 0 on row 1."""
    old = torch.zeros(2, 2, dtype=torch.float64)
    logp = torch.tensor([[2.0, 9.9], [0.5, 1.0]], dtype=torch.float64).log()
    mask = torch.tensor([[True, False], [True, True]])
    algorithm = Algorithm(clip_low=0.2, clip_high=0.2, aggregate="token_mean")
    w = aggregate.weights("token_mean", mask, torch.tensor([0, 0]), 1, local)
    entropy = torch.tensor([[0.1, 5.0], [0.2, 0.3]])
    _, metrics = policy_loss(ActionLogProbs(logp, entropy=entropy), old, mask, torch.tensor([1.0, -1.0]), w, algorithm)
    expected = {
        "actions": 3,
        "policy_loss": 1 / 3,  # the two cut actions count nothing, the third -(-1)
        "ratio/mean": 3.5,
        "ratio/max_dev": 1.0,
        "clip/low": 1,
        "clip/high": 1,
        "entropy": 0.6,
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected)
    assert all(value.dtype == torch.float64 and not value.requires_grad for value in metrics.values())
    assert expected.keys() >= MAXIMA
    assert expected.keys() | {"kl"} >= PER_ACTION


# ------------------------------------------------------------------ how far the policy has moved


def test_a_replays_divergence_holds_back_what_moves_on(old, now):
    """dppo: only actions beyond the limit that move the way A pushes them lose their gradient."""
    algorithm = Algorithm(gate={"name": "dppo", "limit": 0.5}).with_defaults(0.2, 0.2)
    far = torch.arange(T) % 2 == 0
    replay = ActionLogProbs(now, divergence=far.double().expand(B, T))
    loss, metrics = policy_loss(replay, old, MASK, A, shares(algorithm), algorithm, batch=Batch(GROUP, 2, MASK))
    onwards = (now > old) == (A[:, None] > 0)
    held = far & onwards & (A[:, None] != 0) & MASK
    free = -shares(algorithm) * (now - old).exp() * A[:, None]
    assert torch.allclose(gradient(loss, now), torch.where(held, 0.0, free).detach())
    assert metrics["clip/low"] + metrics["clip/high"] == held.sum()
