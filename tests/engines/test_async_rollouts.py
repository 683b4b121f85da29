"""Rollouts in the background, over servers that come and go: groups are whole, never too old, none lost or invented."""

from __future__ import annotations

import threading
import time
import warnings

import pytest
from standin_server import started
from watching import Watch, coming_and_going, rows_of, versions_of

import mmrl
from mmrl.config import ConfigError, GrpoStage
from mmrl.modalities.load import adapter_class
from mmrl.training.stopping import Stopped

PROMPTS = ["one", "two", "three", "four", "five", "six", "seven"]
BUILD = {"kind": "qwen2", "hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "context": 64}
TOKENS, GROUPS, SAMPLES = 3, 2, 3


@pytest.fixture
def fakes():
    """fakes(n, ...) -> n stand-ins that say what a training can use; all are ended behind the test."""
    made = []

    def start(n=2, port=0, **told):
        told = {"told": {"longest": 64}, "vocabulary": 97, "tokens": TOKENS - 1, "root": "tiny", **told}
        made.extend(started(port, **told) for _ in range(n))
        return made[-n:]

    yield start
    for fake in made:
        if not fake.dead:
            fake.kill()


def config(folder, servers, steps=5, asynchronous=None, **stage):
    (folder / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    (folder / "mine.py").write_text(
        "def odd(samples):\n    return [float(s.trajectory.tensors['ids'][0] % 2) for s in samples]\n", encoding="utf-8"
    )
    options = {"url": [fake.url for fake in servers], "folder": str(folder / "weights"), "timeout": 20}
    engine = {"name": "vllm", "options": {"mode": "server", "options": options}, "tolerance": 1e3}  # made-up log-probs
    model = {"path": "built", "build": BUILD, "chat": "off", "sampling": {"max_tokens": TOKENS}, "engine": engine}
    own = {"kind": "grpo", "name": "rl", "steps": steps, "groups": GROUPS, "samples": SAMPLES, "micro_batch": 64}
    flowing = {"asynchronous": {"staleness": 1, **(asynchronous or {})}}
    return {
        "name": "run",
        "out": str(folder / "runs"),
        "modality": "text",
        "model": model,
        "data": {"prompts": str(folder / "prompts.txt")},
        "rewards": [{"name": f"{folder / 'mine.py'}:odd"}],
        "stages": [{**own, **flowing, "optim": {"lr": 0.01}, **stage}],
        "report": {"samples_every": 1, "groups": GROUPS},
        "threads": 1,
        "device": "cpu",
    }


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch, GROUPS, SAMPLES, "mine.odd")


@pytest.mark.parametrize(
    ("flowing", "versions"),
    [
        ({}, [0, 0, 1, 2, 3]),  # a step's groups are asked for with the weights before it
        ({"staleness": 2}, [0, 0, 0, 1, 2]),
        ({"staleness": 2, "push_every": 2}, [0, 0, 0, 2, 2]),  # with those of steps 0, 2 and 4
    ],
)
def test_servers_sample_ahead_of_the_training(flowing, versions, fakes, tmp_path, watch):
    """The stand-ins are quick: groups are there before the next weights, and as old as they may be."""
    mmrl.train(config(tmp_path, fakes(), asynchronous=flowing), quiet=True)
    watch.check(5, flowing.get("staleness", 1))
    oldest = [min(s.version for g in groups for s in g.samples) for _, groups in watch.taken]
    assert all(version >= least for version, least in zip(oldest, versions))
    rows = rows_of(tmp_path)
    assert [row["rollout/age_max"] for row in rows] == [step - version for step, version in enumerate(oldest)]
    assert all(row["rollout/dropped"] == 0 and row["rollout/servers"] == 2 for row in rows)
    assert {"time/sync", "time/rollout", "rollout/age"} <= set(rows[-1])


def test_weights_come_while_tokens_are_sampled(fakes, tmp_path, watch):
    """Groups whose tokens are of two policies are learned from, and say so. What is asked for with the weights of
    step 1 (the third that are sent), for two steps later, is not done before those of step 2 are there."""
    mmrl.train(config(tmp_path, fakes(crossed=" 3"), asynchronous={"staleness": 2}), quiet=True)
    watch.check(5, 2)
    versions = [versions_of(sample) for sample in watch.all_samples()]
    assert all(len(some) == TOKENS for some in versions) and any(len(set(some)) > 1 for some in versions)


@pytest.mark.parametrize("seed", range(4))
def test_servers_that_are_killed_and_started_anew_lose_no_group(seed, fakes, tmp_path, watch):
    """At random moments, all of them at times; what comes back gets weights before prompts."""
    servers = fakes(2, delay=0.02)
    told = config(tmp_path, list(servers), steps=8)

    def again(gone):
        return fakes(1, gone.server_address[1], delay=0.02)[0]

    with coming_and_going(watch, servers, again, seed, most_up=0.6, most_down=0.3):
        mmrl.train(told, quiet=True)
    watch.check(8, 1)
    assert len(rows_of(tmp_path)) == 8


def test_a_server_that_missed_the_weights_has_its_groups_dropped_and_sampled_again(fakes, tmp_path, watch, monkeypatch):
    """Its answers carry a mark that is this run's, and too old: the bound is held by the mark, not by the schedule."""
    from mmrl.modalities.tokens.apart import TokensApart

    original, aged = TokensApart.rollout, []

    def rollout(apart, group, n, step, seed):
        made = original(apart, group, n, step, seed)
        if step == 3 and group.index == 1 and len(aged) < 2:
            aged.append(group)
            made.samples[0].version = 0
        return made

    monkeypatch.setattr(TokensApart, "rollout", rollout)
    mmrl.train(config(tmp_path, fakes()), quiet=True)
    watch.check(5, 1)
    assert [row["rollout/dropped"] for row in rows_of(tmp_path)] == [0, 0, 0, 2, 0]


@pytest.mark.parametrize("point", ["rollout", "update", "step"])
@pytest.mark.parametrize("when", [1, 3])
def test_a_resume_loses_and_invents_nothing(point, when, fakes, tmp_path, watch):
    """Groups that were there are used as they were; what was under way is asked for again."""
    servers, seen = fakes(2, delay=0.02), []

    def stop(name):
        seen.append(name)
        return name == point and seen.count(point) == when

    told = config(tmp_path, servers)
    with pytest.raises(Stopped):
        mmrl.train(told, quiet=True, should_stop=stop)
    before = {
        (step, group.index): [s.actions.tensors["ids"].tolist() for s in group.samples]
        for step, groups in watch.taken
        for group in groups
    }
    mmrl.train(told, quiet=True, resume=True)
    steps = [step for step, _ in watch.taken]
    assert steps == list(range(5))
    watch.check(5, 1)
    for step, groups in watch.taken:
        for group in groups:
            ids = [s.actions.tensors["ids"].tolist() for s in group.samples]
            assert before.get((step, group.index), ids) == ids
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2, 3, 4, 5]


