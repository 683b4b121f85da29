"""Hooks from configurations: what is read, what is refused, and what a preparation does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from mmrl.core.registry import Hook, Registry, above, between, one_of, prepared


@pytest.fixture
def registry():
    made = Registry("dish")

    @made.add("soup", needs=("water",), certainty="B", salt=between(0, 1), pot=one_of("big", "small"))
    def soup(x, *, salt: float = 0.5, pot: str = "big", hot: bool = True, spoons: int | None = None):
        """Boil it.

        For long.
        """
        return (x, salt, pot, hot, spoons)

    @made.add("pie", prepare=lambda batch, *, slices, **_: [*batch, slices], slices=above(0))
    def pie(x, *, slices: int, fillings: Sequence[str] = (), prices: Mapping[str, float] | None = None):
        return x * slices

    @made.add("salad", only_if={"croutons": ("dressing", "caesar")})
    def salad(x, *, dressing: str = "oil", croutons: int = 0):
        return x

    return made


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("soup", Hook("soup")),
        ({"name": "soup", "salt": 0.1}, Hook("soup", {"salt": 0.1})),
        (Hook("pie", {"slices": 2}), Hook("pie", {"slices": 2})),
    ],
)
def test_hooks_are_read(value, expected):
    assert Hook.of(value) == expected


@pytest.mark.parametrize("value", [None, 3, {"salt": 0.1}, ["soup"], {"name": 3}])
def test_other_forms_are_refused(value):
    with pytest.raises(ValueError, match="expected a name, or a mapping"):
        Hook.of(value)


def test_bound_functions_have_their_options(registry):
    assert registry.bind(Hook("soup", {"salt": 1, "spoons": 3}))("x") == ("x", 1, "big", True, 3)
    assert registry.bind(Hook("pie", {"slices": 4}))(2) == 8


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (Hook("soop"), "dish='soop' is not known; did you mean 'soup'"),
        (Hook("zzz"), "known: pie, salad, soup"),
        (Hook("soup", {"sallt": 1}), "no option 'sallt'; did you mean 'salt'"),
        (Hook("soup", {"salt": "1e-4"}), "must be float"),
        (Hook("soup", {"salt": True}), "must be float"),
        (Hook("soup", {"salt": float("nan")}), "must be float"),
        (Hook("soup", {"salt": 2}), "salt=2 must be from 0 to 1"),
        (Hook("soup", {"pot": "pan"}), "one of big, small"),
        (Hook("soup", {"hot": 1}), "must be bool"),
        (Hook("soup", {"spoons": 1.5}), r"must be int \| None"),
        (Hook("pie"), "'pie' needs slices"),
        (Hook("pie", {"slices": 0}), "above 0"),
        (Hook("soup", {"salt": float("inf")}), r"salt=inf must be float \(finite\)"),
        (Hook("soup", {"salt": -float("inf")}), "salt=-inf must be float"),
        (Hook("soup", {"spoons": 10**400}), "spoons=1000.* must be int"),
        (Hook("soup", {3: 1}), "no option 3"),
        (Hook("pie", {"slices": 1, "fillings": "plum"}), "fillings='plum' must be Sequence"),
        (Hook("pie", {"slices": 1, "fillings": ["plum", 3]}), "must be Sequence"),
        (Hook("pie", {"slices": 1, "prices": {"plum": float("nan")}}), "must be Mapping"),
        (Hook("pie", {"slices": 1, "prices": {"plum": True}}), "must be Mapping"),
        (Hook("salad", {"croutons": 2}), "croutons has no effect with dressing='oil'; leave it out"),
        (Hook("s" * 10_000), "dish='sss.*"),
    ],
)
def test_errors_name_the_fix_in_one_short_line(registry, hook, message):
    with pytest.raises(ValueError, match=message) as caught:
        registry.check(hook)
    assert len(str(caught.value)) < 200


def test_an_option_is_accepted_beside_the_one_that_gives_it_an_effect(registry):
    registry.check(Hook("salad", {"croutons": 2, "dressing": "caesar"}))


def test_none_is_accepted_where_the_annotation_says_so(registry):
    assert registry.bind(Hook("soup", {"spoons": None}))(0)[4] is None


def test_entries_describe_themselves(registry):
    entry = registry["soup"]
    assert (entry.about, entry.needs, entry.certainty) == ("Boil it.", ("water",), "B")
    assert list(entry.options) == ["salt", "pot", "hot", "spoons"]
    assert list(registry) == ["soup", "pie", "salad"]
    assert len(registry) == 3
    assert "soup" in registry
    assert "tea" not in registry


def test_a_name_is_registered_once_and_bounds_belong_to_options(registry):
    with pytest.raises(ValueError, match="registered twice"):
        registry.add("soup")(lambda x: x)
    with pytest.raises(ValueError, match="bounds of no option"):
        registry.add("tea", sugar=above(0))(lambda x: x)


def test_preparations_run_in_order_with_their_options(registry):
    hooks = [(registry, Hook("pie", {"slices": 2})), (registry, Hook("soup")), (registry, Hook("pie", {"slices": 5}))]
    assert prepared([], hooks) == [2, 5]
