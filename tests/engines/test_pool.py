"""Several servers: prompts go round them, what one loses another makes up for, and weights come before prompts."""

from __future__ import annotations

import random
import threading
import time
import warnings

import pytest
import torch
from standin_server import connect, started

from mmrl.engines.base import Sampling
from mmrl.engines.http_client import ServerError
from mmrl.engines.load import longest_row
from mmrl.engines.vllm_transfer import buckets

SAMPLING = Sampling(stop_ids=(9,), max_tokens=4)
WEIGHTS = [("model.embed_tokens.weight", torch.arange(8.0).view(4, 2))]
PROMPTS = [torch.tensor([1, 2]), torch.tensor([4]), torch.tensor([5, 6]), torch.tensor([8, 8, 8])]
SEEDS = [[100 * row + k for k in range(1, 5)] for row in range(1, 5)]


@pytest.fixture
def fakes():
    """fakes(n, **told) -> n stand-ins that answer."""
    made = []

    def start(n=2, **told):
        made.extend(started(**told) for _ in range(n))
        return made[-n:]

    yield start
    for fake in made:
        if not fake.dead:
            fake.kill()


def prompts_of(fake):
    return [tuple(body["token_ids"]) for path, body in fake.posts if path == "/inference/v1/generate"]


def until_back(engine):
    """Whether a lost server answers again, which a thread finds out."""
    fleet = engine._backend.fleet
    with fleet.changed:
        return fleet.changed.wait_for(engine.returned, 60)


def first_ids(rows):
    return [[int(c.ids[0]) for c in row] for row in rows]


@pytest.mark.parametrize("n", [2, 3])
def test_a_prompts_samples_are_asked_of_one_server_and_prompts_go_round(folder, fakes, n):
    servers = fakes(n)
    engine = connect(folder, servers)
    assert first_ids(engine.generate(PROMPTS, 4, SAMPLING, SEEDS)) == SEEDS
    asked = [prompts_of(fake) for fake in servers]
    homes = [set(some) for some in asked]
    assert sum(map(len, homes)) == 4 and all(len(some) == 4 * len(home) for some, home in zip(asked, homes))
    assert sorted(map(len, homes)) == sorted(4 // n + (i < 4 % n) for i in range(n))
    engine.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_server_that_is_killed_loses_nothing(folder, fakes, seed):
    """Whenever it happens: the rows are those that were asked for, in their places."""
    servers = fakes(2, delay=0.01)
    engine = connect(folder, servers)
    engine.sync(WEIGHTS, 1)
    timer = threading.Timer(random.Random(seed).uniform(0, 0.06), servers[seed % 2].kill)
    timer.start()
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        for _ in range(3):
            assert first_ids(engine.generate(PROMPTS, 4, SAMPLING, SEEDS)) == SEEDS
    timer.join()
    engine.close()


def test_a_server_that_comes_back_gets_weights_before_prompts(folder, fakes):
    servers = fakes(2)
    engine = connect(folder, servers)
    engine.sync(WEIGHTS, 1)
    port = servers[1].server_address[1]
    servers[1].kill()
    with pytest.warns(UserWarning, match=r"a server is lost.*cannot be reached"):
        engine.generate(PROMPTS, 4, SAMPLING, SEEDS)
    again = started(port, root=str(folder))
    assert first_ids(engine.generate(PROMPTS, 4, SAMPLING, SEEDS)) == SEEDS
    assert until_back(engine) and not again.posts and len(engine._backend.fleet.ready) == 1
    engine.sync(WEIGHTS, 2)
    assert first_ids(engine.generate(PROMPTS, 4, SAMPLING, SEEDS)) == SEEDS
    assert again.posts[0][0] == "/collective_rpc" and prompts_of(again) and len(engine._backend.fleet.ready) == 2
    engine.close()
    again.kill()


def test_a_restart_between_two_prompts_is_noticed_by_its_weights(folder, fakes):
    """No request failed, and what it samples is another policy's: it is asked again elsewhere."""
    servers = fakes(2)
    engine = connect(folder, servers)
    engine.sync(WEIGHTS, 1)
    servers[0].weights = "default"
    with pytest.warns(UserWarning, match="sampled with weights 'default'"):
        assert first_ids(engine.generate(PROMPTS, 4, SAMPLING, SEEDS)) == SEEDS
    assert len(set(prompts_of(servers[1]))) == 4
    engine.close()


def test_the_last_server_that_is_lost_stops_the_run_in_one_line(folder, fakes):
    servers = fakes(2)
    engine = connect(folder, servers)
    for server in servers:
        server.kill()
    with pytest.warns(UserWarning), pytest.raises(ServerError, match=r"no server is left: .*; .*") as error:
        engine.generate(PROMPTS, 1, SAMPLING, [[1]] * 4)
    assert "\n" not in str(error.value)
    with pytest.raises(ServerError):
        engine.sync(WEIGHTS, 1)
    engine.close()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"version": "0.31"}, r"differ in vLLM \(0.32 and 0.31\)"),
        ({"dtype": "bfloat16"}, r"differ in dtype \(float32 and bfloat16\)"),
        ({"tokens": [1, 2]}, "differ in the tokenizer's ids of a text"),
        ({"transfer": "nccl"}, r"differ in --weight-transfer-config \(none and nccl\)"),
        ({"longest": 32}, r"differ in --max-model-len \(16 and 32\)"),
    ],
)
def test_servers_that_are_not_alike_are_refused_at_the_start(folder, fakes, told, message):
    first, second = fakes(2, told={})
    first.told = {"version": "0.32", "dtype": "float32", "tokens": [1, 3]}
    second.told = {**first.told, **told}
    with pytest.raises(ServerError, match=message) as error:
        connect(folder, [first, second])
    assert "\n" not in str(error.value) and not first.posts and not second.posts


