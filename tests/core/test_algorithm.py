"""Presets, overrides, and messages that name the fix."""

import dataclasses
import subprocess
import sys

import pytest

from mmrl.core import advantage, aggregate, gate, kl, ratio
from mmrl.core.algorithm import CHOICES, PRESETS, Algorithm, resolve


def test_importing_the_record_stays_light():
    code = "import sys, mmrl.core.algorithm; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_name_that_validates_has_its_function():
    assert set(CHOICES["advantage"]) == set(advantage.ESTIMATORS)
    assert set(CHOICES["gate"]) == set(gate.GATES)
    assert set(CHOICES["ratio"]) == set(ratio.LEVELS)
    assert set(CHOICES["aggregate"]) == set(aggregate.AGGREGATIONS)
    assert set(CHOICES["kl_estimator"]) == {*kl.ESTIMATORS, "exact"}


def test_grpo_is_the_default():
    assert resolve("grpo", {}) == Algorithm()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_resolve_and_change_only_what_they_say(preset):
    needs = {"constant_length": 100} if preset == "dr_grpo" else {}
    resolved = dataclasses.asdict(resolve(preset, needs))
    said = {**PRESETS[preset], **needs}
    assert resolved == {**dataclasses.asdict(Algorithm()), **said}


def test_published_constants():
    assert (resolve("dapo", {}).clip_low, resolve("dapo", {}).clip_high) == (0.2, 0.28)
    assert (resolve("gspo", {}).clip_low, resolve("gspo", {}).clip_high) == (3e-4, 4e-4)
    assert (resolve("sapo", {}).tau_pos, resolve("sapo", {}).tau_neg) == (1.0, 1.05)
    flow = resolve("flow_grpo", {})
    assert (flow.advantage, flow.ddof, flow.std_eps, flow.clamp) == ("global_std", 0, 1e-4, 5.0)


def test_overrides_win_over_the_preset():
    assert resolve("dapo", {"clip_high": 0.4}).clip_high == 0.4


def test_defaults_fill_only_what_is_open():
    filled = Algorithm(clip_high=0.28).with_defaults(1e-4, 2e-4)
    assert (filled.clip_low, filled.clip_high) == (1e-4, 0.28)


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("grop", {}, "'grpo'"),
        (None, {}, "unknown preset"),
        ("grpo", {"clip_hihg": 0.2}, "'clip_high'"),
        ("grpo", {"gate": "two_side"}, "'two_sided'"),
        ("grpo", {"advantage": "zzz"}, "known: group_std"),
        ("dr_grpo", {}, "set constant_length"),
        ("cispo", {"cap": 0.28}, "1.28"),
        ("cispo", {"cap": float("nan")}, "cap"),
        ("grpo", {"clip_low": "1e-4"}, "1.0e-4"),
        ("grpo", {"clip_low": 1.5}, "1 - clip_low"),
        ("grpo", {"clip_high": 0}, "above 0"),
        ("grpo", {"ddof": 2}, "population"),
        ("grpo", {"std_eps": -1}, "0 or more"),
        ("grpo", {"kl_coef": True}, "kl_coef"),
        ("grpo", {"skip_zero_variance": "no"}, "true or false"),
        ("grpo", {"constant_length": 0}, "1 or more"),
        ("sapo", {"tau_neg": 0}, "above 0"),
        ("flow_grpo", {"clamp": 0}, "null"),
        ("grpo", {"gate": "dual_clip", "clip_high": 3.0}, "above 1 \\+ clip_high = 4"),
        ("rloo", {"combine": "gdpo"}, "set advantage='group_std'"),
    ],
)
def test_errors_name_the_fix(preset, overrides, message):
    with pytest.raises(ValueError, match=message):
        resolve(preset, overrides)


def test_the_record_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Algorithm().cap = 9.0
