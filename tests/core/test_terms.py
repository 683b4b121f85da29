"""Extra terms against loops and autograd of the whole update; any cut, any order, 1 and 2 ranks."""

import math

import pytest
import torch
import torch.nn.functional as F
from every import every

from mmrl.core.aggregate import weights
from mmrl.core.batch import Batch
from mmrl.core.reduce import local
from mmrl.core.registry import Hook, prepared
from mmrl.core.terms import TERMS
from mmrl.types import ActionLogProbs

N, T, GROUPS = 8, 5, 3
GROUP = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])

# Options with which every term has something to do on the little batch below.
HOOKS = [
    Hook("entropy", {"coef": 0.3}),
    Hook("entropy_band", {"low": 0.8, "high": 1.0}),
    Hook("proxy_kl", {"share": 0.7, "limit": 0.5}),
    Hook("pairwise", {"old_coef": 0.05, "beta": 0.7}),
    Hook("behaviour_kl", {"coef": 0.2, "estimator": "k1"}),
    Hook("behaviour_kl", {"coef": 0.2, "estimator": "k2"}),
    Hook("behaviour_kl", {"coef": 0.2, "estimator": "k3"}),
]
names = [f"{hook.name}-{hook.options.get('estimator', '')}".strip("-") for hook in HOOKS]
each = pytest.mark.parametrize("hook", HOOKS, ids=names)


class Update:
    """One optimizer step's numbers, the same at every call; `rows` picks a rank's part or an order."""

    def __init__(self, rows=slice(None), reduce=local, dtype=torch.float64, garbage=0.0):
        g = torch.Generator().manual_seed(11)

        def numbers(scale=1.0, offset=0.0):
            return offset + scale * torch.randn(N, T, generator=g, dtype=torch.float64)

        mask = torch.rand(N, T, generator=g) > 0.2
        mask[:, 0] = True
        logp = numbers(0.7, -2)
        entropy = numbers(0.3, 1).abs()
        tensors = {
            "logp": logp,
            "logp_reference": logp + numbers(0.5),
            "proxy_logp": logp + numbers(1.0, 0.7),
            "entropy": entropy + numbers(0.05),
            "advantage": numbers(),
        }
        tensors = {name: torch.where(mask, x, garbage)[rows].to(dtype) for name, x in tensors.items()}
        old = torch.where(mask, logp + numbers(0.3), garbage)[rows].to(dtype)
        levels = torch.tensor([1.0, 2, 4, 2, 2, 3, math.nan, 1])
        self.mask, self.group = mask[rows], GROUP[rows]
        self.batch = Batch(
            self.group, GROUPS, self.mask, reduce, logp_old=old, columns={"level": levels[rows]}, features=tensors
        )
        self.shares = weights("token_mean", self.mask, self.group, GROUPS, reduce)
        self.logp = torch.where(mask, logp, garbage)[rows].to(dtype).requires_grad_()
        self.entropy = torch.where(mask, entropy, garbage)[rows].to(dtype).requires_grad_()

    def prepare(self, hook):
        self.batch = prepared(self.batch, [(TERMS, hook)])
        return self

    def term(self, hook, rows=None, columns=None):
        rows = torch.arange(len(self.mask)) if rows is None else rows
        columns = torch.arange(T) if columns is None else columns
        where = (rows[:, None], columns[None, :])
        replay = ActionLogProbs(self.logp[where], entropy=self.entropy[where])
        batch = self.batch.at(rows, columns)
        return TERMS.bind(hook)(replay, self.shares[where], batch.mask, batch.feature("advantage"), batch)

    def gradients(self):
        return torch.stack([torch.zeros_like(x) if x.grad is None else x.grad for x in (self.logp, self.entropy)])


def whole(hook, **options):
    """(value, gradients [2, N, T] by logp and by entropy) of the update in one piece."""
    update = Update(**options).prepare(hook)
    loss = update.term(hook)
    loss.backward()
    return loss.item(), update.gradients()


# ------------------------------------------------------------------ every term


def test_the_hooks_cover_every_term():
    assert {hook.name for hook in HOOKS} == set(TERMS)


@each
def test_the_term_has_something_to_do(hook):
    value, gradient = whole(hook)
    assert value != 0
    assert gradient.abs().max() > 0


