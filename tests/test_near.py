"""Words for a name that is not known."""

import time

from mmrl.near import LONGEST, near, short


def test_what_is_near_comes_first_and_otherwise_all_that_is_known():
    assert near("clip_hihg", ["clip_low", "clip_high"]) == "did you mean 'clip_high' or 'clip_low'?"
    assert near("zzz", ["beta", "alpha", "beta"]) == "known: alpha, beta"
    assert near("x", []) == "there are none"


def test_an_endless_name_costs_no_time():
    began = time.monotonic()
    near("ab" * 500_000, [f"name_{k}" for k in range(200)])
    assert time.monotonic() - began < 1


def test_values_are_cut_short():
    assert short("ab") == "'ab'"
    assert len(short("x" * 10_000)) == LONGEST
    assert short("x" * 10_000).startswith("'xxx")
    assert short(10**5000) == "int too large to show"
