"""mmrl.core against TRL's own GRPO loss and advantages, on the same tensors.

TRL's methods run unbound on a stand-in for its trainer that holds the configuration and returns the given
log-probs in place of a model's. Where the two define a thing differently, the test states both sides: ours is
computed, the difference is written out, and TRL's number must come out of it.
"""

import math
from collections import defaultdict, deque
from types import SimpleNamespace

import pytest
import torch

import mmrl  # noqa: F401  before trl, which imports transformers: it hooks the import of torchvision
from mmrl.core import aggregate, pairwise
from mmrl.core.advantage import estimate
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.gate import GATES
from mmrl.core.ratio import log_ratio, ratio
from mmrl.core.reduce import local
from mmrl.core.resolving import resolve
from mmrl.core.step import policy_loss
from mmrl.core.update import prepare_update
from mmrl.types import ActionLogProbs


def trl():
    """The library, which takes seconds to import: where a test asks for it, not where tests are collected."""
    return pytest.importorskip("trl")


B, T = 6, 5
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])
MASK = torch.arange(T)[None, :] < torch.tensor([5, 2, 4, 3, 1, 4])[:, None]
A = torch.tensor([1.5, -0.7, 0.4, 0.3, -1.2, 0.9], dtype=torch.float64)
LOW, HIGH = 0.2, 0.28
SAME = {"rtol": 1e-12, "atol": 1e-14}


@pytest.fixture
def old():
    return -torch.rand(B, T, dtype=torch.float64) - 0.1


@pytest.fixture
def now(old):
    """Log-probs far enough from the old ones that every bound is crossed on both sides."""
    return (old + 0.9 * torch.randn(B, T, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def near(old):
    """Log-probs so near that no ratio leaves any clip range."""
    return (old + 0.01 * torch.randn(B, T, dtype=torch.float64)).requires_grad_()


# ---- both sides -------------------------------------------------------------------------------------------


def trl_loss(now, old, advantage=A, mask=MASK, reference=None, entropy=None, micro_batches=1, items=None, **config):
    """The value of GRPOTrainer._compute_loss for these log-probs; `config` holds options of GRPOConfig."""
    options = {
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "epsilon_low": LOW,
        "epsilon_high": HIGH,
        "delta": None,
        "beta": 0.0,
        "use_bias_correction_kl": True,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "max_completion_length": 8,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        **config,
    }
    trainer = SimpleNamespace(
        **options,
        args=SimpleNamespace(steps_per_generation=micro_batches, **options),
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            num_processes=1,
            reduce=lambda x, reduction: x,
            gather=lambda x: x,
            pad_across_processes=lambda x, dim, pad_index: x,
        ),
        current_gradient_accumulation_steps=micro_batches,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        get_off_policy_mask=trl().GRPOTrainer.get_off_policy_mask,
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            now,
            torch.zeros_like(now) if entropy is None else entropy,
            None,
        ),
    )
    trainer.get_high_entropy_mask = lambda *inputs: trl().GRPOTrainer.get_high_entropy_mask(trainer, *inputs)
    empty = torch.zeros(len(now), 0, dtype=torch.long)
    inputs = {
        "prompt_ids": empty,
        "prompt_mask": empty,
        "completion_ids": torch.zeros(now.shape, dtype=torch.long),
        "completion_mask": mask.long(),
        "advantages": advantage,
        "old_per_token_logps": old,
        "num_items_in_batch": mask.sum() if items is None else items,
        "ref_per_token_logps": reference,
    }
    return trl().GRPOTrainer._compute_loss(trainer, None, inputs)


def mmrl_loss(now, old, algorithm, advantage=A, mask=MASK, reference=None, features=None):
    """The value of mmrl's loss for one whole batch, put together as the training loop does."""
    algorithm = algorithm.with_defaults(LOW, HIGH)
    sampler = torch.where(mask, old, 0.0)
    made = {"logp": now.detach(), **(features or {})}
    batch = Batch(GROUP, 2, mask, logp_old=now.detach(), logp_sampler=sampler, features=made)
    batch, action_weight, _ = prepare_update(batch, advantage, algorithm)
    weights = aggregate.weights(algorithm.aggregate, batch.mask, GROUP, 2, local, algorithm.constant_length)
    replay = ActionLogProbs(now, logp_reference=reference)
    return policy_loss(replay, old, batch.mask, advantage, weights, algorithm, batch, action_weight)[0]


