"""Who may exchange a server's weights: one run, for as long as it says that it lives."""

from __future__ import annotations

import pytest

from mmrl.serving.lease import Lease
from mmrl.serving.wire import Refused


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def lease(clock):
    return Lease(lambda: clock[0])


def test_it_is_held_until_it_is_given_back_or_not_renewed(lease, clock):
    assert lease.ask("a", "run 'a'", 10) == {"held": True}
    assert lease.ask("b", "run 'b'", 10) == {"held": False, "by": "run 'a'", "left": 10, "renewed": 0}
    clock[0] = 9
    assert lease.ask("a", "run 'a'", 10) == {"held": True}  # lives
    clock[0] = 18
    assert lease.ask("b", "run 'b'", 10) == {"held": False, "by": "run 'a'", "left": 1, "renewed": 1}
    with pytest.raises(Refused, match="run 'a' holds this server") as error:
        lease.allow("b")
    assert error.value.status == 423
    lease.allow("a")
    lease.release("b")  # not its to give
    with pytest.raises(Refused):
        lease.allow("b")
    clock[0] = 19
    lease.allow("b")  # nobody's any more
    assert lease.ask("b", "run 'b'", 10) == {"held": True}
    with pytest.raises(Refused, match="run 'b'"):
        lease.allow("a")  # was too late, and is told whose it is now
    lease.release("b")
    assert lease.ask("a", "run 'a'", 10) == {"held": True}


@pytest.mark.parametrize("asked", [("", "t", 1), (None, "t", 1), ("a", 3, 1), ("a", "t", 0), ("a", "t", 1e9)])
def test_what_is_no_request_is_refused(lease, asked):
    with pytest.raises(ValueError, match="lease"):
        lease.ask(*asked)
    lease.allow("anybody")


@pytest.mark.parametrize("seconds", [True, "1", float("nan"), None])
def test_nor_are_times_that_are_none(lease, seconds):
    with pytest.raises(ValueError, match="seconds of a lease"):
        lease.ask("a", "t", seconds)