class Tokenizer:
    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return type("Ids", (), {"input_ids": [len(text)]})


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"dtype": "bfloat16"}, "computes in bfloat16, and the engine's dtype is float32"),
        ({"tokens": [1, 2]}, "has another tokenizer than the policy"),
    ],
)
def test_a_server_of_another_precision_or_tokenizer_is_refused(folder, fakes, told, message):
    (server,) = fakes(1, told=told)
    with pytest.raises(ServerError, match=message):
        connect(folder, server, tokenizer=Tokenizer())


def test_checksums_are_compared_after_the_first_weights(folder, fakes):
    servers = fakes(2)
    engine = connect(folder, servers)
    for number, server in enumerate(servers):
        server.told = {"checksums": {"a": "same", "b": str(number)}}
    with pytest.raises(ServerError, match=r"hold different weights after the same were sent \(b and 0 more\)"):
        engine.sync(WEIGHTS, 1)
    engine.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": []}, "url is "),
        ({"url": ["http://a:1", "http://a:1"]}, "names http://a:1 twice"),
        ({"transfer": "rdma"}, "transfer is 'rdma'; write file, nccl, gloo"),
        ({"transfer": "gloo", "folder": "/tmp"}, "nothing is written; leave folder out"),
        ({"concurency": 3}, "a server has no option concurency; it has: url, transfer, folder"),
    ],
)
def test_options_of_servers_that_go_nowhere_are_refused(folder, fakes, options, message):
    with pytest.raises(ValueError, match=message):
        connect(folder, fakes(1)[0], options=options)


def test_adapters_go_without_a_transfer(folder, fakes):
    with pytest.raises(ValueError, match="sends whole weights, and lora: true adapters"):
        connect(folder, fakes(1)[0], lora=True, options={"transfer": "gloo"})


# ---------------------------------------------------------------- over the wire


