"""Every preset against the registries."""

import pytest

from mmrl.core import library
from mmrl.core.presets import PRESETS
from mmrl.core.resolving import needs, needs_reference, resolve


def made(preset, **overrides):
    return resolve(preset, {**({"constant_length": 100} if preset == "dr_grpo" else {}), **overrides})


@pytest.mark.parametrize("preset", PRESETS)
def test_every_hook_of_a_preset_binds(preset):
    algorithm = made(preset)
    for registry, hook in library.hooks(algorithm):
        assert callable(registry.bind(hook))
    assert needs(algorithm) == {n for r, hook in library.hooks(algorithm) for n in r[hook.name].needs}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_kl_can_be_added_to_every_preset(preset):
    assert needs_reference(made(preset, kl_coef=0.01))
