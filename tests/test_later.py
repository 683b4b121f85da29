"""Mappings that are made at the first look."""

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmrl.later import Later
from mmrl.reporting.files import dumps


@pytest.fixture
def counted():
    """(a Later of {"a": 1}, the list of its makings)"""
    calls = []

    def make():
        calls.append(1)
        return {"a": 1}

    return Later(make), calls


def test_nothing_is_made_before_somebody_looks_and_then_once(counted):
    later, calls = counted
    held = {"name": later}
    assert dict(held)["name"] is later and calls == []
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: later["a"], range(8))) == [1] * 8
    assert (len(later), list(later), dict(later), calls) == (1, ["a"], {"a": 1}, [1])


def test_what_is_written_or_copied_of_it_is_a_plain_dict(counted):
    later, _ = counted
    assert json.loads(dumps({"of": later})) == {"of": {"a": 1}}
    for made in (copy.copy(later), copy.deepcopy(later), pickle.loads(pickle.dumps(later))):
        assert type(made) is dict and made == {"a": 1}


def test_a_making_that_fails_is_tried_again_at_the_next_look():
    answers = iter([ValueError("not now"), {"a": 2}])

    def make():
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    later = Later(make)
    with pytest.raises(ValueError, match="not now"):
        len(later)
    assert later["a"] == 2
