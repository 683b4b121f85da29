"""Pictures that are drawn by servers: what is drawn here, weights that follow, servers that are killed, long runs."""

from __future__ import annotations

import concurrent.futures
import copy
import gc
import json
import os
import random
import threading
import urllib.error
import urllib.request
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from rollout_servers import Served

import mmrl
from mmrl.engines.agreement import EngineMismatch
from mmrl.engines.holding import Holder, Taken
from mmrl.engines.http_client import ServerError
from mmrl.engines.rollout_pool import RolloutPool
from mmrl.engines.rollout_wire import PROTOCOL, pack, unpack
from mmrl.engines.weight_sums import sums
from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.training.rollouts.asynchronous import AsynchronousRollouts
from mmrl.types import Group, Prompt

CORPUS = ["a red circle", "two blue squares above a green triangle"]
PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(["a red circle", "two blue squares", "a circle", "squares"])]
BUILD = {"sd3": {"layers": 1, "heads": 2, "head_dim": 16, "grid": 4}}
LORA = {"train": "lora", "lora": {"rank": 2, "alpha": 4}}


def made(family="sd3", sampling=None, **model) -> ImageAdapter:
    """The same weights each time."""
    torch.manual_seed(0)
    drawn = {"steps": 3, "guidance": 3.5 if family == "flux_kontext" else 3.0, "size": 32, **(sampling or {})}
    build = {"corpus": CORPUS, **BUILD.get(family, {})}
    return ImageAdapter(ModelConfig(path="built", family=family, build=build, sampling=drawn, **model))


def to(servers, **extra):
    return {"engine": {"name": "servers", "options": {"url": [s.url for s in servers], "timeout": 30, **extra}}}


def moved(adapter, seed):
    """Its trained weights, a little elsewhere; seed: where."""
    generator = torch.Generator().manual_seed(seed)
    for weight in adapter.trainable_parameters().values():
        weight.data.add_(0.02 * torch.randn(weight.shape, generator=generator))


def groups(n=4):
    return [Group(prompt, index) for index, prompt in enumerate(PROMPTS[:n])]


def numbers(sample):
    """Everything that is kept of a sample."""
    picture = torch.from_numpy(np.array(sample.artifact))
    return {"logp": sample.actions.logp, "mask": sample.actions.mask, "picture": picture, **sample.actions.tensors}


def largest(mine, theirs):
    """How far two rollouts are apart; a picture's numbers count as those of its latents."""
    assert [(g.prompt.id, g.index, len(g.samples)) for g in mine] == [
        (g.prompt.id, g.index, len(g.samples)) for g in theirs
    ]
    apart = [0.0]
    for one, other in zip((s for g in mine for s in g.samples), (s for g in theirs for s in g.samples)):
        first, second = numbers(one), numbers(other)
        assert first.keys() == second.keys() and one.index == other.index
        apart += [
            float((first[name].float() - second[name].float()).abs().max())
            for name in first
            if name != "picture" and len(first[name])
        ]
        assert int((first["picture"].int() - second["picture"].int()).abs().max()) <= 1
    return max(apart)


@pytest.fixture
def served():
    """served(adapter, n) -> n servers with the adapter's model; all are ended behind the test."""
    running = []

    def start(adapter, n=1, port=0, **options):
        running.extend(Served(adapter, port, **options) for _ in range(n))
        return running[-n:]

    yield start
    for server in running:
        if not server.dead:
            server.kill()


@pytest.mark.parametrize(
    ("family", "model"),
    [
        ("sd3", {}),
        ("sd3", LORA),
        ("sd3", {"components": ["denoiser", "text_encoders"]}),
        ("sd", {}),
        ("flux", {"dtype": "bfloat16", **LORA}),
        ("sd3", {"sampling": {"plan": {"name": "untrained", "boundaries": True}, "same_noise": True}}),
    ],
)
def test_servers_draw_what_is_drawn_here_bit_for_bit_also_after_updates(family, model, served):
    """Group by group, as other batches round otherwise. Weights follow, whichever are trained."""
    here = made(family, **model)
    away = made(family, **model, **to(served(made(family, **model))))
    for step in range(2):
        for group in groups(2 - step):
            mine, theirs = here.rollout([group], 2, step, 7), away.rollout([group], 2, step, 7)
            assert largest(mine, theirs) == 0
        moved(here, step)
        moved(away, step)
    away.close()