def gradient(loss, logp):
    return torch.autograd.grad(loss, logp, retain_graph=True)[0]


def clipped_constant(now, old, algorithm):
    """What a clipped surrogate adds to the loss for the actions that it cuts: -w bound A, without any gradient.

    Our loss counts only the actions that keep their gradient, TRL's the surrogate of all of them.
    """
    algorithm = algorithm.with_defaults(LOW, HIGH)
    r = ratio(log_ratio(now, old, MASK, algorithm.ratio))
    advantage = A[:, None].expand(B, T)
    cut = (GATES.bind(algorithm.gate)(r, advantage, algorithm) == 0) & MASK
    bound = r.clamp(1 - algorithm.clip_low, 1 + algorithm.clip_high)
    limit = algorithm.gate.options.get("clip_bound")
    if limit is not None:
        bound = torch.where((advantage < 0) & (r > limit), torch.full_like(r, limit), bound)
    weights = aggregate.weights(algorithm.aggregate, MASK, GROUP, 2, local, algorithm.constant_length)
    assert cut.any() and not cut[MASK].all()
    return -(weights * bound * advantage)[cut].sum()


# name -> (our algorithm, TRL's options). bnpo is the mean over the actions of the micro-batch: with one micro-batch
# it is token_mean, as dapo is.
CLIPPED = {
    "grpo": (resolve("grpo", {}), {"loss_type": "grpo"}),
    "dr_grpo": (resolve("dr_grpo", {"constant_length": 8}), {"loss_type": "dr_grpo"}),
    "dapo": (resolve("dapo", {}), {"loss_type": "dapo"}),
    "bnpo": (Algorithm(aggregate="token_mean"), {"loss_type": "bnpo"}),
    "gspo": (resolve("gspo", {"clip_low": LOW, "clip_high": HIGH}), {"importance_sampling_level": "sequence"}),
    "two_sided": (Algorithm(gate={"name": "two_sided", "clip_bound": 1.6}), {"loss_type": "grpo", "delta": 1.6}),
}


# ---- losses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIPPED)
def test_clipped_losses_agree_in_value_and_gradient(name, now, old):
    algorithm, options = CLIPPED[name]
    theirs, ours = trl_loss(now, old, **options), mmrl_loss(now, old, algorithm)
    assert gradient(ours, now).abs().max() > 0
    torch.testing.assert_close(gradient(ours, now), gradient(theirs, now), **SAME)
    torch.testing.assert_close(ours + clipped_constant(now, old, algorithm), theirs, **SAME)


@pytest.mark.parametrize("name", CLIPPED)
def test_clipped_losses_are_equal_where_nothing_is_clipped(name, near, old):
    algorithm, options = CLIPPED[name]
    torch.testing.assert_close(mmrl_loss(near, old, algorithm), trl_loss(near, old, **options), **SAME)


def test_delta_cuts_actions_that_the_clip_range_leaves(now, old):
    """Otherwise the comparison of two_sided would be one of grpo."""
    algorithm, options = CLIPPED["two_sided"]
    ours, without = mmrl_loss(now, old, algorithm), mmrl_loss(now, old, Algorithm())
    assert not torch.equal(gradient(ours, now), gradient(without, now))
    assert not torch.equal(
        gradient(trl_loss(now, old, **options), now), gradient(trl_loss(now, old, loss_type="grpo"), now)
    )


def test_cispo_has_the_gradient_of_trl_with_epsilon_high_as_the_cap(now, old):
    """TRL's epsilon_high is the cap itself for CISPO, 1 + epsilon_high for every other loss; our `cap` is the cap.

    The values differ: TRL's surrogate is c A logp, ours c A, with the same gradient.
    """
    theirs = trl_loss(now, old, loss_type="cispo", epsilon_high=1.5)
    ours = mmrl_loss(now, old, resolve("cispo", {"gate": {"name": "cispo", "cap": 1.5}}))
    torch.testing.assert_close(gradient(ours, now), gradient(theirs, now), **SAME)
    capped = (now.detach() - old).exp().clamp(max=1.5)
    torch.testing.assert_close(ours.detach(), -(capped * A[:, None])[MASK].mean(), **SAME)
    torch.testing.assert_close(theirs.detach(), -(capped * A[:, None] * now.detach())[MASK].mean(), **SAME)


