"""Servers of pictures: what they are asked and told, the bytes of it, and what is refused."""

from __future__ import annotations

import copy
import json
import random
import urllib.error
import urllib.request

import pytest
import torch
from drawn_elsewhere import BUILD, CORPUS, LORA, groups, made, to

from mmrl.engines.http_client import ServerError
from mmrl.engines.rollout_wire import PROTOCOL, pack, unpack
from mmrl.engines.weight_sums import sums
from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig


@pytest.mark.parametrize(
    ("theirs", "mine", "message"),
    [
        ({"build": {"layers": 2}}, {}, "a model of another shape"),
        ({}, {"dtype": "bfloat16", **LORA}, "another shape|model.dtype|model.train"),
        ({**LORA, "dtype": "bfloat16"}, LORA, r"model.dtype='bfloat16', and this run 'float32'"),
        ({**LORA, "lora": {"rank": 2, "alpha": 8}}, LORA, "scales of LoRA"),
        ({}, {"family": "sd"}, "another shape"),
    ],
)
def test_a_server_of_another_model_is_refused_in_one_line(theirs, mine, message, served):
    def other(told):
        told = copy.deepcopy(told)
        family, build = told.pop("family", "sd3"), told.pop("build", {})
        torch.manual_seed(0)
        parts = {"corpus": CORPUS, **BUILD.get(family, {}), **build}
        drawn = {"steps": 3, "guidance": 3.0, "size": 32}
        return family, parts, {"sampling": drawn, **told}

    family, build, told = other(theirs)
    servers = served(ImageAdapter(ModelConfig(path="built", family=family, build=build, **told)))
    family, build, told = other(mine)
    away = ImageAdapter(ModelConfig(path="built", family=family, build=build, **told, **to(servers)))
    with pytest.raises(ServerError, match=message) as error:
        away.rollout(groups(1), 2, 0, 0)
    assert "mmrl serve-rollouts" in str(error.value) and "\n" not in str(error.value)
    assert servers[0].service.mark == "default"


def test_what_does_not_go_with_servers_is_refused(served):
    away = made(**to(served(made())))
    with pytest.raises(Unsupported, match="branches"):
        away.branches(groups(1), 4, 2, 0, 0)
    with pytest.raises(Unsupported, match=r"set model\.engine\.name to servers"):
        made().apart()
    with pytest.raises(ValueError, match="keep_graph"):
        made(keep_graph=True, engine={"name": "servers"})
    with pytest.raises(ValueError, match="no option urls; it has: url, concurrency, timeout"):
        made(engine={"name": "servers", "options": {"urls": "http://a"}})
    with pytest.raises(ValueError, match="names http://a twice"):
        made(engine={"name": "servers", "options": {"url": ["http://a", "http://a"]}}).rollout(groups(1), 2, 0, 0)


def test_a_server_that_is_named_twice_is_refused(served):
    [server] = served(made())
    for other in (server.url + "/", server.url.replace("127.0.0.1", "localhost")):
        model = to([server])
        model["engine"]["options"]["url"] = [server.url, other]
        with pytest.raises((ValueError, ServerError), match=r"twice|are one server; name it once"):
            made(**model).rollout(groups(1), 2, 0, 0)


@pytest.mark.parametrize(
    "option",
    [{"url": 8100}, {"url": []}, {"url": "localhost:8100"}, {"concurrency": 0}, {"concurrency": "x"}, {"timeout": -1}],
)
def test_options_that_are_none_are_refused_when_the_model_is_loaded(option):
    with pytest.raises(ValueError, match=f"engine servers: {next(iter(option))} is "):
        made(engine={"name": "servers", "options": option})


def test_a_server_takes_weights_under_a_pause_only_and_says_what_is_wrong(served):
    [server] = served(made())

    def post(path, data, status):
        request = urllib.request.Request(server.url + path, data)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=20)
        assert error.value.code == status
        return json.loads(error.value.read())["error"]

    before = sums(server.service.policy.weights())
    name = next(iter(server.service.policy.weights()))
    assert "pause first" in post("/update_weights", pack({}, {name: torch.zeros(1)}), 409)
    server.service.pause()
    assert "came as torch.float32 [1]" in post("/update_weights", pack({}, {name: torch.zeros(1)}), 422)
    assert "no message" in post("/update_weights", b"\x00" * 64, 422)
    assert "protocol" in post("/rollout/generate", pack({"protocol": 99}, {}), 422)
    assert sums(server.service.policy.weights()) == before