def test_pictures_that_prompts_show_come_along(served):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    prompt = Prompt("edit", "make it red", {"images": [image]})
    here = made("flux_kontext", source_pixels=4096)
    away = made("flux_kontext", source_pixels=4096, **to(served(made("flux_kontext", source_pixels=4096))))
    assert largest(here.rollout([Group(prompt, 0)], 2, 0, 1), away.rollout([Group(prompt, 0)], 2, 0, 1)) == 0
    away.close()


def test_a_stages_own_sampling_and_what_rewards_read_come_along(served):
    servers = served(made(), 2)
    here, away = made(), made(**to(servers))
    for adapter in (here, away):
        sampling = adapter.config.sampling.model_copy(
            update={"steps": 4, "plan": {"name": "random_window"}, "keep_mean": True}
        )
        adapter.sample_as(adapter.config.model_copy(update={"sampling": sampling}))
        adapter.wanted = frozenset({"latents"})
    mine, theirs = here.rollout(groups(), 2, 3, 5), away.rollout(groups(), 2, 3, 5)
    for one, other in zip((s for g in mine for s in g.samples), (s for g in theirs for s in g.samples)):
        assert other.artifact is None and one.latents.keys() == other.latents.keys() == {"clean", "noisy", "level"}
        pairs = [(one.latents[name], other.latents[name]) for name in one.latents]
        pairs += [(one.actions.tensors[name], other.actions.tensors[name]) for name in ("x", "x_next", "mean", "step")]
        assert all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in pairs)
    away.close()


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


def test_weights_that_another_stage_trained_are_sent_once(served):
    """Text encoders that are frozen now and not the server's: what it keeps of prompts is made anew."""
    servers = served(made())
    here, away = made(), made(**to(servers))
    for adapter in (here, away):
        adapter.select(["text_encoders"])
        moved(adapter, 4)
        adapter.select(["denoiser"])
    with pytest.warns(UserWarning, match="held other values of .* text_encoder.*the run's were sent"):
        found = away.rollout(groups(1), 2, 0, 3)
    assert largest(here.rollout(groups(1), 2, 0, 3), found) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        away.rollout(groups(1), 2, 1, 3)
    away.close()


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