def test_sapo_has_the_gradient_of_trl(now, old):
    """The values differ: TRL's is the soft surrogate (4/tau) s A, ours the coefficient 4 s (1-s) r A.

    TRL holds the temperatures in float32, where these two are exact.
    """
    theirs = trl_loss(now, old, loss_type="sapo", sapo_temperature_pos=0.75, sapo_temperature_neg=1.75)
    ours = mmrl_loss(now, old, resolve("sapo", {"gate": {"name": "sapo", "tau_pos": 0.75, "tau_neg": 1.75}}))
    assert gradient(ours, now).abs().max() > 0
    torch.testing.assert_close(gradient(ours, now), gradient(theirs, now), **SAME)


def test_gspo_per_token_has_the_gradient_of_trls_sequence_level(now, old):
    """With one advantage per sequence the token form of GSPO differs in nothing; TRL has the sequence form only."""
    theirs = trl_loss(now, old, importance_sampling_level="sequence")
    ours = mmrl_loss(now, old, Algorithm(ratio="sequence_token"))
    torch.testing.assert_close(gradient(ours, now), gradient(theirs, now), **SAME)


def test_first_update_is_the_same_for_every_loss_of_one_aggregation(old):
    """At ratio 1 every gate passes everything, on both sides."""
    now = old.clone().requires_grad_()
    wanted = gradient(mmrl_loss(now, old, Algorithm(aggregate="token_mean")), now)
    for loss_type, cap in (("dapo", HIGH), ("bnpo", HIGH), ("cispo", 5.0)):
        found = gradient(trl_loss(now, old, loss_type=loss_type, epsilon_high=cap), now)
        torch.testing.assert_close(found, wanted, **SAME)


# ---- denominators -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo"])
def test_trl_counts_samples_without_trained_actions_and_mmrl_does_not(loss_type, now, old):
    """With k of B samples empty (overlong ones masked, say) TRL divides by B and mmrl by B - k."""
    mask = MASK.clone()
    mask[[1, 4]] = False
    algorithm, options = CLIPPED[loss_type]
    theirs = gradient(trl_loss(now, old, mask=mask, **options), now)
    ours = gradient(mmrl_loss(now, old, algorithm, mask=mask), now)
    torch.testing.assert_close(ours * (B - 2) / B, theirs, **SAME)


def test_dapo_does_not_depend_on_micro_batches_and_bnpo_does(now, old):
    """Two micro-batches of three samples: TRL's dapo adds up to our whole batch, its bnpo to a mean of two means."""
    whole = gradient(mmrl_loss(now, old, Algorithm(aggregate="token_mean")), now)

    def in_two(loss_type):
        halves = (slice(0, 3), slice(3, 6))
        losses = [
            trl_loss(now[h], old[h], A[h], MASK[h], micro_batches=2, items=MASK.sum(), loss_type=loss_type)
            for h in halves
        ]
        return gradient(sum(losses), now)

    torch.testing.assert_close(in_two("dapo"), whole, **SAME)
    counts = torch.tensor([MASK[:3].sum(), MASK[3:].sum()], dtype=torch.float64)
    scale = (MASK.sum() / (2 * counts)).repeat_interleave(3)[:, None]
    torch.testing.assert_close(in_two("bnpo"), whole * scale, **SAME)


# ---- extra terms and masks --------------------------------------------------------------------------------


def test_kl_in_the_loss_is_trls_without_its_bias_correction(near, old):
    """TRL multiplies the k3 estimate by the ratio unless use_bias_correction_kl is off; mmrl's is the plain one."""
    reference = old - 0.5 * torch.rand(B, T, dtype=torch.float64)
    ours = mmrl_loss(near, old, Algorithm(kl_coef=0.1), reference=reference)
    plain = trl_loss(near, old, reference=reference, beta=0.1, use_bias_correction_kl=False)
    corrected = trl_loss(near, old, reference=reference, beta=0.1)
    torch.testing.assert_close(ours, plain, **SAME)
    torch.testing.assert_close(gradient(ours, near), gradient(plain, near), **SAME)
    # d(r k3) / d logp = r k3 + r dk3 / d logp, where the plain one is dk3 / d logp alone.
    r, gap = (near.detach() - old).exp(), reference - near.detach()
    k3, slope = gap.exp() - gap - 1, 1 - gap.exp()
    share = 0.1 / (B * MASK.sum(1, keepdim=True).double()) * MASK
    wanted = gradient(ours, near) + share * (r * k3 + r * slope - slope)
    torch.testing.assert_close(gradient(corrected, near), wanted, **SAME)


