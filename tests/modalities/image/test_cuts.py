"""How actions are cut into micro-batches changes no number: for every kernel, RatioNorm and guidance mode."""

from __future__ import annotations

import pytest
import torch
from small_pipelines import BUILD, adapter, gradients, nudge, roll
from torch import Tensor

KERNELS = {"flow_sde": "sd3", "dance_sde": "sd3", "cps": "sd3", "renoise": "sd3", "ddim": "sd"}
GUIDED = {
    "off": {"guidance": 1.0},
    "conditional": {"guidance": 3.0},
    "both": {"guidance": 3.0, "guidance_gradient": "both"},
    "negative": {"guidance": 3.0, "negative_prompt": "a green triangle"},
    "rescaled": {"guidance": 3.0, "guidance_rescale": 0.7, "guidance_gradient": "both"},
}
OTHER = {"negative": "flow_sde", "rescaled": "ddim"}  # rescaling is refused in flows
CASES = [
    (kernel, norm, mode)
    for kernel in KERNELS
    for norm in (False, True)
    for mode in GUIDED
    if not (norm and kernel == "cps")  # refused, below
    if mode in ("off", "conditional") or kernel != "renoise"
    if mode not in ("negative", "rescaled") or (not norm and kernel == OTHER[mode])
]


def summed_gradient(policy, samples, budget: int) -> dict[str, Tensor]:
    """Of a sum over actions of everything that a replay returns, each action with a factor of its own."""
    factors = torch.randn((4, len(samples), 3), generator=torch.Generator().manual_seed(1))
    whole: dict[str, Tensor] = {}
    for part in policy.slices(samples, budget):
        found = policy.logprobs([samples[r] for r in part.rows], part.columns, reference=True)
        a, b, c, d = factors[:, part.rows][:, :, part.columns]
        loss = (a * found.logp + b * found.kl + d * found.logp_reference).sum()
        if found.log_ratio is not None:
            loss = loss + (c * found.weight * found.log_ratio).sum()
        for key, gradient in gradients(policy, loss).items():
            whole[key] = whole.get(key, 0) + gradient
    return whole


@pytest.mark.parametrize(("kernel", "norm", "mode"), CASES)
def test_gradient_is_the_same_one_action_at_a_time_and_all_at_once(kernel, norm, mode):
    sampling = {"kernel": kernel, "ratio_norm": norm, "noise_level": 0.6, **GUIDED[mode]}
    policy = adapter(KERNELS[kernel], sampling=sampling)
    policy.prepare_reference()
    samples = roll(policy)
    nudge(policy, 3e-2)
    every = {budget: summed_gradient(policy, samples, budget) for budget in (12, 7, 1)}
    whole = every[12]
    scale = max(float(g.abs().max()) for g in whole.values())
    assert scale > 0
    for cut in every.values():
        assert cut.keys() == whole.keys()
        assert max(float((cut[k] - whole[k]).abs().max()) for k in cut) < 2e-5 * scale


@pytest.mark.parametrize("family", BUILD)
def test_replayed_rows_do_not_look_at_each_other(family):
    """RatioNorm's bias, its weight and the KL are of a row: other rows beside it leave them as they are."""
    policy = adapter(family, sampling={"ratio_norm": True})
    policy.prepare_reference()
    samples = roll(policy)
    nudge(policy, 3e-2)
    columns = torch.arange(3)
    with torch.no_grad():
        together = policy.logprobs(samples, columns, reference=True)
        for row, sample in enumerate(samples):
            for column in columns.tolist():
                alone = policy.logprobs([sample], torch.tensor([column]), reference=True)
                for key in ("logp", "log_ratio", "weight", "kl", "logp_reference"):
                    expected = getattr(together, key)[row, column].view(1, 1)
                    torch.testing.assert_close(getattr(alone, key), expected, atol=2e-6, rtol=2e-4)


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("budget", [1, 2, 3, 4, 6, 100])
def test_a_trajectory_is_cut_only_where_it_alone_is_over_the_budget(rows, budget):
    policy = adapter()
    samples = (roll(policy) * 2)[:rows]
    parts = list(policy.slices(samples, budget))
    seen = [(r, c) for part in parts for r in part.rows.tolist() for c in part.columns.tolist()]
    assert sorted(seen) == [(r, c) for r in range(rows) for c in range(3)]
    assert all(len(part.rows) * len(part.columns) <= budget for part in parts)
    assert all(len(part.columns) == 3 for part in parts) == (budget >= 3)
    assert list(policy.slices([], budget)) == []


# ---- options that have no meaning with a kernel ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "sampling", "message"),
    [
        ("sd3", {"kernel": "cps", "ratio_norm": True}, "ratio_norm.*kernel cps"),
        ("sd3", {"logp_reduction": "sum", "ratio_norm": True}, "ratio_norm.*logp_reduction sum"),
        ("sd3", {"kernel": "cps", "kl_published": True}, "kl_published.*kernel cps"),
        ("sd", {"kl_published": True}, "kl_published.*kernel ddim"),
        ("sd", {"kernel": "renoise"}, "kernel 'renoise' does not fit sd; use ddim"),
        ("sd3", {"guidance": 1.0, "guidance_gradient": "both"}, "guidance_gradient both: guidance 1"),
        ("flux", {"guidance": 3.5, "guidance_gradient": "both"}, "guidance_gradient both: guidance 3.5 of family flux"),
    ],
)
def test_an_option_that_would_give_another_number_or_none_is_refused(family, sampling, message):
    with pytest.raises(ValueError, match=message):
        adapter(family, sampling=sampling)
