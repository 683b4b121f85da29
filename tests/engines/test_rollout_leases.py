"""Servers of pictures are one run's at a time, and free again when it ends, however it does."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
import urllib.error
import urllib.request
import warnings

import pytest
from drawn_elsewhere import CORPUS, groups, made, moved, to

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


def asked(server, run: str, route: str = "lease") -> dict:
    """What a server says to a run that asks for its lease, or gives it back."""
    body = json.dumps({"run": run, "title": "a stranger", "seconds": 60}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/{route}", body), timeout=20) as answer:
        return json.loads(answer.read())


def test_servers_that_are_held_stay_so_while_another_is_waited_for(served, monkeypatch):
    """Else two runs that name the same servers in another order each get what the other one has lost meanwhile."""
    monkeypatch.setattr("mmrl.engines.rollout_pool.RENEW_S", 0.02)
    one, other = served(made(), 2)
    assert asked(other, "stranger")["held"]
    pool = RolloutPool(one.service.policy, url=[one.url, other.url])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its waiting
        waiting = threading.Thread(target=pool.meet, args=(Holder.own(), "first", True))
        waiting.start()
        first = {"held": True}
        try:
            until = time.monotonic() + 20
            while time.monotonic() < until and not first.get("renewed"):
                first = asked(one, "another")
                if first["held"]:  # was before the pool
                    asked(one, "another", "release")
            assert waiting.is_alive() and first["renewed"] > 0
        finally:
            asked(other, "stranger", "release")
            waiting.join(30)
    assert not asked(other, "stranger")["held"]
    pool.close()


def test_what_renews_leases_takes_none_that_was_given_back(served):
    [server] = served(made())
    pool = RolloutPool(server.service.policy, url=server.url)
    pool.meet(Holder.own(), "first", claims=True)
    pool.fleet.servers[0].release(pool.fleet.run)
    pool.keep_leases()
    assert asked(server, "another")["held"]
    pool.close()
    assert asked(server, "another")["held"]


def test_a_run_that_fails_before_its_first_step_gives_servers_back(served, monkeypatch, tmp_path):
    """Its folder cannot be described, as on a full disk."""
    import mmrl

    [server] = served(made())
    monkeypatch.setattr("mmrl.training.run_folder.describe", lambda config: 1 / 0)
    (tmp_path / "rewards.py").write_text("def one(samples):\n    return [1.0 for _ in samples]\n", encoding="utf-8")
    config = {
        "name": "run",
        "out": str(tmp_path),
        "modality": "image",
        "device": "cpu",
        "model": {**made(**to([server])).config.model_dump(exclude_unset=True)},
        "data": {"prompts": [{"prompt": text} for text in CORPUS]},
        "rewards": [{"name": f"{tmp_path / 'rewards.py'}:one"}],
        "stages": [{"kind": "grpo", "steps": 1, "groups": 2, "samples": 2, "algorithm": {"preset": "flow_grpo"}}],
    }
    with pytest.raises(ZeroDivisionError):
        mmrl.train(config, quiet=True)
    assert asked(server, "another")["held"]


def test_a_name_of_a_machine_goes_into_headers(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "büro машина:1")
    holder = Holder.own()
    assert str(holder).isascii() and " " not in str(holder) and Holder.read(str(holder)) == holder and holder.lives


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
