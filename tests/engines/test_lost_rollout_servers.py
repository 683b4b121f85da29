"""Servers of pictures that are killed, slow, hang or are started anew: no sample is lost, none is of old weights."""

from __future__ import annotations

import concurrent.futures
import threading
import warnings
from functools import partial

import pytest
from drawn_elsewhere import groups, largest, made, moved, to

from mmrl.engines.http_client import ServerError
from mmrl.engines.weight_sums import sums


class Beginning:
    """Says when a server has begun to draw."""

    def __init__(self, server, monkeypatch):
        self.begun, self.go_on = threading.Event(), threading.Event()
        original = server.service._draw

        def draw(some, mark):
            self.begun.set()
            self.go_on.wait(60)
            original(some, mark)

        monkeypatch.setattr(server.service, "_draw", draw)


def test_a_server_that_is_killed_loses_no_sample_and_gets_weights_before_groups(served, monkeypatch):
    servers = served(made(), 2)
    here, away = made(), made(**to(servers, concurrency=1))
    first = Beginning(servers[0], monkeypatch)
    results = []
    thread = threading.Thread(target=lambda: results.append(away.rollout(groups(), 2, 0, 3)))
    thread.start()
    assert first.begun.wait(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first.go_on.set()
        servers[0].kill()
        thread.join(60)
    pool = away._made_elsewhere().pool
    assert largest(here.rollout(groups(), 2, 0, 3), results[0]) < 1e-5
    if pool.counts()["rollout/asked_again"]:  # unless the answer was quicker than the kill
        assert pool.counts()["rollout/servers"] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        away.rollout(groups(), 2, 0, 3)
    assert pool.counts()["rollout/servers"] == 1

    [again] = served(made(), port=servers[0].port)
    for adapter in (here, away):
        moved(adapter, 1)
    with pool.fleet.changed:
        assert pool.fleet.changed.wait_for(pool.fleet.returned, 60)
    assert again.service.mark == "default"
    assert largest(here.rollout(groups(), 2, 1, 3), away.rollout(groups(), 2, 1, 3)) < 1e-5
    assert pool.counts()["rollout/servers"] == 2
    assert (
        sums(again.service.policy.weights())
        == sums(servers[1].service.policy.weights())
        == sums(away.served().weights())
    )
    away.close()


def test_a_slow_server_is_not_lost_and_its_group_is_asked_of_another(served, monkeypatch):
    servers = served(made(), 2)
    here, away = made(), made(**to(servers, timeout=0.5))
    away._made_elsewhere()
    slow = Beginning(servers[0], monkeypatch)
    found = away.rollout(groups(), 2, 0, 3)
    slow.go_on.set()
    counts = away._made_elsewhere().pool.counts()
    assert counts["rollout/servers"] == 2 and counts["rollout/asked_again"] >= 1
    assert largest(here.rollout(groups(), 2, 0, 3), found) < 1e-5
    away.close()


def test_closing_waits_for_nothing(served, monkeypatch):
    """A server that hangs is not waited for: what was asked of it fails at once."""
    servers = served(made())
    away = made(**to(servers, timeout=600))
    away._made_elsewhere()
    slow = Beginning(servers[0], monkeypatch)
    failed = []

    def ask():
        with pytest.raises(ServerError) as error:
            away.rollout(groups(1), 2, 0, 3)
        failed.append(str(error.value))

    thread = threading.Thread(target=ask)
    thread.start()
    assert slow.begun.wait(60)
    away.close()
    thread.join(60)
    slow.go_on.set()
    assert failed and "\n" not in failed[0]


def test_what_nobody_waits_for_is_not_drawn(served, monkeypatch):
    [server] = served(made())
    away = made(**to([server], timeout=0.3))
    away._made_elsewhere()
    drawn = []
    monkeypatch.setattr(server.service, "_draw", lambda some, mark: drawn.extend(some))
    original = server.service.resume
    monkeypatch.setattr(server.service, "resume", lambda: None)  # it stays paused after the weights
    with pytest.raises(ServerError, match="did not answer within"):
        away.rollout(groups(1), 2, 0, 3)
    [(_, future)] = server.service._waiting
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(timeout=60)
    away.close()
    original()
    server.service.pause()
    assert not drawn


def test_a_server_that_was_started_anew_unnoticed_gets_all_that_it_has_otherwise(served):
    """Between two pushes: nobody asked it anything, so that it was never lost."""
    servers = served(made(), 2)
    here, away = made(), made(**to(servers))
    for adapter in (here, away):
        adapter.select(["text_encoders"])
        moved(adapter, 4)
        adapter.select(["denoiser"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        away.rollout(groups(1), 2, 0, 3)
        servers[1].kill()
        [again] = served(made(), port=servers[1].port)
        assert largest(here.rollout(groups(), 2, 1, 3), away.rollout(groups(), 2, 1, 3)) < 1e-5
    assert len(away._made_elsewhere().pool.fleet.ready) == 2
    assert sums(again.service.policy.weights()) == sums(away.served().weights())
    away.close()


@pytest.mark.parametrize("route", ["/update_weight_version", "/start_weight_update", "/update_weights", "/resume"])
def test_a_server_that_is_started_anew_in_the_middle_of_a_push_is_lost_and_never_taken_for_one_that_has_weights(
    route, served, monkeypatch
):
    """At each of the requests of a push: just before it the process is another one, at the same address."""
    servers = served(made(), 2)
    here, away = made(), made(**to(servers))
    pool = away._made_elsewhere().pool
    moved(here, 1)
    moved(away, 1)
    first, killed = pool.fleet.servers[0], []

    def call(original, path, *rest):
        if path == route and not killed:
            killed.append(path)
            servers[0].kill()
            served(made(), port=servers[0].port)
        return original(path, *rest)

    for name in ("post", "exchange"):
        monkeypatch.setattr(first.http, name, partial(call, getattr(first.http, name)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = away.rollout(groups(), 2, 0, 3)
    assert killed and largest(here.rollout(groups(), 2, 0, 3), found) < 1e-5
    away.close()
