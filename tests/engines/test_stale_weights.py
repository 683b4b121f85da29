"""Weights that are not those of the last sync are noticed at whatever chunk, before anything is learned from them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from standin_server import connect

from mmrl.engines.base import Sampling
from mmrl.engines.holding import Holder, Taken
from mmrl.engines.http_client import ServerError
from mmrl.engines.remote import StaleWeights

SAMPLING = Sampling(stop_ids=(9,), max_tokens=4)
WEIGHTS = [("lm_head.weight", torch.ones(2, 2))]


def draw(engine):
    return engine.generate([torch.tensor([1])], 2, SAMPLING, [[11, 12]])


def adapter(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"r": 1}))


def send(engine, version):
    if engine.lora:
        engine.sync_lora(adapter, version)
    else:
        engine.sync(WEIGHTS, version)


@pytest.fixture(params=[False, True], ids=["full", "lora"])
def engine(request, folder, server):
    engine = connect(folder, server, lora=request.param)
    yield engine
    engine.close()


def test_a_server_that_was_started_anew_within_a_step(engine, server):
    draw(engine)  # before the first sync the server's own weights are what is sampled
    send(engine, 1)
    draw(engine), draw(engine)
    server.weights = "default"
    with pytest.raises(StaleWeights, match=r"weights 'default' where .* 1'.*started anew.*--resume"):
        draw(engine)
    send(engine, 2)
    draw(engine)


@pytest.mark.parametrize("other_lora", [False, True])
def test_a_second_run_that_syncs_to_the_same_server(engine, server, folder, other_lora):
    early = connect(folder, server, lora=other_lora)
    send(engine, 1)
    draw(engine)
    with pytest.raises(Taken, match=rf"process {os.getpid()} on .* sends weights"):
        send(early, 1)  # somebody has sent since it was here
    draw(engine)
    other = connect(folder, server, lora=other_lora)
    send(other, 1)  # the same number of syncs
    draw(other)
    with pytest.raises(StaleWeights, match=r"another run, process .*, sends to it"):
        draw(engine)
    with pytest.raises(Taken, match="sends weights"):
        send(engine, 2)
    draw(other)
    for each in (early, other):
        each.close()


def test_weights_of_two_runs_never_mix(folder, server):
    """One that sends while another one does stops it before that can take what it has for its own."""
    first, second = (connect(folder, server) for _ in range(2))

    def while_sending():
        yield from WEIGHTS
        server.weights = str(second._backend.fleet.run.mark(1)) + ", loading"  # as the other's first step does

    with pytest.raises(Taken, match="sends weights"):
        first._backend.load(while_sending, 1)
    assert server.weights.endswith("1, loading")  # nobody's: no sample is taken for either run's


def test_a_run_that_has_ended_says_so(engine, server, folder):
    send(engine, 1)
    mark = server.weights
    engine.close()
    assert server.weights == f"{mark}, ended"
    other = connect(folder, server)
    send(other, 1)
    draw(other)


def holder(of=None, **changes):
    """The mark of weights that a run of this machine, or another one, sent."""
    return (of or dataclasses.replace(Holder.own(), **changes)).mark(7)


def met(folder, server):
    engine = connect(folder, server)
    engine.meet(Holder.own(), "mine", claims=True)
    engine.close()


def test_who_holds_a_server_is_looked_for_on_this_machine(folder, server):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        began = int(Path(f"/proc/{alive.pid}/stat").read_text().rpartition(")")[2].split()[19])
        server.weights = holder(pid=alive.pid, began=began)
        with pytest.raises(Taken, match=f"another run, process {alive.pid} on .*, sends weights") as error:
            met(folder, server)
        assert "\n" not in str(error.value)
        server.weights = holder(pid=alive.pid, began=began) + ", ended"
        met(folder, server)
        server.weights = holder(pid=alive.pid, began=began + 1)  # a number that is used again
        met(folder, server)
        server.weights = holder(pid=alive.pid, began=began)
        alive.communicate(b"\n")
    met(folder, server)
    server.weights = holder(host="elsewhere")
    with pytest.warns(UserWarning, match="process .* on elsewhere, which did not say that it ended"):
        met(folder, server)
    for other in ("by hand", "mmrl 0a1b2c3d4e5f 3", "mmrl  3", "mmrl a:b:c:d 1"):
        server.weights = other
        met(folder, server)


def test_weights_that_change_while_a_completion_is_sampled(engine, server):
    send(engine, 1)
    server.later = "of another run"  # from the second token on
    with pytest.raises(StaleWeights, match="of another run"):
        draw(engine)


def test_a_sync_that_fails_half_way_leaves_weights_that_are_nobodys(engine, server):
    send(engine, 1)
    server.refuse = "/v1/load_lora_adapter" if engine.lora else "/collective_rpc"
    with pytest.raises(ServerError, match="out of blocks"):
        send(engine, 2)
    with pytest.raises(StaleWeights, match="2, loading"):
        draw(engine)


def test_a_server_that_does_not_say_which_weights_sampled(engine, server):
    server.silent = True
    with pytest.raises(StaleWeights, match="of no version"):
        draw(engine)


def test_marks_are_those_of_the_sync(engine, server):
    seen = []
    for version in (1, 2):
        send(engine, version)
        seen.append(server.weights)
    assert len(set(seen)) == 2 and [mark.split()[-1] for mark in seen] == ["1", "2"]
