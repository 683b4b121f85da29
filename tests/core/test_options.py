"""Every option of every hook: it changes something, and takes no number that has no meaning."""

import dataclasses
import math

import pytest
import torch
from core_steps import N, T, numbers
from every import every

from mmrl.core.algorithm import Algorithm
from mmrl.core.library import registries
from mmrl.core.registry import Hook, prepared
from mmrl.core.resolving import resolve
from mmrl.types import ActionLogProbs

# What a hook needs, or needs to have something to do, on the batches of core_steps.
GIVEN = {
    ("shape", "soft_overlong"): {"limit": 6, "buffer": 3},
    ("shape", "gated"): {"condition": "a", "threshold": 0.5},
    ("shape", "gated_sum"): {"delta": 0.5},
    ("shape", "staged"): {"boundaries": [1], "weights": [{"a": 1.0}, {"process": 2.0}]},
    ("shape", "noise_backward"): {"rho0": 0.1, "rho1": 0.2},
    ("shape", "noise_forward"): {"rho1": 0.2},
    ("filters", "accuracy_band"): {"low": 0.2, "high": 0.8},
    ("filters", "multiple"): {"of": 5},
    ("filters", "prof"): {"keep": 2},
    ("terms", "proxy_kl"): {"share": 0.1},
    ("terms", "entropy_band"): {"low": 0.5, "high": 1.5},
    ("advantage", "outlier_filter"): {"limit": 0.8},
    ("advantage", "outlier_filter_tokens"): {"limit": 0.8, "beta": 0.1},
    ("advantage", "step_episode"): {"correct": 0.5},
    ("advantage", "macro"): {"reward_feature": "entropy"},
    ("filters", "spread"): {"above": 0.45},
    ("action_masks", "capo"): {"scale": 1.0, "policy_limit": 0.02, "objective_limit": 0.2},
    ("tame", "log"): {"threshold": 0.5},
    ("correction", "geometric"): {"low": 0.8, "high": 1.2},
}
# Names of rewards or columns and the like are no numbers; `combine` joins several rewards.
NAMED = {"outcome", "score", "process", "condition", "components", "then", "otherwise", "boundaries", "weights"}
NAMED |= {"reward_feature", "combine"}


def options():
    """(field, hook, option) of every option that holds a number or a choice."""
    for field, registry in registries().items():
        for name in registry:
            for option in registry[name].options:
                if option not in NAMED:
                    yield field, name, option


HUGE = pytest.param(10**400, id="huge")
EACH = every(("field", "name", "option"), list(options()))


def binding(field, name, option):
    """Options of the hook beside `option`, so that it has an effect."""
    entry = registries()[field][name]
    given = {key: value for key, value in GIVEN.get((field, name), {}).items() if key != option}
    given = {key: value for key, value in given.items() if entry.only_if.get(key, ("", None))[0] != option}
    other, wanted = entry.only_if.get(option, ("", None))
    if wanted is None and other:  # has an effect without the other one
        return {}
    if isinstance(wanted, str | bool):
        given[other] = wanted
    return given


def values(field, name, option):
    """Values that the option accepts: around its default, and what its words name."""
    entry = registries()[field][name]
    parameter, bound = entry.options[option], entry.bounds.get(option)
    kind, default = str(parameter.annotation), parameter.default
    start = GIVEN.get((field, name), {}).get(option, 0.5 if default in (None, parameter.empty) else default)
    if kind == "bool":
        tried = [False, True]
    elif kind == "str":
        tried = [word.strip() for word in bound.words.removeprefix("one of").split(",")]
    elif kind.startswith("int"):
        tried = [int(start) + k for k in (-2, -1, 0, 1, 2, 20)]
    else:
        tried = [start * k for k in (1, 0.3, 0.9, 1.1, 2, 10, 100)] + [0.0, 0.05, 0.5, -0.5, 1.0, 3.0, 20.0]
    return [value for value in tried if bound is None or bound.test(value)]


def result(field, name, chosen, seed):
    """What the hook makes of a batch, as one tensor."""
    given, registry, hook = numbers(seed), registries()[field], Hook(name, chosen)
    reward, valid = given.reward, torch.ones(N, dtype=torch.bool)
    if field in ("shape", "filters"):
        reward = (reward > 0).double()
    spread = torch.where(given.batch.mask, reward[:, None] * torch.linspace(0.5, 1.5, T), 0.0)
    batch = given.batch.having(features={"advantage": spread}, columns={"version": torch.arange(N) % 12})
    batch = prepared(dataclasses.replace(batch, step=12 if name == "staleness" else seed), [(registry, hook)])
    use = registry.bind(hook)
    if field == "advantage":
        return use(reward + batch.score("a"), valid, batch, Algorithm())
    if field == "tame":
        several = torch.stack([batch.score("a").abs() * k for k in (1.0, 3.0)] + [reward.abs() + 1.0], 1)
        return use(several.nan_to_num(0.0), torch.ones_like(several, dtype=torch.bool), batch)
    if field == "gate":
        ratio = torch.linspace(-3.5, 3.5, N * T, dtype=torch.float64).exp().reshape(T, N).T * 1.0
        both = (torch.arange(T) % 2).double() * 2 - 1
        return use(ratio, both.expand(N, T), Algorithm(clip_low=0.2, clip_high=0.2), batch)
    if field == "shape":
        return use(reward, batch).nan_to_num(-99.0)
    if field == "filters":
        return use(reward, valid, batch)
    if field in ("action_masks", "action_weights"):
        return torch.where(batch.mask, use(spread, batch).double(), 0.0)
    if field == "correction":
        weight, keep = use(torch.where(batch.mask, batch.logp_old - batch.logp_sampler, 0.0), batch, spread)
        return torch.stack([torch.where(batch.mask, weight, 0.0), keep.double()])
    replay = ActionLogProbs(given.logp, entropy=given.entropy)
    use(replay, batch.mask / 50, batch.mask, spread, batch).backward()
    return torch.stack([torch.zeros(N, T) if x.grad is None else x.grad for x in (given.logp, given.entropy)])


