"""Every preset: its hooks bind, and what holds of the gradient of an optimizer step whatever the algorithm."""

import dataclasses
import random

import pytest
from core_steps import GROUPS, PRESETS, N, gradient, made, numbers
from every import every

from mmrl.core import library
from mmrl.core.registry import Hook
from mmrl.core.resolving import checked, needs, needs_reference
from mmrl.core.terms import TERMS

each = pytest.mark.parametrize("preset", PRESETS)


def apart(found, expected):
    """Largest difference, relative to the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


@each
def test_every_hook_of_a_preset_binds(preset):
    algorithm = made(preset)
    for registry, hook in library.hooks(algorithm):
        assert callable(registry.bind(hook))
    assert needs(algorithm) == {n for r, hook in library.hooks(algorithm) for n in r[hook.name].needs}


@each
def test_a_kl_can_be_added_to_every_preset(preset):
    assert needs_reference(made(preset, kl_coef=0.01))


@each
@every("kl_coef", [0.0, 0.1])
def test_the_cut_into_micro_batches_does_not_change_the_gradient(preset, kl_coef):
    given, algorithm = numbers(), made(preset, kl_coef=kl_coef)
    whole = gradient(algorithm, given)
    assert whole.abs().max() > 1e-4
    mixed = random.Random(3).sample(range(N), N)
    for cuts in ([[row] for row in range(N)], [mixed[:5], mixed[5:6], mixed[6:]]):
        assert apart(gradient(algorithm, given, cuts), whole) < 1e-6


@each
def test_a_kl_of_almost_no_weight_changes_almost_nothing(preset):
    given = numbers()
    assert apart(gradient(made(preset, kl_coef=1e-12), given), gradient(made(preset), given)) < 1e-9


@each
@every("term", TERMS)
def test_a_term_of_almost_no_weight_changes_almost_nothing(preset, term):
    """Beside 0, and beside an algorithm without the term."""
    given, algorithm = numbers(), made(preset)
    others = tuple(hook for hook in algorithm.terms if hook.name != term)
    if algorithm.advantage.name == "zero":
        algorithm = dataclasses.replace(algorithm, advantage="group_std")  # nothing else would be trained

    def with_coefficient(coef):
        more = {"pairwise": {"old_coef": coef}, "proxy_kl": {"share": 0.5}}.get(term, {})
        return checked(dataclasses.replace(algorithm, terms=(*others, Hook(term, {"coef": coef, **more}))))

    without = gradient(dataclasses.replace(algorithm, terms=others), given)
    assert apart(gradient(with_coefficient(0.0), given), without) < 1e-12
    assert apart(gradient(with_coefficient(1e-12), given), without) < 1e-9
    assert apart(gradient(with_coefficient(1.0), given), without) > 1e-6


@each
def test_the_order_of_samples_and_of_groups_does_not_matter(preset):
    given, algorithm = numbers(), made(preset, kl_coef=0.1)
    rows, groups = (random.Random(5).sample(range(n), n) for n in (N, GROUPS))
    moved = gradient(algorithm, given.moved(rows, groups))
    assert apart(moved, gradient(algorithm, given)[:, rows]) < 1e-9
