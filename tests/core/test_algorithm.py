"""Presets, overrides, and messages that name the fix."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from every import every

from mmrl.core import aggregate, kl, library, ratio
from mmrl.core.algorithm import CHOICES, MANY, Algorithm, in_words
from mmrl.core.batch import full
from mmrl.core.registry import Hook
from mmrl.core.resolving import BASE, GATE_RATIO, SCALE_FREE, SHIFT_FREE, checked, needs, needs_reference, resolve


def test_importing_the_record_and_plain_algorithms_stays_light():
    code = (
        "import sys; from mmrl.core.resolving import needs, needs_reference, resolve; "
        "a = resolve('dapo', {'gate': 'dual_clip', 'advantage': 'rank'}); needs(a); needs_reference(a); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_name_that_validates_has_its_function():
    assert set(CHOICES["ratio"]) == set(ratio.LEVELS)
    assert set(CHOICES["aggregate"]) == set(aggregate.AGGREGATIONS)
    assert set(CHOICES["kl_estimator"]) == {*kl.ESTIMATORS, "exact"}
    assert set(GATE_RATIO) <= set(library.registry("gate"))
    assert SCALE_FREE <= SHIFT_FREE <= set(library.registry("advantage"))


def test_names_that_are_not_looked_up_need_nothing_and_have_no_option_to_be_given():
    for field, names in BASE.items():
        for name in names:
            entry = library.registry(field).check(Hook(name))
            assert entry.needs == ()
            assert entry.prepare is None


def test_grpo_is_the_default():
    assert resolve("grpo", {}) == Algorithm()


# ------------------------------------------------------------------ hooks


def test_hooks_are_read_from_names_and_mappings():
    algorithm = Algorithm(
        gate={"name": "cispo", "cap": 4.0},
        filters=["truncated", {"name": "staleness", "most": 2}],
        correction="truncate",
    )
    assert algorithm.advantage == Hook("group_std")
    assert algorithm.gate == Hook("cispo", {"cap": 4.0})
    assert algorithm.filters == (Hook("truncated"), Hook("staleness", {"most": 2}))
    assert algorithm.correction == Hook("truncate")
    assert [field for field, _ in algorithm.hooks] == ["advantage", "filters", "filters", "gate", "correction"]
    assert in_words(algorithm.gate) == "cispo (cap 4.0)"
    assert Algorithm(gate=algorithm.gate, filters=algorithm.filters, correction=Hook("truncate")) == algorithm


def test_needs_are_those_of_all_hooks():
    assert needs(Algorithm()) == set()
    algorithm = Algorithm(advantage="stratified", action_masks=["top_entropy"], filters=["staleness"])
    assert needs(algorithm) == {"stratum", "entropy", "version"}
    assert not needs_reference(algorithm)


def test_the_reference_is_needed_by_the_kl_or_by_a_hook():
    assert needs_reference(Algorithm(kl_coef=0.1))
    assert needs_reference(Algorithm(kl_coef=0.1, kl_estimator="k1", kl_place="reward"))
    assert needs_reference(Algorithm(terms=["pairwise"]))
    assert needs_reference(Algorithm(advantage="whiten_tokens"))


@every(
    "name",
    sorted(SHIFT_FREE - {"step_episode", "step_rows", "macro", "whiten_tokens", "outlier_filter_tokens", "stratified"}),
)
def test_estimators_that_noise_corrections_cannot_reach(name):
    """What SHIFT_FREE and SCALE_FREE claim, on a 0/1 verifier and its two affine maps."""
    rewards = torch.tensor([0.0, 1, 1, 0, 0, 1], dtype=torch.float64)
    algorithm = Algorithm(advantage=name, std_eps=0.0)
    estimator = library.registry("advantage").bind(Hook(name))

    def of(x):
        return estimator(x, torch.ones(6, dtype=torch.bool), full(torch.tensor([0, 0, 0, 1, 1, 1])), algorithm)

    assert torch.allclose(of(rewards - 0.9), of(rewards), atol=1e-12)
    scaled = torch.allclose(of(2 * rewards - 0.2), of(rewards), atol=1e-12)
    assert scaled == (name in SCALE_FREE)


def test_overrides_win_over_the_preset():
    assert resolve("dapo", {"clip_high": 0.4}).clip_high == 0.4


def test_defaults_fill_only_what_is_open():
    filled = Algorithm(clip_high=0.28).with_defaults(1e-4, 2e-4)
    assert (filled.clip_low, filled.clip_high) == (1e-4, 0.28)


@every(
    ("preset", "overrides", "message"),
    [
        ("grop", {}, "'grpo'"),
        (None, {}, "unknown preset"),
        ("grpo", {"clip_hihg": 0.2}, "'clip_high'"),
        ("grpo", {"gate": "two_side"}, "'two_sided'"),
        ("grpo", {"advantage": "zzz"}, "known: .*group_std"),
        ("dr_grpo", {}, "set constant_length"),
        ("cispo", {"gate": {"name": "cispo", "cap": 0.28}}, "1.28"),
        ("cispo", {"gate": {"name": "cispo", "cap": float("nan")}}, "cap"),
        ("cispo", {"gate": {"name": "cispo", "caps": 2.0}}, "'cap'"),
        ("cispo", {"cap": 2.0}, "unknown field 'cap'"),
        ("grpo", {"gate": 3}, "gate=3: expected a name"),
        ("grpo", {"filters": "truncated"}, "expected a list"),
        ("grpo", {"filters": ["truncated", {"name": "truncated"}]}, "more than once"),
        ("grpo", {"correction": "trunkate"}, "'truncate'"),
        ("grpo", {"terms": ["entropi"]}, "'entropy'"),
        ("grpo", {"shape": ["soft_overlong"]}, "needs limit, buffer"),
        ("grpo", {"advantage": {"name": "stratified", "alpha": 2}}, "from 0 to 1"),
        ("topr", {"ratio": "token"}, "set ratio='product'"),
        ("bapo", {"ratio": "sequence"}, "set ratio='token'"),
        ("grpo", {"kl_coef": 0.1, "kl_estimator": "k1"}, "no gradient in the loss"),
        ("grpo", {"kl_coef": 0.1, "kl_place": "reward"}, "set kl_estimator='k1'"),
        ("grpo", {"combine": "gdpo", "shape": ["majority_vote"]}, "set combine='reward_sum'"),
        ("grpo", {"clip_low": "1e-4"}, "without quotes"),
        ("grpo", {"clip_low": 1.5}, "1 - clip_low"),
        ("grpo", {"clip_high": 0}, "above 0"),
        ("grpo", {"ddof": 2}, "population"),
        ("grpo", {"std_eps": -1}, "0 or more"),
        ("grpo", {"kl_coef": True}, "kl_coef"),
        ("grpo", {"drop_zero_variance": "no"}, "true or false"),
        ("grpo", {"constant_length": 0}, "1 or more"),
        ("sapo", {"gate": {"name": "sapo", "tau_neg": 0}}, "above 0"),
        ("flow_grpo", {"clamp": 0}, "null"),
        ("grpo", {"gate": "dual_clip", "clip_high": 3.0}, "above 1 \\+ clip_high = 4"),
        ("dapo", {"gate": {"name": "two_sided", "clip_bound": 1.2}}, "above 1 \\+ clip_high = 1.28"),
        ("rloo", {"combine": "gdpo"}, "set advantage='group_std'"),
    ],
)
def test_errors_name_the_fix(preset, overrides, message):
    with pytest.raises(ValueError, match=message):
        resolve(preset, overrides)


def test_the_record_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Algorithm().clamp = 9.0


# ------------------------------------------------------------------ corrections that would do nothing

BACKWARD = {"name": "noise_backward", "rho0": 0.1, "rho1": 0.2}
FORWARD = {"name": "noise_forward", "rho1": 0.2}


@every("advantage", ["group_std", "batch_std", "whiten", "rank"])
def test_a_constant_backward_correction_is_undone_by_normalising(advantage):
    with pytest.raises(ValueError, match="'noise_backward' with constant rates has no effect") as caught:
        checked(Algorithm(advantage=advantage, shape=[BACKWARD]))
    assert "set advantage='group_mean'" in str(caught.value)


@every("advantage", ["group_mean", "leave_one_out", "group_std"])
def test_a_constant_forward_correction_is_undone_by_a_mean(advantage):
    with pytest.raises(ValueError, match="'noise_forward' with constant rates has no effect") as caught:
        checked(Algorithm(advantage=advantage, shape=[FORWARD]))
    assert "set advantage='none'" in str(caught.value)


def test_corrections_that_do_something_are_accepted():
    assert checked(Algorithm(advantage="group_mean", shape=[BACKWARD])).shape[0].name == "noise_backward"
    assert checked(Algorithm(advantage="none", shape=[FORWARD])).shape[0].name == "noise_forward"
    assert (
        checked(Algorithm(shape=[{**BACKWARD, "rho0": "false_positive"}])).shape[0].options["rho0"] == "false_positive"
    )
    # A penalty added afterwards is measured on the corrected scale.
    assert len(checked(Algorithm(shape=[BACKWARD, {"name": "soft_overlong", "limit": 8, "buffer": 4}])).shape) == 2


@every("field", MANY)
def test_lists_of_hooks_are_empty_by_default(field):
    assert getattr(Algorithm(), field) == ()