@EACH
def test_every_option_changes_something(field, name, option):
    beside = binding(field, name, option)
    for seed in range(3):
        seen = []
        for value in values(field, name, option):
            try:
                seen.append(result(field, name, {**beside, option: value}, seed))
            except ValueError:  # a value that its neighbours refuse, such as a low above the high
                continue
            if not torch.equal(seen[0], seen[-1]):
                return
    raise AssertionError(f"{option} of {field} {name!r} changed nothing in {len(seen)} tries")


@EACH
@every("wrong", [math.inf, -math.inf, math.nan, "much", [1.0], HUGE])
def test_no_option_takes_what_is_no_finite_number(field, name, option, wrong):
    entry = registries()[field][name]
    if wrong == "much" and ("str" in str(entry.options[option].annotation) and option not in entry.bounds):
        pytest.skip("a name of the user's")
    if wrong == "much" and option in ("rho0", "rho1"):
        pytest.skip("the name of a column")
    with pytest.raises(ValueError, match=option):
        registries()[field].check(Hook(name, {**binding(field, name, option), option: wrong}))


@EACH
def test_true_is_no_number(field, name, option):
    entry = registries()[field][name]
    wrong = 1 if str(entry.options[option].annotation) == "bool" else True
    with pytest.raises(ValueError, match=option):
        registries()[field].check(Hook(name, {**binding(field, name, option), option: wrong}))


# Thresholds on rewards, which may have either sign.
SIGNED = {"low", "high", "correct_at", "correct", "threshold", "delta", "otherwise", "floor", "seed"}


@EACH
def test_no_option_is_negative_where_that_has_no_meaning(field, name, option):
    entry = registries()[field][name]
    kind = str(entry.options[option].annotation)
    reward = field in ("shape", "filters", "advantage") and option in SIGNED
    if kind in ("bool", "str") or reward:
        return
    wrong = -1 if kind.startswith("int") else -0.5
    with pytest.raises(ValueError, match=option):
        registries()[field].check(Hook(name, {**binding(field, name, option), option: wrong}))


@every(
    ("field", "hook", "option"),
    [
        ("gate", {"name": "bapo", "released": True, "by": "count"}, "by has no effect with released=True"),
        ("shape", {"name": "length_lambda", "threshold": 0.5}, "threshold has no effect with mode='top'"),
        ("shape", {"name": "length_lambda", "mode": "threshold", "top": 0.5}, "top has no effect with mode='thresh"),
        ("shape", {"name": "gated_sum", "ungated": True, "delta": 2.0}, "delta has no effect with ungated=True"),
        ("filters", {"name": "prof", "seed": 3}, "seed has no effect with correct_only=False"),
        ("terms", {"name": "entropy_band", "low": 0.1, "high": 0.2, "width": 2.0}, "width has no effect"),
    ],
)
def test_options_without_effect_are_refused(field, hook, option):
    value = [hook] if field in ("shape", "filters", "terms") else hook
    with pytest.raises(ValueError, match=option):
        resolve("grpo", {field: value})


@every(
    ("preset", "overrides", "said"),
    [
        ("cispo", {"clip_high": 0.3}, "clip_high has no effect with gate='cispo'"),
        ("lp_reg", {"clip_low": 0.3}, "clip_low has no effect with gate='absolute'"),
        ("dapo", {"constant_length": 5}, "constant_length has no effect with aggregate='token_mean'"),
        ("grpo", {"kl_estimator": "k2"}, "kl_estimator has no effect with kl_coef=0"),
        ("rloo", {"kl_place": "reward"}, "kl_place has no effect with kl_coef=0"),
    ],
)
def test_fields_without_effect_are_refused(preset, overrides, said):
    with pytest.raises(ValueError, match=said):
        resolve(preset, overrides)


@every("field", ["std_eps", "std_floor", "clamp", "clip_low", "clip_high", "kl_coef", "ddof", "constant_length"])
@every("wrong", [math.inf, -math.inf, math.nan, True, "1", [1], -1, HUGE])
def test_no_field_takes_what_is_no_number_of_its_range(field, wrong):
    with pytest.raises(ValueError, match=field) as caught:
        Algorithm(**{field: wrong})
    assert len(str(caught.value)) < 250
