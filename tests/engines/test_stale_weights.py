"""Weights that are not those of the last sync are noticed at whatever chunk, before anything is learned from them."""

from __future__ import annotations

import json

import pytest
import torch
from standin_server import connect

from mmrl.engines.base import Sampling
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
    other = connect(folder, server, lora=other_lora)
    send(engine, 1)
    draw(engine)
    send(other, 1)  # the same number of syncs
    draw(other)
    with pytest.raises(StaleWeights, match="another run sends to it"):
        draw(engine)
    other.close()


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
