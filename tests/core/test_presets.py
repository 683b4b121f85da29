"""Every preset against the registries, and the published constants."""

import dataclasses

import pytest

from mmrl.core import library
from mmrl.core.algorithm import MANY, Algorithm
from mmrl.core.resolving import resolve
from mmrl.core.presets import PRESETS
from mmrl.core.registry import Hook


def made(preset, **overrides):
    return resolve(preset, {**({"constant_length": 100} if preset == "dr_grpo" else {}), **overrides})


@pytest.mark.parametrize("preset", PRESETS)
def test_every_hook_of_a_preset_binds(preset):
    algorithm = made(preset)
    for registry, hook in library.hooks(algorithm):
        assert callable(registry.bind(hook))
    assert algorithm.needs == {n for r, hook in library.hooks(algorithm) for n in r[hook.name].needs}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_changes_only_what_it_says(preset):
    algorithm, plain = made(preset), Algorithm()
    said = {*PRESETS[preset], *(["constant_length"] if preset == "dr_grpo" else [])}
    for field in dataclasses.fields(Algorithm):
        value = getattr(algorithm, field.name)
        if field.name not in said:
            assert value == getattr(plain, field.name)
        elif field.name in MANY:
            assert value == tuple(Hook.of(entry) for entry in PRESETS[preset][field.name])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_kl_can_be_added_to_every_preset(preset):
    assert made(preset, kl_coef=0.01).needs_reference


def test_published_constants():
    assert (made("dapo").clip_low, made("dapo").clip_high) == (0.2, 0.28)
    assert (made("gspo").clip_low, made("gspo").clip_high) == (3e-4, 4e-4)
    assert made("sapo").gate.options == {"tau_pos": 1.0, "tau_neg": 1.05}
    flow = made("flow_grpo")
    assert (flow.advantage.name, flow.ddof, flow.std_eps, flow.clamp) == ("global_std", 0, 1e-4, 5.0)
    assert made("lp_reg").gate.options == {"low": 0.0, "high": 10.0}
    assert (made("topr").ratio, made("topr").aggregate) == ("product", "sequence_mean")