def test_a_stage_that_trains_other_parts_sends_what_the_last_one_ended_with(served):
    """The last updates of a stage come after its last push, and another part is trained then, or between two."""
    servers = served(made())
    here, away = made(), made(**to(servers))
    for parts in (["denoiser"], ["text_encoders"], ["denoiser"]):
        for adapter in (here, away):
            adapter.select(parts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert largest(here.rollout(groups(1), 2, 0, 3), away.rollout(groups(1), 2, 0, 3)) == 0
        for adapter in (here, away):
            moved(adapter, 1)
            adapter.select(["vae"])
            moved(adapter, 2)
    away.close()


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


def test_log_probs_that_are_not_the_models_stop_the_run(served, monkeypatch):
    servers = served(made())
    away = made(**to(servers))
    original = ImageAdapter.rollout

    def rollout(adapter, *arguments):
        found = original(adapter, *arguments)
        if adapter is servers[0].adapter:
            for sample in (s for g in found for s in g.samples):
                sample.actions.logp += 0.01
        return found

    monkeypatch.setattr(ImageAdapter, "rollout", rollout)
    with pytest.raises(EngineMismatch, match=r"differ from this model's by up to 0\.01"):
        away.rollout(groups(1), 2, 0, 0)
    away.close()


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


def test_a_server_that_is_named_twice_is_refused(served):
    [server] = served(made())
    for other in (server.url + "/", server.url.replace("127.0.0.1", "localhost")):
        model = to([server])
        model["engine"]["options"]["url"] = [server.url, other]
        with pytest.raises((ValueError, ServerError), match=r"twice|are one server; name it once"):
            made(**model).rollout(groups(1), 2, 0, 0)


def test_proxies_are_not_asked_for_this_machine(served, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    away = made(**to(served(made())))
    away.rollout(groups(1), 2, 0, 3)
    away.close()


@pytest.mark.parametrize(
    "option",
    [{"url": 8100}, {"url": []}, {"url": "localhost:8100"}, {"concurrency": 0}, {"concurrency": "x"}, {"timeout": -1}],
)
def test_options_that_are_none_are_refused_when_the_model_is_loaded(option):
    with pytest.raises(ValueError, match=f"engine servers: {next(iter(option))} is "):
        made(engine={"name": "servers", "options": option})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parts_that_were_trained_and_are_frozen_again_keep_the_servers_types(dtype, served):
    """Full training keeps weights in float32, and the rest is in the run's type."""
    servers = served(made(dtype=dtype))
    here, away = made(dtype=dtype), made(dtype=dtype, **to(servers))
    for adapter in (here, away):
        adapter.select(["text_encoders"])
        moved(adapter, 4)
        adapter.select(["denoiser"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = away.rollout(groups(1), 2, 0, 3)
    assert largest(here.rollout(groups(1), 2, 0, 3), found) == 0
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


# ---------------------------------------------------------------- trainings


def config(folder, servers, steps=5, **stage):
    (folder / "prompts.txt").write_text("\n".join(p.text for p in PROMPTS), encoding="utf-8")
    (folder / "mine.py").write_text(
        "import numpy as np\n\ndef red(samples):\n"
        "    return [float(np.asarray(s.artifact)[..., 0].mean()) / 255 for s in samples]\n",
        encoding="utf-8",
    )
    sampling = {"steps": 3, "size": 32}
    model = {"path": "built", "family": "sd3", "build": {"corpus": CORPUS, **BUILD["sd3"]}, "sampling": sampling}
    own = {"kind": "grpo", "name": "rl", "steps": steps, "groups": 2, "samples": 3, "micro_batch": 64}
    return {
        "name": "run",
        "out": str(folder / "runs"),
        "modality": "image",
        "model": {**model, **to(servers)},
        "data": {"prompts": str(folder / "prompts.txt")},
        "rewards": [{"name": f"{folder / 'mine.py'}:red"}],
        "stages": [{**own, "optim": {"lr": 0.001}, **stage}],
        "report": {"samples_every": 2},
        "threads": 1,
        "device": "cpu",
    }


def rows_of(folder):
    lines = (folder / "runs" / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def of_run(told):
    """The adapter of a run, as it is made there."""
    torch.manual_seed(0)
    model = {**told["model"], "engine": {"name": "diffusers"}}
    return ImageAdapter(ModelConfig(**model))


def test_a_training_over_servers_is_the_training_without(served, tmp_path):
    """Step by step: rewards and weights are those of a run that draws for itself."""
    folders = [tmp_path / "here", tmp_path / "away"]
    for folder in folders:
        folder.mkdir()
    alone = config(folders[0], [], 3, algorithm={"preset": "flow_grpo"})
    alone["model"].pop("engine")
    mmrl.train(alone, quiet=True)
    servers = served(of_run(alone), 2)
    mmrl.train(config(folders[1], servers, 3, algorithm={"preset": "flow_grpo"}), quiet=True)
    first, second = (rows_of(folder) for folder in folders)
    assert [row["reward/mean"] for row in first] == pytest.approx([row["reward/mean"] for row in second], abs=1e-5)
    assert [row["loss"] for row in first] == pytest.approx([row["loss"] for row in second], abs=1e-4)


class Watch:
    """What each step learned from."""

    def __init__(self, monkeypatch):
        self.taken = []
        self.begun = threading.Event()
        original = AsynchronousRollouts._take

        def take(rollouts, step, dropped):
            original(rollouts, step, dropped)
            self.taken.append((step, rollouts._made(step)))
            self.begun.set()

        monkeypatch.setattr(AsynchronousRollouts, "_take", take)

    def check(self, steps, staleness):
        assert [step for step, _ in self.taken] == list(range(steps))
        for step, some in self.taken:
            assert [(g.index, [s.index for s in g.samples]) for g in some] == [(i, [0, 1, 2]) for i in range(2)]
            for sample in (s for g in some for s in g.samples):
                versions = sample.actions.tensors["versions"].tolist()
                assert set(versions) == {sample.version} and step - staleness <= sample.version <= step
                assert "mine.red" in sample.scores and "logp_sampler" in sample.actions.tensors
                assert not sample.latents


def test_a_training_in_the_background_keeps_its_bound_while_servers_come_and_go(served, tmp_path, monkeypatch):
    staleness, steps = 2, 6
    watch, over, chance = Watch(monkeypatch), threading.Event(), random.Random(0)
    told = config(tmp_path, [], steps=steps, asynchronous={"staleness": staleness})
    base = of_run(told)
    servers = served(base, 2)
    told["model"] |= to(servers)

    def come_and_go():
        watch.begun.wait()
        while not over.wait(chance.uniform(0.1, 0.6)):
            place = chance.randrange(2)
            servers[place].kill()
            over.wait(chance.uniform(0.0, 0.2))
            servers[place] = served(base, port=servers[place].port)[0]

    thread = threading.Thread(target=come_and_go)
    thread.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            mmrl.train(told, quiet=True)
        finally:
            over.set()
            watch.begun.set()
            thread.join()
    watch.check(steps, staleness)
    assert max(row["rollout/age_max"] for row in rows_of(tmp_path)) <= staleness