def test_weights_arrive_over_gloo_at_every_server(folder, fakes):
    servers = fakes(2, told={"transfer": "gloo"})
    engine = connect(folder, servers, options={"transfer": "gloo"})
    for version in (1, 2):
        sent = {"model.embed_tokens.weight": torch.randn(4, 2), "half": torch.randn(3, 5).t().bfloat16()}
        engine.sync(sent.items(), version)
        for server in servers:
            assert torch.equal(server.received["half"], sent["half"]) and server.weights.endswith(f" {version}")
            assert torch.equal(server.received["lm_head.weight"], sent["model.embed_tokens.weight"])  # it is tied
    routes = [path for path, _ in servers[0].posts]
    each = ["/start_weight_update", "/update_weights", "/finish_weight_update", "/reset_prefix_cache"]
    assert routes == ["/init_weight_transfer_engine", *each, *each]
    engine.close()


@pytest.mark.parametrize("route", ["/init_weight_transfer_engine", "/start_weight_update", "/update_weights"])
def test_a_server_that_fails_at_a_transfer_speaks_at_once(folder, fakes, route):
    """Though this side of it waits, and cannot be interrupted."""
    (server,) = fakes(1, told={"transfer": "gloo"}, refuse=route)
    engine = connect(folder, server, options={"transfer": "gloo", "timeout": 60})
    start = time.monotonic()
    with pytest.raises(ServerError, match=r"answered 503: .*out of blocks"):
        engine.sync(WEIGHTS, 1)
    assert time.monotonic() - start < 30 and server.going.is_set()  # it does not stay paused
    engine.close()


def test_one_of_two_that_fails_at_a_transfer_is_lost_and_comes_back(folder, fakes):
    servers = fakes(2, told={"transfer": "gloo"})
    engine = connect(folder, servers, options={"transfer": "gloo"})
    engine.sync(WEIGHTS, 1)
    servers[0].refuse = "/update_weights"
    with pytest.warns(UserWarning, match="a server is lost"):
        engine.sync(WEIGHTS, 2)
    assert first_ids(engine.generate(PROMPTS, 4, SAMPLING, SEEDS)) == SEEDS and not prompts_of(servers[0])
    servers[0].refuse = None
    engine.sync([(WEIGHTS[0][0], WEIGHTS[0][1] + 1)], 3)
    assert len(engine._backend.fleet.ready) == 2 and servers[0].weights == servers[1].weights
    assert torch.equal(servers[0].received[WEIGHTS[0][0]], WEIGHTS[0][1] + 1)
    engine.close()


def test_a_server_that_takes_no_weights_over_the_wire_is_refused(folder, fakes):
    with pytest.raises(ServerError, match=r"start it with --weight-transfer-config '{\"backend\": \"gloo\"}'"):
        connect(folder, fakes(1)[0], options={"transfer": "gloo"})


@pytest.mark.parametrize(("size", "parts"), [(1, [1, 1, 1]), (8, [2, 1]), (100, [3])])
def test_weights_are_cut_into_parts(size, parts):
    weights = [(name, torch.zeros(1)) for name in "abc"]
    made = list(buckets(weights, size))
    assert [len(part) for part in made] == parts and [w for part in made for w in part] == weights


# ---------------------------------------------------------------- weights that change meanwhile


def test_tokens_say_which_weights_sampled_them(folder, fakes):
    servers = fakes(2, tokens=3)
    engine = connect(folder, servers)
    engine.sync(WEIGHTS, 1)
    engine._backend.flows = True
    for server in servers:
        server.awaited = " 2"
    made = []
    asking = threading.Thread(target=lambda: made.extend(engine.generate(PROMPTS, 4, SAMPLING, SEEDS)))
    asking.start()
    while not all(len(prompts_of(server)) == 8 for server in servers):
        time.sleep(0.01)
    engine.sync(WEIGHTS, 2)
    asking.join()
    assert first_ids(made) == SEEDS
    assert all(c.versions[1:].tolist() == [2, 2, 2] and int(c.versions[0]) in (1, 2) for row in made for c in row)
    engine.close()


