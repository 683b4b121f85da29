"""Servers of pictures are one run's at a time, and free again when it ends, however it does."""

from __future__ import annotations

import gc
import os
import urllib.error
import urllib.request
import warnings

import pytest
from drawn_elsewhere import groups, made, moved, to

from mmrl.engines.holding import Holder, Taken
from mmrl.engines.http_client import ServerError
from mmrl.engines.rollout_pool import RolloutPool


def test_a_second_run_is_refused_while_the_first_lives(served, monkeypatch):
    """Its lease ends with it: given back, or not renewed any more. A run without one changes nothing meanwhile."""
    monkeypatch.setattr("mmrl.engines.rollout_pool.RENEW_S", 0.1)
    servers = served(made(), 2)
    first, second, third = (made(**to(servers)) for _ in range(3))
    first.meet(holder := Holder.own(), "first", claims=True)
    moved(first, 1)
    drawn = first.rollout(groups(2), 2, 0, 0)
    with pytest.warns(UserWarning, match="held by run 'first'"), pytest.raises(Taken) as error:
        second.meet(Holder.own(), "second", claims=True)
    words = f"rollouts: {servers[0].url} samples for another run: run 'first' (process {os.getpid()} on "
    assert str(error.value).startswith(words) and "\n" not in str(error.value)
    second.meet(Holder.own(), "second", claims=False)  # a process that sends nothing only asks what they are
    marks = [server.service.mark for server in servers]
    for route in ("/pause", "/resume", "/abort_requests", "/start_weight_update", "/update_weights"):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(urllib.request.Request(servers[0].url + route, b"{}"), timeout=20)
        assert refusal.value.code == 423
    assert [server.service.mark for server in servers] == marks and not servers[0].service._paused
    assert [len(group.samples) for group in first.rollout(groups(2), 2, 0, 0)] == [2, 2] == [2 for _ in drawn]
    first.close()  # gives them back
    monkeypatch.setattr("mmrl.engines.rollout_pool.LEASE_S", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        third.meet(holder, "third", claims=True)
    third._elsewhere.pool.ended.set()  # as a process that is killed: nothing is renewed, nothing given back
    late = made(**to(servers))
    monkeypatch.setattr("mmrl.engines.rollout_pool.LEASE_S", 30.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its waiting, where so much is left
        late.meet(Holder.own(), "late", claims=True)
    moved(late, 2)
    late.rollout(groups(2), 2, 0, 0)
    with pytest.raises(ServerError, match="run 'late'"):
        third.rollout(groups(2), 2, 0, 0)  # comes back, and is told whose they are
    late.rollout(groups(2), 2, 0, 0)
    late.close()


def test_a_pool_that_nobody_has_any_more_holds_nothing(served, monkeypatch):
    monkeypatch.setattr("mmrl.engines.rollout_pool.RENEW_S", 0.02)
    [server] = served(made())
    pool = RolloutPool(server.service.policy, url=server.url)
    pool.meet(Holder.own(), "left", claims=True)
    keeper = pool._keeper
    assert keeper.is_alive()
    del pool
    gc.collect()
    keeper.join(30)
    assert not keeper.is_alive()