@each
@pytest.mark.parametrize("rows_at_once", [1, 3, 8])
@pytest.mark.parametrize("columns_at_once", [1, 2, 5])
def test_cutting_rows_and_columns_changes_nothing(hook, rows_at_once, columns_at_once):
    """The cut crosses groups and samples."""
    update = Update().prepare(hook)
    total = 0.0
    for rows in torch.randperm(N).split(rows_at_once):
        for columns in torch.arange(T).split(columns_at_once):
            loss = update.term(hook, rows, columns)
            loss.backward()
            total += loss.item()
    value, gradient = whole(hook)
    assert total == pytest.approx(value, abs=1e-12)
    assert torch.allclose(update.gradients(), gradient, atol=1e-13, rtol=0)


@each
def test_two_ranks_equal_one(hook, ranks):
    cuts = [slice(0, 5), slice(5, N)]  # Between groups: pairs need whole groups.
    parts = ranks(lambda rank, reduce: whole(hook, rows=cuts[rank], reduce=reduce))
    value, gradient = whole(hook)
    assert sum(part[0] for part in parts) == pytest.approx(value, abs=1e-12)
    assert torch.allclose(torch.cat([part[1] for part in parts], 1), gradient, atol=1e-13, rtol=0)


@each
def test_a_rank_may_have_nothing(hook, ranks):
    cuts = [slice(0, N), slice(N, N)]
    parts = ranks(lambda rank, reduce: whole(hook, rows=cuts[rank], reduce=reduce))
    assert parts[0][0] == pytest.approx(whole(hook)[0], abs=1e-12)
    assert parts[1][0] == 0


@each
def test_permuting_samples_permutes_the_gradient(hook):
    order = torch.randperm(N)
    value, gradient = whole(hook, rows=order)
    assert value == pytest.approx(whole(hook)[0], abs=1e-12)
    assert torch.allclose(gradient, whole(hook)[1][:, order], atol=1e-13, rtol=0)


@each
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -1e30])
def test_padding_changes_nothing_and_gets_no_gradient(hook, garbage):
    value, gradient = whole(hook, garbage=garbage)
    assert value == pytest.approx(whole(hook)[0], abs=1e-12)
    assert torch.allclose(gradient, whole(hook)[1], atol=1e-13, rtol=0)
    assert gradient[:, ~Update().mask].abs().max() == 0


@each
def test_half_precision_is_widened(hook):
    value, gradient = whole(hook, dtype=torch.bfloat16)
    assert math.isfinite(value)
    assert gradient.isfinite().all()
    rounded, _ = whole(hook, dtype=torch.float32)
    assert value == pytest.approx(rounded, abs=0.05)


@each
def test_a_batch_in_which_nothing_is_trained_gives_zero(hook):
    update = Update()
    update.mask = torch.zeros_like(update.mask)
    update.batch = Batch(
        update.group,
        GROUPS,
        update.mask,
        logp_old=update.batch.logp_old,
        columns=update.batch.columns,
        features=update.batch.features,
    )
    update.shares = torch.zeros(N, T)
    loss = update.prepare(hook).term(hook)
    loss.backward()
    assert loss.item() == 0
    assert update.gradients().abs().max() == 0


# ------------------------------------------------------------------ entropy


def test_entropy_by_hand():
    """Gradient of minus the mean entropy: -coef / n at every trained action."""
    update = Update()
    value, gradient = whole(Hook("entropy", {"coef": 0.3}))
    n = int(update.mask.sum())
    trained = update.entropy.detach()[update.mask].tolist()
    assert value == pytest.approx(-0.3 * sum(trained) / n)
    assert gradient[1][update.mask].tolist() == pytest.approx([-0.3 / n] * n)


