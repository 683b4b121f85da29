"""Options that contradict each other are refused with the configuration, before anything is sampled."""

from __future__ import annotations

import pytest

from mmrl.core.resolving import resolve

STAGES = [{"a": 1.0}, {"a": 2.0}, {"a": 3.0}]
HOOKS = [
    ("gate", {"name": "bapo", "low_start": 0.95}),
    ("gate", {"name": "bapo", "high_end": 1.1}),
    ("correction", {"name": "icepop", "low": 6.0}),
    ("correction", {"name": "geometric", "low": 1.5}),
    ("correction", {"name": "truncate", "floor": 2.0, "cap": 1.0}),
    ("terms", [{"name": "entropy_band", "low": 2.0, "high": 1.0}]),
    ("terms", [{"name": "entropy_band", "low": 2.0}]),
    ("terms", [{"name": "entropy_band", "high": 2.0}]),
    ("shape", [{"name": "soft_overlong", "buffer": 20, "limit": 10}]),
    ("shape", [{"name": "staged", "boundaries": [5, 3], "weights": STAGES}]),
    ("shape", [{"name": "staged", "boundaries": [5], "weights": STAGES}]),
    ("filters", [{"name": "accuracy_band", "low": 0.9, "high": 0.1}]),
]


@pytest.mark.parametrize(("field", "value"), HOOKS)
def test_contradictory_options_are_refused_in_one_line_that_names_the_hook(field, value):
    name = (value[0] if isinstance(value, list) else value)["name"]
    with pytest.raises(ValueError, match=f"'{name}': ") as caught:
        resolve("grpo", {field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gate", ["two_sided", "dual_clip"])
def test_a_bound_inside_the_clip_range_of_the_adapter_is_refused(gate):
    """The range is not known to the configuration, where it is left to the adapter."""
    algorithm = resolve("grpo", {"gate": {"name": gate, "clip_bound": 1.1}})
    assert algorithm.with_defaults(0.05, 0.05).clip_high == 0.05
    with pytest.raises(ValueError, match=r"clip_bound=1.1: .* 1 \+ clip_high = 1.2"):
        algorithm.with_defaults(0.2, 0.2)