def test_entropy_selection_is_trls_as_a_weight_and_leaves_the_denominator_as_a_mask(now, old):
    """TRL zeroes the other tokens: our action weight top_entropy. Our mask top_entropy divides by those it keeps."""
    entropy = torch.randperm(B * T).reshape(B, T).double()
    hook = {"name": "top_entropy", "share": 0.4}
    theirs = gradient(trl_loss(now, old, entropy=entropy, loss_type="dapo", top_entropy_quantile=0.4), now)
    as_weight = Algorithm(aggregate="token_mean", clip_low=LOW, clip_high=HIGH, action_weights=[hook])
    as_mask = Algorithm(aggregate="token_mean", clip_low=LOW, clip_high=HIGH, action_masks=[hook])
    features = {"entropy": entropy}
    assert 0 < int((theirs != 0).sum()) < int(MASK.sum())
    torch.testing.assert_close(gradient(mmrl_loss(now, old, as_weight, features=features), now), theirs, **SAME)
    n = int(MASK.sum())
    kept = math.ceil(0.4 * n)
    torch.testing.assert_close(
        gradient(mmrl_loss(now, old, as_mask, features=features), now), theirs * n / kept, **SAME
    )


@pytest.mark.parametrize("drop", [False, True])
def test_off_policy_sequence_mask(drop, now, old):
    """TRL zeroes a rejected sample and still counts it; mmrl does the same with drop off, and leaves it out with it on.

    Here the log-probs of the sampler are the old ones of both sides, and the gap is measured to the current policy.
    """
    theirs = gradient(trl_loss(now, old, off_policy_mask_threshold=0.05), now)
    algorithm = Algorithm(correction={"name": "opsm", "delta": 0.05, "drop": drop})
    ours = gradient(mmrl_loss(now, old, algorithm), now)
    moved = ((old - now.detach()) * MASK).sum(1) / MASK.sum(1) > 0.05
    rejected = int((moved & (A < 0)).sum())
    assert rejected > 0
    torch.testing.assert_close(ours * ((B - rejected) / B if drop else 1.0), theirs, **SAME)


# ---- advantages -------------------------------------------------------------------------------------------

# TRL's n / (n - 1) of the sample variance is a float32, which costs 1e-8.
STD = {"rtol": 1e-7, "atol": 1e-9}


def trl_advantages(rewards, generations, scale="group", weights=None, combine="sum_then_normalize"):
    """What GRPOTrainer._generate_and_score_completions makes of rewards [N, F], its rollout left out."""
    n, columns = rewards.shape
    names = [f"reward_{f}" for f in range(columns)]
    model = torch.nn.Identity()
    model.is_gradient_checkpointing = False
    args = SimpleNamespace(
        per_device_train_batch_size=n,
        steps_per_generation=1,
        gradient_accumulation_steps=1,
        gradient_checkpointing_kwargs=None,
    )
    ids = [[1]] * n
    trainer = SimpleNamespace(
        args=args,
        model=model,
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, process_index=0),
        environment_factories=None,
        environments=None,
        tools=None,
        num_iterations=1,
        use_vllm=False,
        beta=0.0,
        pad_to_multiple_of=None,
        mask_truncated_completions=False,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _generate=lambda prompts: (ids, ids, None, ["a"] * n, None, {}, None, None),
        _calculate_rewards=lambda *_: rewards,
        num_generations=generations,
        multi_objective_aggregation=combine,
        scale_rewards=scale,
        reward_funcs=names,
        reward_func_names=names,
        reward_weights=torch.ones(columns) if weights is None else weights,
        _metrics={"train": defaultdict(list)},
        _logs={"prompt": deque(), "completion": deque(), "rewards": defaultdict(deque), "advantages": deque()},
        _pending_extra_logs={},
        _pending_metrics={},
    )
    inputs = [{"prompt": "p"} for _ in range(n)]
    return trl().GRPOTrainer._generate_and_score_completions(trainer, inputs)["advantages"]