def test_entropy_band_by_hand():
    """All three actions that masks left, whatever the others' entropy; it has moved since the start."""
    feature = torch.tensor([[2.5, 0.1, 2.0], [0.2, 0.15, 0.0]])
    now = torch.tensor([[3.0, 9.0, 1.0], [0.1, 9.0, 9.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [True, False, False]])
    batch = Batch(torch.tensor([0, 0]), 1, mask, features={"entropy": feature})
    hook = Hook("entropy_band", {"coef": 0.6, "low": 0.5, "high": 2.0})
    batch = prepared(batch, [(TERMS, hook)])
    loss = TERMS.bind(hook)(ActionLogProbs(now, entropy=now), torch.ones(2, 3), batch.mask, torch.ones(2), batch)
    loss.backward()
    assert loss.item() == pytest.approx(0.6 * (1.0 + 0.0 + 0.4) / 3)
    assert now.grad.flatten().tolist() == pytest.approx([0.2, 0, 0, -0.2, 0, 0])


@every(
    ("options", "band"),
    [({}, (0.5, 1.5)), ({"width": 3.0}, (0.0, 2.5)), ({"low": 0.2, "high": 4.0}, (0.2, 4.0))],
)
def test_the_band_is_median_and_mad_of_the_trained_actions(options, band):
    """Trained are 0.5, 1, 1.5, 4 and 1; median 1, deviations .5, 0, .5, 3, 0: their median is .5."""
    entropy = torch.tensor([[0.5, 1.0, 99.0], [1.5, 4.0, 1.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    hook = Hook("entropy_band", options)
    found = prepared(Batch(torch.zeros(2).long(), 1, mask, features={"entropy": entropy}), [(TERMS, hook)])
    assert found.column("band_low").tolist() == pytest.approx([band[0]] * 2)
    assert found.column("band_high").tolist() == pytest.approx([band[1]] * 2)


@every("name", ["entropy", "entropy_band"])
def test_a_replay_without_entropy_is_refused(name):
    update = Update().prepare(Hook(name))
    replay = ActionLogProbs(update.logp)
    with pytest.raises(ValueError, match=f"{name}.*entropy"):
        TERMS.bind(Hook(name))(replay, update.shares, update.mask, torch.ones(N), update.batch)


@every("ends", [{"low": 3.0, "high": 1.0}, {"low": 1.0}, {"high": 1.0}])
def test_half_a_band_and_one_upside_down_are_refused(ends):
    hook = Hook("entropy_band", ends)
    with pytest.raises(ValueError, match="must be a band"):
        Update().prepare(hook).term(hook)


# ------------------------------------------------------------------ divergences


@every(
    ("estimator", "divergence"),
    [
        ("k1", lambda gap: gap),
        ("k2", lambda gap: gap * gap / 2),
        ("k3", lambda gap: math.exp(-gap) - 1 + gap),
    ],
)
def test_behaviour_kl_by_hand(estimator, divergence):
    update = Update()
    gaps = (update.logp.detach() - update.batch.logp_old)[update.mask].tolist()
    value, _ = whole(Hook("behaviour_kl", {"coef": 0.2, "estimator": estimator}))
    assert value == pytest.approx(0.2 * sum(map(divergence, gaps)) / len(gaps))


def test_proxy_kl_is_the_loop_over_the_lowest_tokens():
    """share .7 of the punished actions, lowest first; of those the ones below the proxy; cut at .5."""
    update = Update()
    f = {name: update.batch.feature(name) for name in ("logp", "proxy_logp", "advantage")}
    places = [(i, t) for i in range(N) for t in range(T) if update.mask[i, t] and f["advantage"][i, t] < 0]
    places.sort(key=lambda place: float(f["logp"][place]))
    lowest = places[: int(0.7 * len(places))]
    n = int(update.mask.sum())
    value, gradient, cut = 0.0, torch.zeros(N, T, dtype=torch.float64), 0
    for place in lowest:
        x = float(f["proxy_logp"][place] - f["logp"][place])
        if x <= 0:
            continue
        k3 = math.exp(x) - 1 - x
        value += min(k3, 0.5) / n
        cut += k3 > 0.5
        # d k3 / d logp = 1 - exp(proxy - logp), where it is not cut.
        gradient[place] = (1 - math.exp(x)) / n if k3 < 0.5 else 0.0
    got, gradients = whole(Hook("proxy_kl", {"share": 0.7, "limit": 0.5}))
    assert cut > 0 and (gradient != 0).any()
    assert got == pytest.approx(value)
    assert torch.allclose(gradients[0], gradient, atol=1e-13)


def test_proxy_kl_raises_rare_tokens_and_stops_below_its_minimum():
    value, gradient = whole(Hook("proxy_kl", {"share": 0.7}))
    assert value > 0
    assert (gradient[0] <= 0).all()  # Descent on the loss raises the log-prob.
    assert whole(Hook("proxy_kl", {"share": 0.7, "minimum": 500}))[0] == 0
    assert whole(Hook("proxy_kl"))[0] == 0  # One percent of these few tokens is less than two.


# ------------------------------------------------------------------ pairs


def pairwise_loss(update, beta=0.1, boost=2.5, old_coef=1e-3):
    """The published loss over all pairs of the update, differentiable in update.logp."""
    reference, level = update.batch.feature("logp_reference"), update.batch.column("level").tolist()
    delta = [(update.logp[i] - reference[i])[update.mask[i]].mean() for i in range(len(level))]
    losses = []
    for i in range(len(level)):
        for j in range(len(level)):
            if update.group[i] == update.group[j] and level[i] < level[j]:
                h = beta * (boost if level[i] == 1 else 1.0) * (delta[i] - delta[j])
                losses.append(F.softplus(-h))
    gap = (update.batch.logp_old - update.logp)[update.mask]
    pairs = torch.stack(losses).mean() if losses else 0.0
    return pairs + old_coef * (gap.exp() - 1 - gap).mean(), len(losses)


@every("options", [{}, {"beta": 2.0, "boost": 1.0}, {"beta": 0.5, "boost": 4.0, "old_coef": 0.1}, {"old_coef": 0.0}])
def test_pairwise_is_autograd_of_the_full_loss(options):
    """Levels 1 2 4 | 2 2 | 3 NaN 1: three pairs, none, one."""
    update = Update()
    loss, pairs = pairwise_loss(update, **options)
    loss.backward()
    assert pairs == 4
    value, gradient = whole(Hook("pairwise", options))
    assert value == pytest.approx(loss.item(), abs=1e-12)
    assert torch.allclose(gradient[0], update.logp.grad, atol=1e-13, rtol=0)


def test_pairwise_by_hand():
    """One pair, level 1 over 3, delta 1 and -1: h = .1 * 2.5 * 2; each action of two carries half the slope."""
    logp = torch.tensor([[1.0, 1.0], [-2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    old = logp.detach()
    batch = Batch(
        torch.tensor([0, 0]),
        1,
        torch.ones(2, 2, dtype=torch.bool),
        logp_old=old,
        columns={"level": torch.tensor([1, 3])},
        features={"logp": old, "logp_reference": torch.zeros(2, 2, dtype=torch.float64)},
    )
    batch = prepared(batch, [(TERMS, Hook("pairwise"))])
    loss = TERMS.bind(Hook("pairwise"))(ActionLogProbs(logp), torch.ones(2, 2) / 4, batch.mask, torch.ones(2), batch)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.5)))
    slope = 0.25 / (1 + math.exp(0.5)) / 2
    assert logp.grad.flatten().tolist() == pytest.approx([-slope, -slope, slope, slope])


def test_pairwise_coef_scales_the_pairs_alone():
    with_both = whole(Hook("pairwise", {"coef": 3.0}))[0]
    pairs = whole(Hook("pairwise", {"old_coef": 0.0}))[0]
    old = whole(Hook("pairwise", {"coef": 0.0}))[0]
    assert with_both == pytest.approx(3 * pairs + old)


def test_without_a_pair_only_the_k3_is_left():
    update = Update()
    update.batch = update.batch.having(columns={"level": torch.full((N,), 2.0)})
    hook = Hook("pairwise", {"old_coef": 0.05})
    loss = update.prepare(hook).term(hook)
    expected, pairs = pairwise_loss(update, old_coef=0.05)
    assert pairs == 0
    assert loss.item() == pytest.approx(expected.item())


def test_a_group_on_two_ranks_is_refused_on_every_rank(ranks):
    """Group 1 lies on both; group 0 and 2 do not."""
    cuts = [slice(0, 4), slice(4, N)]

    def work(rank, reduce):
        with pytest.raises(ValueError, match="keep a group on one rank"):
            Update(cuts[rank], reduce).prepare(Hook("pairwise"))
        return True

    assert ranks(work) == [True, True]


def test_a_sample_without_a_level_may_lie_elsewhere(ranks):
    """The NaN of group 2 on the second rank, the rest of the group on the first: its pair is there."""
    cuts = [torch.tensor([0, 1, 2, 3, 4, 5, 7]), torch.tensor([6])]
    hook = Hook("pairwise")
    parts = ranks(lambda rank, reduce: whole(hook, rows=cuts[rank], reduce=reduce))
    assert sum(part[0] for part in parts) == pytest.approx(whole(hook)[0], abs=1e-12)