def test_all_servers_gone_for_good_end_the_run_within_the_time_out(fakes, tmp_path, watch):
    from mmrl.engines.http_client import ServerError

    servers = fakes(2, delay=0.02)
    told = config(tmp_path, servers, steps=50)
    told["model"]["engine"]["options"]["options"]["timeout"] = 1
    gone: list[float] = []

    def kill():
        watch.begun.wait()
        for server in servers:
            server.kill()
        gone.append(time.monotonic())

    killer = threading.Thread(target=kill)
    killer.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ServerError, match=r"no server|cannot be reached"):
            mmrl.train(told, quiet=True)
    killer.join()
    assert time.monotonic() - gone[0] < 120


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"engine": {"name": "transformers"}}, "cannot sample while it is trained; set model.engine"),
        ({"engine": {"name": "vllm", "options": {"mode": "colocated"}}}, "mode: server"),
        ({"sampling": {"max_tokens": 3, "top_p": 0.9}}, "leave both out"),
    ],
)
def test_what_cannot_sample_in_the_background_is_refused(model, message):
    kind = adapter_class("text")
    served = {"name": "vllm", "options": {"mode": "server", "options": {"url": "http://127.0.0.1:1"}}}
    base = {"path": "built", "build": BUILD, "chat": "off", "sampling": {"max_tokens": 3}, "engine": served}
    adapter = kind(kind.Config(**{**base, **model}))
    with pytest.raises(ValueError, match=message):
        adapter.apart()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"staleness": 1}, "asynchronous goes without staleness"),
        ({"refill": 2}, "asynchronous goes without refill"),
        ({"tree": {}}, "asynchronous goes without tree"),
        ({"asynchronous": {"staleness": 1, "push_every": 2}}, "push_every=2 leaves the servers with weights"),
    ],
)
def test_options_that_do_not_go_together_are_refused(stage, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        GrpoStage(**{"steps": 1, "asynchronous": {}, **stage})