def mmrl_advantages(rewards, generations, weights=None, **choices):
    """TRL adds 1e-4 to a standard deviation, mmrl 1e-6 unless it is told otherwise."""
    n, columns = rewards.shape
    group = torch.arange(n) // generations
    batch = Batch(group, n // generations, torch.ones(n, 1, dtype=torch.bool))
    given = torch.ones(columns) if weights is None else weights
    valid = torch.ones_like(rewards, dtype=torch.bool)
    applicable = ~rewards.isnan()
    algorithm = Algorithm(std_eps=1e-4, **choices)
    return estimate(rewards, valid, given, batch, algorithm, applicable=applicable)[0]


@pytest.fixture
def rewards():
    return torch.rand(12, 1, dtype=torch.float64)


@pytest.mark.parametrize(("scale", "ours"), [("group", "group_std"), ("none", "group_mean"), ("batch", "global_std")])
def test_group_advantages_agree(scale, ours, rewards):
    """TRL's "batch" divides by the std of the raw rewards, which is our global_std; ScaleRL's batch_std it has not."""
    theirs = trl_advantages(rewards, 4, scale)
    torch.testing.assert_close(mmrl_advantages(rewards, 4, advantage=ours), theirs, **STD)


def test_a_sample_without_reward_gets_no_advantage_and_enters_no_statistic(rewards):
    rewards[5] = torch.nan
    theirs = trl_advantages(rewards, 4)
    assert theirs[5] == 0
    torch.testing.assert_close(mmrl_advantages(rewards, 4), theirs, **STD)


def test_groups_of_equal_rewards_are_zero_and_in_mmrl_exactly(rewards):
    """0.1 + 0.1 + 0.1 over 3 is not 0.1: TRL divides the rounding error by 1e-4, mmrl returns 0."""
    rewards[:3], rewards[3:] = 0.1, torch.rand(9, 1, dtype=torch.float64)
    ours, theirs = mmrl_advantages(rewards, 3), trl_advantages(rewards, 3)
    assert torch.equal(ours[:3], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(ours, theirs, **STD)


@pytest.mark.parametrize(("theirs", "ours"), [("sum_then_normalize", "reward_sum"), ("normalize_then_sum", "gdpo")])
def test_several_rewards_are_combined_alike(theirs, ours):
    """With every group's rewards spread and every score there. TRL's mean of the summed advantages is 0, too."""
    rewards = torch.rand(12, 3, dtype=torch.float64)
    weights = torch.tensor([1.0, 0.5, 2.0])
    found = mmrl_advantages(rewards, 4, weights, combine=ours)
    torch.testing.assert_close(found, trl_advantages(rewards, 4, weights=weights, combine=theirs), **STD)


# -------------------------------------------------------------------- reward models


@pytest.mark.parametrize("margin", [None, [0.5, 0.0, 1.25]])
@pytest.mark.parametrize("centre", [None, 0.01])
def test_the_loss_of_reward_models_is_trls(margin, centre):
    scores = torch.tensor([[1.5, -0.2], [0.3, 0.9], [-1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    shares = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=centre),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs = {} if margin is None else {"margin": torch.tensor(margin, dtype=torch.float64)}
    logits = scores.T.reshape(-1, 1)  # the chosen ones, then the rejected ones
    wanted = trl().RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), dict(inputs))
    loss = pairwise.bradley_terry(scores, shares, margin=inputs.get("margin", 0.0))
    loss = (loss + (centre or 0.0) * pairwise.centring(scores)).mean()
    torch.testing.assert_close(loss, wanted, **SAME)
    torch.testing.assert_close(*(torch.autograd.grad(x, scores)[0] for x in (loss, wanted)), **SAME)
    accuracy, ahead, _ = pairwise.outcome(scores, shares)
    # Equal scores are half right here, and wrong in TRL.
    assert trainer._metrics["eval"]["accuracy"] == [pytest.approx(1 / 3)]
    assert float(accuracy.mean()) == pytest.approx(1.5 / 3)
    assert trainer._metrics["eval"]["margin"] == [pytest.approx(float(ahead.mean()))]
