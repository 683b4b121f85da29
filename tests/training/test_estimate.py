"""The estimate of memory: models without weights are those with weights, and what is traced is what is held."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmrl.config import OptimConfig, load
from mmrl.modalities.hollow import without_weights
from mmrl.training.assemble import assemble, load_adapter
from mmrl.training.dry_run import estimates
from mmrl.training.estimate.lines import CUDA, REST, Estimate
from mmrl.training.estimate.memory import Sizes, checkpoint, phases, shown
from mmrl.training.estimate.tracing import Tracer, peak_of
from mmrl.training.optim import build, scratch
from mmrl.training.planned import PlannedProcesses
from mmrl.training.stages.update import given_update, gradient, micro_batches

KIB = 256  # float32 numbers


def fakes(*sizes: int) -> list[Tensor]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        return [torch.empty(size, requires_grad=True) for size in sizes]


# -------------------------------------------------------------------- the tracer


def test_what_is_let_go_of_is_counted_no_more():
    (a,) = fakes(KIB)
    with Tracer() as tracer, torch.no_grad():
        b = a + 1  # 1 KiB
        c = b + 1  # 2
        b = c + 1  # 3, then 2
        assert (tracer.now, tracer.peak) == (2048, 3072)
        view = c.view(16, -1)
        del c
        assert tracer.now == 2048, "a view keeps it"
        del view, b
        assert (tracer.now, tracer.peak) == (0, 3072)


def test_what_a_graph_keeps_is_counted_until_the_backward():
    (a,) = fakes(KIB)

    def compute() -> None:
        made = a.exp().exp()  # both are kept for the backward, 2 KiB, and the second is the value
        made.sum().backward()  # a number, its expanded gradient, 1 KiB for each of the two products on the way

    assert 3072 <= peak_of(compute) <= 5120 + 64
    assert a.grad is not None


def test_a_number_that_python_asks_for_is_one():
    (a,) = fakes(KIB)
    with Tracer(), torch.no_grad():
        assert float(a.sum()) == 1.0
        assert bool((a > 0).any()) is True
        assert int(a.argmax()) == 1


class RealTracer(Tracer):
    counted = Tensor


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["adamw", "spam", "muon"])
def test_what_a_step_of_an_optimizer_works_with(name, fused):
    """Measured on its second step, when it remembers already: never more than is told, and no less than half of it."""
    shapes = {"layers.0.w": (64, 96), "layers.1.w": (64, 64), "bias": (96,)}
    parameters = {key: nn.Parameter(torch.randn(shape)) for key, shape in shapes.items()}
    optimizer = build(OptimConfig(name=name, spam_clip_after=0), parameters)
    for group in optimizer.param_groups:
        if "fused" in group:
            group["fused"] = fused
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    with RealTracer() as tracer:
        optimizer.step()
    told = scratch(optimizer, False, lambda p: p.numel() * p.element_size())
    assert told / 2 <= max(tracer.peak - 64, 0) <= told  # but for counters of steps
    assert (told == 0) == (name == "adamw" and fused)


# -------------------------------------------------------------------- from sizes to memory


def test_phases_are_sums():
    sizes = Sizes(weights=10, trained=8, scratch=6, moments=16, average=8, reference=8, sampling=5, update=20)
    assert phases(sizes) == {"rollout": 47, "update": 62, "optimizer": 42 + 8 + 6}
    assert checkpoint(sizes, on_host=False) == 8 + 16 + 8 + 8
    assert checkpoint(sizes, on_host=True) == 40 + 42
    assert phases(Sizes(weights=10, sampling=5)) == {"rollout": 15}


def test_an_estimate_is_of_the_largest_phase():
    sizes = Sizes(weights=10, trained=8, moments=16, update=20)
    cpu, gpu = Estimate(sizes, base=100, gpu=False), Estimate(sizes, base=100, gpu=True)
    assert (cpu.phase, cpu.peak) == ("update", 26 + 25 + 100 + REST), "a quarter more than the tensors"
    small = dataclasses.replace(cpu, sizes=dataclasses.replace(sizes, update=16))
    assert (small.phase, small.peak) == ("checkpoint", 24 + 26 + 100 + REST)
    assert (gpu.phase, gpu.peak, gpu.host) == ("update", 46 + CUDA, 24 + 100 + REST)
    assert dataclasses.replace(cpu, wide=False).peak > cpu.peak
    behind = dataclasses.replace(cpu, behind=True)
    assert (behind.phase, behind.peak) == ("update", cpu.peak + 24), "what is still being written"
    assert dataclasses.replace(gpu, behind=True).host == gpu.host


@pytest.mark.parametrize(
    ("size", "told"), [(1, "1 MB"), (2_400_000, "2 MB"), (999e6, "999 MB"), (12_340_000_000, "12.3 GB")]
)
def test_bytes_are_shown_in_powers_of_ten(size, told):
    assert shown(size) == told


# -------------------------------------------------------------------- models without weights

SLOW = pytest.mark.slow
BUILT = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("text", {"path": "share://assets/text-tiny"}),
    "text, built": ("text", {"path": "b", "build": BUILT}),
    "text, LoRA in bfloat16": ("text", {"path": "share://assets/text-tiny", "train": "lora", "dtype": "bfloat16"}),
    "vision": ("vision", {"path": "share://assets/vision-tiny"}),
    "vision, tower trained": ("vision", {"path": "share://assets/vision-tiny", "vision": "trained"}),
    "vision, LoRA": ("vision", {"path": "share://assets/vision-tiny", "train": "lora"}),
    **{
        f"vision, {kind}": ("vision", {"path": "b", "build": {"kind": kind}})
        for kind in ("qwen3_vl", "internvl", "smolvlm", "paligemma")
    },
    **{
        f"audio{', ' + kind if kind else ''}": ("audio", {"path": "b", "build": {"kind": kind or "qwen2_audio"}})
        for kind in ("", "qwen2_5_omni", "audioflamingo3", "voxtral")
    },
    "image": ("image", {"path": "share://assets/image-tiny"}),
    "image, LoRA": ("image", {"path": "share://assets/image-tiny", "train": "lora", "dtype": "bfloat16"}),
    **{
        f"image, {family}": ("image", {"path": "b", "family": family, "build": {"corpus": ["a dot"]}})
        for family in ("flux", "sd", "sdxl", "z_image", "qwen_image", "flux2", "flux2_klein", "sana")
    },
}


def run_config(name: str, **stage: Any) -> Any:
    modality, model = MODELS[name]
    tiny = f"{modality}/tiny"
    values = {"prompts_count": 4, "eval_prompts": None} if modality != "image" else {"where": {}, "eval_prompts": None}
    made = load(tiny)
    sampling = made.model.sampling.model_dump(mode="json") if modality != "image" else {"steps": 3, "size": 48}
    if modality in ("vision", "audio"):
        sampling["max_tokens"] = 4
    data = {"prompts": made.data.prompts, "prompts_options": made.data.prompts_options, **values}
    grpo = {"kind": "grpo", "steps": 1, "groups": 2, "samples": 2, "micro_batch": 512, **stage}
    return load(
        {
            "modality": modality,
            "device": "cpu",
            "model": {**model, "sampling": sampling},
            "data": {key: value for key, value in data.items() if value},
            "rewards": [r.model_dump() for r in made.rewards],
            "stages": [grpo],
        }
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_model_without_weights_is_the_one_with_weights(name):
    config = run_config(name)
    real, hollow = load_adapter(config), load_adapter(config, weights=False)
    pairs = [({k: (p.shape, p.dtype) for k, p in a.trainable_parameters().items()}) for a in (real, hollow)]
    assert pairs[0] == pairs[1]
    sizes = [sum({id(t): t.numel() * t.element_size() for t in a.weights()}.values()) for a in (real, hollow)]
    assert sizes[0] == sizes[1]
    assert hollow.precision == real.precision and hollow.default_clip == real.default_clip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("text", "vision", "audio", "image") else pytest.mark.slow)
        for name in MODELS
    ],
)
def test_every_family_is_estimated(name):
    ((stage, found),) = estimates(run_config(name, algorithm={"preset": "grpo", "kl_coef": 0.1}, optim={"ema": 0.9}))
    sizes = found.sizes
    assert stage == "grpo"
    assert sizes.moments == 2 * sizes.trained == 2 * sizes.average == 2 * sizes.reference > 0
    assert sizes.update > sizes.trained, "gradients, and what leads to them"
    assert sizes.sampling > 0


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "name", ["text, LoRA in bfloat16", "vision", "image", *(pytest.param(n, marks=SLOW) for n in ("text", "image, sd"))]
)
def test_what_is_traced_is_what_the_computation_holds(name, checkpointing):
    """The same replay on tensors that are there, every one of which is counted, indices too."""
    config = run_config(name)
    config.model.__dict__["gradient_checkpointing"] = checkpointing
    peaks = []
    for weights, tracer in ((True, RealTracer()), (False, Tracer())):
        run = assemble(config, PlannedProcesses(1), weights=weights)
        samples = [s for prompt in run.data.prompts[:2] for s in [run.adapter.blank(prompt)] * 2]
        algorithm = config.stages[0].resolved.with_defaults(*run.adapter.default_clip)
        update = given_update(samples, torch.tensor([1.0, -1.0, 1.0, -1.0]), algorithm)
        slices = micro_batches(run.adapter, update, 512)
        with tracer:
            list(gradient(run.adapter, update, slices))
        peaks.append(tracer.peak)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)


def test_checkpointing_and_smaller_micro_batches_take_less():
    def update(model: dict[str, Any], **stage: Any) -> int:
        config = run_config("text, built", groups=4, samples=4, **stage)
        config.model.__dict__.update(model)
        ((_, found),) = estimates(config)
        return found.sizes.update

    whole = update({})
    assert update({"gradient_checkpointing": True}) < 0.8 * whole
    assert update({}, micro_batch=128) < 0.6 * whole


@pytest.mark.parametrize("kind", ["reward_model", "preference"])
def test_of_records_those_count_that_take_most_with_their_prompts_wherever_they_stand(kind, tmp_path):
    def update(*records: tuple[str, str, str]) -> int:
        path = tmp_path / "pairs.jsonl"
        lines = [{"prompt": f"{p} {i}", "chosen": c, "rejected": r} for i, (p, c, r) in enumerate(records)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        stage = {"kind": kind, "steps": 1, "batch": 4, "micro_batch": 60, "pairs": str(path)}
        head = {"head": {}} if kind == "reward_model" else {}
        model = {"path": "b", "build": {**BUILT, "context": 256}, "sampling": {"max_tokens": 8}, **head}
        ((_, found),) = estimates(load({"modality": "text", "device": "cpu", "model": model, "stages": [stage]}))
        return found.sizes.update

    long_prompt, long_answer = ("why? " * 24, "a", "b"), ("?", "a" * 20, "b" * 20)
    most = update(*[long_prompt] * 4)
    assert most > update(*[long_answer] * 4)
    for records in ([long_prompt] * 4 + [long_answer] * 4, [long_answer] * 4 + [long_prompt] * 4):
        assert update(*records) == pytest.approx(most, rel=0.05)


def test_nothing_is_made_without_weights_outside_of_the_block():
    from mmrl.modalities import hollow

    with without_weights():
        assert hollow.is_wanted()
    assert not hollow.is_wanted()
