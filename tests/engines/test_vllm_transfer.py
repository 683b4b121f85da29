"""Weights over vLLM's own protocol into real servers: they follow every update, while requests are under way, too.

Run with `make test-vllm`. The transport is gloo; all but it is as on GPUs.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_vllm import PROMPTS, compare, perturb, tiny, trainer_logp

from mmrl.engines.base import Sampling
from mmrl.engines.vllm import VllmEngine
from mmrl.modalities.tokens.outside import merged_weights

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1800),  # the first import compiles and reads gigabytes, and a server is started anew
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
GLOO = ("--weight-transfer-config", '{"backend": "gloo"}', "--max-model-len", "512")


@pytest.fixture(scope="module")
def two(serve, tmp_path_factory):
    """(model, folder, addresses of two servers of it)."""
    folder = tmp_path_factory.mktemp("transfer") / "base"
    model = tiny("qwen3", True)
    model.save_pretrained(folder)
    with ThreadPoolExecutor(2) as both:
        urls = list(both.map(lambda _: serve(folder, *GLOO, "--skip-tokenizer-init"), range(2)))
    return model, folder, urls


def engine_of(folder, urls):
    return VllmEngine(folder, mode="server", dtype="float32", options={"url": urls, "transfer": "gloo"})


def until(true):
    """Wait for it: how long a real server takes is nothing that a test decides by."""
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def generated(url):
    """How many tokens the server has sampled since it began."""
    text = urllib.request.urlopen(f"{url}/metrics", timeout=60).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:generation_tokens_total"))


def test_servers_follow_over_gloo(two):
    model, folder, urls = two
    engine = engine_of(folder, urls)
    gaps, times = [], []
    for version in (1, 2, 3):
        perturb(model)
        start = time.monotonic()
        engine.sync(merged_weights(model), version)
        times.append(time.monotonic() - start)
        gaps.append(compare(engine, model, Sampling(max_tokens=12)))
    held = [server.checksums() for server in engine._backend.fleet.servers]
    engine.close()
    print(f"over gloo: largest log-prob difference {max(gaps):.1e}; {len(urls)} servers in {min(times):.2f} s")
    assert held[0] and all(found == held[0] for found in held)


def test_requests_under_way_go_on_with_the_new_weights_exactly(two):
    """Tokens behind the exchange are the new policy's, given the tokens before: nothing of the old keys is left."""
    model, folder, urls = two
    engine = engine_of(folder, urls[:1])
    engine.sync(merged_weights(model), 1)
    engine._backend.flows = True
    old = {name: w.clone() for name, w in model.state_dict().items()}
    made = []
    sampling, prompt = Sampling(max_tokens=400), PROMPTS[0]
    asking = threading.Thread(target=lambda: made.extend(engine.generate([prompt], 2, sampling, [[1, 2]])[0]))
    before_any = generated(urls[0])
    asking.start()
    until(lambda: generated(urls[0]) > before_any)  # it is under way
    perturb(model)
    engine.sync(merged_weights(model), 2)
    asking.join()
    seen = set()
    for completion in made:
        seen |= set(completion.versions.tolist())
        assert completion.versions.tolist() == sorted(completion.versions.tolist())
        new = trainer_logp(model, prompt, completion.ids)
        now = {name: w.clone() for name, w in model.state_dict().items()}
        model.load_state_dict(old)
        before = trainer_logp(model, prompt, completion.ids)
        model.load_state_dict(now)
        first = completion.versions == 1
        gap = torch.where(first, before, new) - completion.logp
        print(f"{int(first.sum())} tokens of the old weights, {int((~first).sum())} of the new: {gap.abs().max():.1e}")
        assert float(gap.abs().max()) < 1e-4
    assert seen == {1, 2}
    engine.close()


def test_a_server_that_was_killed_gets_weights_before_prompts(two, serve):
    model, folder, urls = two
    engine = engine_of(folder, urls)
    engine.sync(merged_weights(model), 1)
    os.killpg(serve.processes[urls[1]].pid, signal.SIGKILL)
    serve.processes[urls[1]].wait(30)
    with pytest.warns(UserWarning, match="a server is lost"):
        compare(engine, model, Sampling(max_tokens=12), n=4)
    perturb(model)
    engine.sync(merged_weights(model), 2)
    compare(engine, model, Sampling(max_tokens=12), n=4)
    assert len(engine._backend.fleet.ready) == 1
    serve(folder, *GLOO, "--skip-tokenizer-init", port=urls[1].rpartition(":")[2])
    until(engine._backend.returned)  # it may be slow to answer at first
    perturb(model)
    versions = itertools.count(3)
    until(lambda: engine.sync(merged_weights(model), next(versions)) or len(engine._backend.fleet.ready) == 2)
    compare(engine, model, Sampling(max_tokens=12), n=4)
    engine.close()