def test_where_weights_flow_those_of_nobody_are_still_refused(folder, fakes):
    (server,) = fakes(1)
    engine = connect(folder, server, options={"timeout": 1})
    engine.sync(WEIGHTS, 1)
    engine._backend.flows = True
    server.weights = "default"
    with pytest.warns(UserWarning, match="sampled with weights 'default'"), pytest.raises(ServerError, match="no serv"):
        engine.generate(PROMPTS[:1], 1, SAMPLING, [[1]])
    engine.close()


def test_the_longest_row_is_that_of_the_server_with_the_least_room(fakes):
    urls = [fake.url for fake in (*fakes(1), *fakes(1, told={"longest": 12}))]
    assert longest_row({"name": "vllm", "mode": "server", "options": {"url": urls}}) == 12


def test_a_server_that_cannot_be_stopped_leaves_no_other_one_standing_still(folder, fakes):
    """The second refuses the pause, whatever its reason: the first, which stands still by then, goes on."""
    servers = fakes(2)
    engine = connect(folder, servers)
    engine.sync(WEIGHTS, 1)
    servers[1].refuse_control = ("/pause", 400)
    with pytest.raises(ServerError, match="answered 400"):
        engine.sync(WEIGHTS, 2)
    assert servers[0].going.is_set()
    servers[1].refuse_control = None
    engine.sync(WEIGHTS, 3)
    assert first_ids(engine.generate(PROMPTS, 4, SAMPLING, SEEDS)) == SEEDS
    engine.close()


def test_a_slow_server_is_not_lost_and_its_prompts_are_asked_of_another(folder, fakes):
    servers = fakes(2)
    engine = connect(folder, servers, options={"timeout": 0.3})
    engine.sync(WEIGHTS, 1)
    servers[0].going.clear()  # it takes requests, and answers what is asked of it beside them
    assert first_ids(engine.generate(PROMPTS, 4, SAMPLING, SEEDS)) == SEEDS
    assert len(engine._backend.fleet.ready) == 2 and engine.counts()["rollout/asked_again"] > 0
    servers[0].going.set()
    engine.close()


def test_a_single_slow_server_says_what_to_raise(folder, fakes):
    [server] = fakes(1)
    engine = connect(folder, server, options={"timeout": 0.3})
    server.going.clear()
    with pytest.raises(ServerError, match=r"did not answer within 0\.3 s; raise timeout"):
        engine.generate(PROMPTS, 1, SAMPLING, [[1]] * 4)
    server.going.set()
    engine.close()


def test_closing_does_not_wait_for_a_server_that_hangs(folder, fakes):
    servers = fakes(2)
    engine = connect(folder, servers, options={"timeout": 600})
    engine.sync(WEIGHTS, 1)
    engine.flows = True
    for server in servers:
        server.going.clear()
    failed = []

    def ask():
        with pytest.raises(ServerError) as error:
            engine.generate(PROMPTS, 1, SAMPLING, [[1]] * 4)
        failed.append(str(error.value))

    thread = threading.Thread(target=ask)
    thread.start()
    while not all(prompts_of(server) for server in servers):
        time.sleep(0.005)
    engine.close()
    thread.join(60)
    assert failed and "\n" not in failed[0]
    for server in servers:
        server.going.set()


def test_a_server_that_came_back_as_another_is_not_asked_again_and_again(folder, fakes):
    """It answers, and this run cannot use it: nobody sends weights for its sake, and it gets some once it can be."""
    servers = fakes(2)
    engine = connect(folder, servers)
    engine.sync(WEIGHTS, 1)
    port = servers[1].server_address[1]
    servers[1].kill()
    with pytest.warns(UserWarning, match="a server is lost"):
        engine.generate(PROMPTS, 4, SAMPLING, SEEDS)
    other = started(port, root=str(folder), mode="raw_logprobs")
    assert until_back(engine)
    engine.sync(WEIGHTS, 2)
    fleet = engine._backend.fleet
    assert not fleet.returned() and "raw_logprobs" in fleet.why
    other.kill()
    again = started(port, root=str(folder))
    engine.sync(WEIGHTS, 3)
    assert len(fleet.ready) == 2
    engine.close()
    again.kill()