def _asking(server, **told):
    """The status of a request for samples whose head has other entries."""
    head = {
        "protocol": PROTOCOL,
        "prompt": {"id": "a", "text": "a red circle"},
        "draw": 0,
        "n": 2,
        "step": 0,
        "seed": 0,
    }
    head |= {"sampling": {"steps": 3, "size": 32}, "wanted": ["artifact"]}
    request = urllib.request.Request(server.url + "/rollout/generate", pack({**head, **told}, {}))
    try:
        return urllib.request.urlopen(request, timeout=60).status
    except urllib.error.HTTPError as error:
        assert "error" in json.loads(error.read())
        return error.code


def test_no_request_however_wrong_keeps_a_server_from_the_next(served):
    """Each is told that it is wrong, not that the server is, and groups are drawn behind it."""
    [server] = served(made())
    wrong = [
        {"n": "3"},
        {"n": 0},
        {"n": -1},
        {"n": 10**9},
        {"n": True},
        {"sampling": [1]},
        {"sampling": {"steps": "x"}},
        {"sampling": {"plan": {"name": "none"}}},
        {"wanted": 3},
        {"prompt": []},
        {"prompt": {"id": "a", "text": 5}},
        {"draw": "x"},
        {"step": None},
    ]
    assert [(told, _asking(server, **told)) for told in wrong] == [(told, 422) for told in wrong]
    for told, tensors in [
        ([1], {}),
        ({"protocol": PROTOCOL}, {}),
        ({"protocol": PROTOCOL}, {"picture.0": torch.zeros(2)}),
    ]:
        request = urllib.request.Request(server.url + "/rollout/generate", pack(told, tensors))
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=20)
        assert error.value.code == 422
    assert _asking(server) == 200


def test_pages_of_the_web_cannot_reach_a_server_without_a_token(served):
    """A browser sends a POST to this machine for any page, and says whose."""
    [server] = served(made())
    request = urllib.request.Request(server.url + "/pause", b"", {"Origin": "http://page.example"})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=20)
    assert error.value.code == 403 and not server.service._paused


def test_proxies_are_not_asked_for_this_machine(served, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    away = made(**to(served(made())))
    away.rollout(groups(1), 2, 0, 3)
    away.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_message_is_raw_bytes_and_comes_back_as_it_was(seed):
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    types = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
    sent = {}
    for place in range(12):
        shape = [chance.randrange(4) for _ in range(chance.randrange(4))]
        sent[f"t.{place}"] = (
            torch.randint(0, 2, shape, generator=generator).to(chance.choice(types)).transpose(0, -1)
            if shape
            else torch.tensor(1.5)
        )
    told = {"a": [1, None, 'ä " \n'], "seed": 2**62 + seed}
    message = pack(told, sent)
    back, tensors = unpack(message)
    assert back == told and tensors.keys() == sent.keys()
    for name, tensor in sent.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)
    big = pack({}, {"x": torch.randn(1000, 100)})
    assert len(big) < 400_000 * 1.001 + 500  # four bytes a number, and a head


@pytest.mark.parametrize("place", range(6))
def test_checksums_tell_any_element(place):
    weight = torch.randn(3000, generator=torch.Generator().manual_seed(place)).to(
        [torch.float32, torch.bfloat16][place % 2]
    )
    other = weight.clone()
    at = [0, 1, 1500, 2998, 2999, 77][place]
    other[at] = -other[at]
    swapped = weight.clone()
    swapped[[at, (at + 1500) % 3000]] = swapped[[(at + 1500) % 3000, at]]
    found = {sums({"w": each})["w"] for each in (weight, other, swapped, weight.double())}
    assert len(found) == 4 and sums({"w": weight}) == sums({"w": weight.clone()})
