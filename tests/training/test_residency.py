"""What `mmrl plan` says of where things are on a GPU, of an engine beside the trainer, and of graphs that are kept."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
from small_runs import grpo
from torch import Tensor

from mmrl.config import load
from mmrl.training.assemble import assemble
from mmrl.training.dry_run import made_stages
from mmrl.training.estimate.lines import CUDA, Estimate
from mmrl.training.estimate.memory import Sizes, phases
from mmrl.training.estimate.residency import SHARE, Engine, engine_lines, engine_of, least_gpu, residency_lines
from mmrl.training.estimate.stages import blank_samples, kept_graphs, sizes_of
from mmrl.training.estimate.tracing import Tracer
from mmrl.training.plan import plan_text
from mmrl.training.planned import PlannedProcesses

TEXT = {"path": "b", "build": {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1}}
PLAIN = {"records": None}


def made(config):
    [(stage, prompts)] = made_stages(load(config))
    return stage, prompts


def engine(**options):
    return SimpleNamespace(engine=SimpleNamespace(name="vllm", options=options))


def test_the_engine_that_a_config_asks_for():
    assert engine_of(SimpleNamespace()) is None
    assert engine_of(SimpleNamespace(engine=SimpleNamespace(name="transformers", options={}))) is None
    assert engine_of(engine(mode="server", urls=["a"])) == Engine("vllm")
    assert engine_of(SimpleNamespace(engine=SimpleNamespace(name="diffusers", options={}))) is None
    assert engine_of(SimpleNamespace(engine=SimpleNamespace(name="servers", options={}))) == Engine("servers")
    assert engine_of(engine()) == Engine("vllm", SHARE, 0)
    assert engine_of(engine(sleep=2, options={"gpu_memory_utilization": 0.3})) == Engine("vllm", 0.3, 2)


def test_a_gpu_has_room_for_the_engines_share_and_the_trainer_beside_it():
    gb = 10**9
    trainer = Estimate(Sizes(weights=6 * gb, trained=gb, moments=2 * gb, sampling=gb, update=12 * gb), 0, gpu=True)
    assert trainer.peak == 20 * gb + CUDA
    awake, beside = least_gpu(Engine("vllm", 0.6), trainer)
    assert beside == trainer.peak and awake == pytest.approx(beside / 0.4)
    assert awake - 0.6 * awake >= beside * (1 - 1e-9)
    asleep, beside = least_gpu(Engine("vllm", 0.6, 1), trainer)
    assert beside == 8 * gb + CUDA and asleep == pytest.approx(max(beside / 0.4, trainer.peak))
    assert least_gpu(Engine("vllm", 0.01, 1), trainer)[0] == pytest.approx(6 * gb / 0.01), "its weights fit its share"
    assert least_gpu(Engine("vllm", 1.0, 1), trainer)[0] == float("inf")


def test_a_plan_tells_of_the_engine(tiny):
    section = {"name": "vllm", "options": {"sleep": 1, "options": {"gpu_memory_utilization": 0.4}}}
    config = {**tiny(data=PLAIN), "modality": "text", "model": {**TEXT, "chat": "off", "engine": section}}
    stage, prompts = made(config | {"stages": [grpo(algorithm={"preset": "grpo"})]})
    told = "\n".join(residency_lines(stage))
    assert "vllm beside the trainer: 0.4 of the GPU's memory (gpu_memory_utilization) while it samples, its" in told
    assert "always policy " in told and "optimizer " in told
    (line,) = engine_lines(stage, Estimate(sizes_of(stage, prompts), 0, gpu=False))
    assert "with vllm on the same GPU: it takes 0.4 of all" in line and "sleep: 1" not in line


def test_parts_of_an_image_model_are_told_once_each_where_they_are(tiny):
    stage, _ = made(tiny(data=PLAIN, device="auto", model={"park": True}))
    adapter = stage.run.adapter
    parts, parked = adapter.parts(), adapter.parked()
    assert set(parts) == {"policy", "text encoders", "autoencoder"} and set(parked) == set(parts) - {"policy"}
    every = [id(t) for part in parts.values() for t in part]
    assert len(every) == len(set(every)) and set(every) == {id(t) for t in adapter.weights()}
    first, second = residency_lines(stage)
    assert "always policy" in first and "encoders" not in first
    assert second == "  in main memory, on the GPU while it is used: text encoders 1 MB, autoencoder 1 MB"
    (whole,) = residency_lines(made(tiny(data=PLAIN))[0])
    assert "text encoders" in whole


def test_graphs_that_are_kept_are_those_of_every_trained_step_of_every_sample(tiny):
    def graphs(samples, **model):
        stage, prompts = made(tiny(data=PLAIN, model=model, stages=[grpo(samples=samples, updates=1)]))
        return sizes_of(stage, prompts).graphs

    assert graphs(4) == 0
    two = graphs(2, keep_graph=True)
    assert two > 0 and graphs(4, keep_graph=True) == 2 * two
    assert graphs(2, keep_graph=True, gradient_checkpointing=True) < two
    sizes = Sizes(weights=10, trained=8, sampling=5, update=20, graphs=7)
    assert phases(sizes)["rollout"] == 22 and phases(sizes)["update"] == 37


class RealTracer(Tracer):
    counted = Tensor


def test_what_a_graph_keeps_is_what_one_of_real_tensors_does(tiny):
    config = tiny(data=PLAIN, model={"keep_graph": True}, stages=[grpo(samples=2, updates=1)])
    stage, prompts = made(config)
    samples, _ = blank_samples(stage, prompts)
    run = assemble(load(config), PlannedProcesses(1), training=False)
    steps, compute = run.adapter.kept_graphs(samples[0])
    compute()  # what is encoded once is there then
    with RealTracer() as traced:
        kept = compute()
        gc.collect()
        real = traced.now
    assert kept.logp.requires_grad
    assert kept_graphs(stage, samples) == pytest.approx(2 * 4 * steps * real, rel=0.05)


def test_a_stage_of_another_kind_keeps_none(tiny):
    stage, _ = made(tiny(stages=[{"kind": "sft", "steps": 1}], data={"prompts": None}))
    assert kept_graphs(stage, []) == 0


def test_rewards_that_wait_in_main_memory_are_told_and_counted_where_they_score(tiny, tmp_path):
    (tmp_path / "towers.py").write_text(
        "from torch import nn\n"
        "class tower:\n"
        "    def __init__(self):\n"
        "        self.net = nn.Linear(1000, 1000)\n"
        "    def __call__(self, samples):\n"
        "        return [0.0 for _ in samples]\n"
    )
    rewards = [{"name": f"{tmp_path}/towers.py:tower", "park": True}]
    stage, _ = made(tiny(data=PLAIN, device="auto", rewards=rewards))
    first, second = residency_lines(stage)
    assert "rewards" not in first
    assert second == "  in main memory, on the GPU while they score, beside rollouts too: reward towers.tower 4 MB"
    whole, *_ = residency_lines(made(tiny(data=PLAIN, device="auto", rewards=[{**rewards[0], "park": False}]))[0])
    assert "rewards 4 MB" in whole
    told = plan_text(load(tiny(data=PLAIN, device="auto", rewards=rewards)))
    assert "rewards in main memory, on the GPU while they score" in told
