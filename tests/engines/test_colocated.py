"""How the engine in this process uses vLLM: sleep and waking, and a launcher's process group. vLLM is a stand-in."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch

import mmrl.engines.vllm_colocated as colocated
from mmrl.engines.base import Sampling
from mmrl.engines.vllm import VllmEngine

SAMPLING = Sampling(max_tokens=2)
WEIGHTS = [("lm_head.weight", torch.ones(2, 2))]


class Log(list):
    """What was asked of vLLM, in order."""


@pytest.fixture
def vllm(monkeypatch):
    """A package `vllm` that writes down what is asked of it, on a machine with a GPU."""
    asked = Log()

    class LLM:
        def __init__(self, **options):
            asked.options = options
            core = types.SimpleNamespace(shutdown=lambda: asked.append("shutdown"))
            config = types.SimpleNamespace(max_model_len=options["max_model_len"] or 64)
            add = lambda request: asked.append("add_lora")  # noqa: E731
            self.llm_engine = types.SimpleNamespace(model_config=config, engine_core=core, add_lora=add)

        def sleep(self, level):
            asked.append(f"sleep {level}")

        def wake_up(self, tags):
            asked.append(f"wake {' '.join(tags)}")

        def collective_rpc(self, method, kwargs):
            asked.append(f"{method} {' '.join(name for name, _ in kwargs['weights_iterator'])}")

        def reset_prefix_cache(self):
            asked.append("reset")
            return True

        def generate(self, prompts, params, use_tqdm, lora_request):
            asked.append("generate")
            made = types.SimpleNamespace(
                finish_reason="length", token_ids=[1], logprobs=[{1: types.SimpleNamespace(logprob=-1.0)}]
            )
            return [types.SimpleNamespace(outputs=[made], prompt_token_ids=p["prompt_token_ids"]) for p in prompts]

    package = types.ModuleType("vllm")
    package.LLM, package.SamplingParams = LLM, lambda **options: options
    request = types.ModuleType("vllm.lora.request")
    request.LoRARequest = lambda *args, **options: args
    for name, module in {
        "vllm": package,
        "vllm.lora": types.ModuleType("vllm.lora"),
        "vllm.lora.request": request,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: object() if name == "vllm" else found(name, *a))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(colocated, "_no_autocast", lambda: torch.autocast("cpu", enabled=False))
    monkeypatch.setattr(colocated, "_untouched_random_state", __import__("contextlib").nullcontext)
    return asked


def draw(engine):
    engine.generate([torch.tensor([1])], 1, SAMPLING, [[1]])


LOAD = ["reload_weights lm_head.weight", "reset"]


def test_awake_is_the_default(vllm, folder):
    engine = VllmEngine(folder)
    assert "enable_sleep_mode" not in vllm.options and "distributed_executor_backend" not in vllm.options
    engine.sync(WEIGHTS, 1), draw(engine), engine.rest(), draw(engine), engine.close()
    assert vllm == [*LOAD, "generate", "generate", "shutdown"]


@pytest.mark.parametrize("level", [1, 2])
def test_what_slept_gets_its_weights_before_room_for_prefixes(vllm, folder, level):
    engine = VllmEngine(folder, sleep=level)
    assert vllm.options["enable_sleep_mode"] is True
    engine.sync(WEIGHTS, 1)
    draw(engine)
    engine.rest(), engine.rest()
    engine.sync(WEIGHTS, 2)
    draw(engine)
    waking = ["wake weights", LOAD[0], "wake kv_cache", LOAD[1]]
    assert vllm == [*LOAD, "generate", f"sleep {level}", *waking, "generate"]


def test_level_1_may_generate_with_the_weights_it_kept_and_level_2_may_not(vllm, folder):
    kept, dropped = VllmEngine(folder, sleep=1), VllmEngine(folder, sleep=2)
    for engine in (kept, dropped):
        engine.sync(WEIGHTS, 1), engine.rest()
    vllm.clear()
    draw(kept)
    assert vllm == ["wake weights kv_cache", "generate"]
    with pytest.raises(RuntimeError, match="sync before generating"):
        draw(dropped)


def test_an_adapter_wakes_all(vllm, folder):
    engine = VllmEngine(folder, sleep=1, lora=True)
    engine.rest()
    engine.sync_lora(lambda place: (place / "adapter_config.json").write_text("{}"), 1)
    assert vllm == ["sleep 1", "wake weights kv_cache", "add_lora", "reset"]
    engine.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sleep": 3}, "sleep is 3; write 0, 1"),
        ({"sleep": 2, "lora": True}, "lora: true never sends again"),
        ({"options": {"enable_sleep_mode": True}}, "are set by mmrl"),
        ({"options": {"distributed_executor_backend": "ray"}}, "are set by mmrl"),
    ],
)
def test_what_cannot_be_is_refused(vllm, folder, options, message):
    with pytest.raises(ValueError, match=message):
        VllmEngine(folder, **options)


def test_sleep_needs_a_gpu(vllm, folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="there is none here"):
        VllmEngine(folder, sleep=1)


def test_in_a_launchers_group_each_process_has_an_engine_that_leaves_the_group_alone(vllm, folder, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setenv("RANK", "1")
    ended = []
    monkeypatch.setattr(colocated, "_shut_down", lambda core, launched: ended.append(launched))
    engine = VllmEngine(folder)
    assert vllm.options["distributed_executor_backend"] == "external_launcher"
    engine.close()
    assert ended == [True]


def test_a_second_engine_in_one_process_is_refused(vllm, folder, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError, match="another engine of this process is open"):
        VllmEngine(folder)
