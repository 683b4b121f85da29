"""model.compile: parts of the model run compiled, and every number is what it was but for the order of sums."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from small_pipelines import LORA
from small_pipelines import adapter as pictures
from small_pipelines import roll as draw
from torch._dynamo.utils import counters
from transformers import OPTConfig, OPTModel

from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.compiling import compile_parts, tokenwise
from mmrl.modalities.tokens.outside import merged_weights
from mmrl.training.merge import merge


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


# Its kernels are compiled in C++, minutes on a busy machine.
INDUCTOR = pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])
BACKENDS = ["aot_eager", INDUCTOR]


def numbers(policy, samples):
    """(log-probs, gradient by name) of a loss that weighs actions differently."""
    columns = torch.arange(max(len(s.trajectory.mask) for s in samples))
    logp = policy.logprobs(samples, columns).logp
    (logp * torch.linspace(-1, 2, logp.numel()).view_as(logp)).sum().backward()
    found = {name: p.grad.clone() for name, p in policy.trainable_parameters().items() if p.grad is not None}
    return logp.detach(), found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options", [{}, {"gradient_checkpointing": True}, {"train": "lora"}], ids=["full", "recomputed", "lora"]
)
def test_a_decoder_samples_and_learns_as_without(adapter, roll, options, backend):
    build = {"kind": "qwen3", "layers": 2, "hidden": 32}
    torch.manual_seed(0)
    plain = adapter(build=build, **options)
    torch.manual_seed(0)
    policy = adapter(build=build, compile=backend, **options)
    assert plain.model.state_dict().keys() == policy.model.state_dict().keys()
    drawn = [roll(one, ["1+2=", "what is it?"], n=3) for one in (plain, policy)]
    for a, b in zip(*drawn, strict=True):
        assert a.artifact == b.artifact
        torch.testing.assert_close(a.trajectory.logp, b.trajectory.logp, rtol=0, atol=1e-5)
    before = counters["frames"]["ok"]
    (logp, gradient), (found, made) = numbers(plain, drawn[0]), numbers(policy, drawn[0])
    assert counters["frames"]["ok"] > 0 and before > 0  # the rollout, too
    torch.testing.assert_close(found, logp, rtol=0, atol=1e-5)
    for name, wanted in gradient.items():
        torch.testing.assert_close(made[name], wanted, rtol=0, atol=1e-5 * float(max(1, wanted.abs().max())))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("sd3", {}),
        pytest.param("flux", LORA, marks=pytest.mark.slow),
        pytest.param("sd", {}, marks=pytest.mark.slow),
        ("sd3", {"gradient_checkpointing": True} | LORA),
    ],
)
def test_a_denoiser_draws_and_learns_as_without(family, options, backend):
    torch.manual_seed(0)
    plain = pictures(family, **options)
    torch.manual_seed(0)
    policy = pictures(family, compile=backend, **options)
    drawn = [draw(one) for one in (plain, policy)]
    for a, b in zip(*drawn, strict=True):
        torch.testing.assert_close(a.trajectory.logp, b.trajectory.logp, rtol=0, atol=1e-4)
    assert counters["frames"]["ok"] > 0
    (logp, gradient), (found, made) = numbers(plain, drawn[0]), numbers(policy, drawn[0])
    assert not counters["graph_break"]  # a block is one graph
    torch.testing.assert_close(found, logp, rtol=0, atol=1e-4)
    scale = max(float(g.abs().max()) for g in gradient.values())
    for name, wanted in gradient.items():
        torch.testing.assert_close(made[name], wanted, rtol=0, atol=1e-4 * scale)


def written(folder):
    """(weights by file and name, configs by file) of a folder."""
    weights = {str(path.relative_to(folder)): load_file(path) for path in sorted(folder.rglob("*.safetensors"))}
    about = {str(path.relative_to(folder)): json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))}
    return {f"{file}:{name}": t for file, some in weights.items() for name, t in some.items()}, about


@pytest.mark.parametrize(
    "kind", ["decoder", "decoder with LoRA", pytest.param("denoiser with LoRA", marks=pytest.mark.slow)]
)
def test_what_is_saved_merged_and_sent_is_that_of_the_model_without(kind, adapter, roll, tmp_path):
    """Names and values, once parts have run compiled."""

    def made(**compile):
        torch.manual_seed(0)
        if kind.startswith("denoiser"):
            return pictures(build={"layers": 1}, sampling={"steps": 2}, **LORA, **compile)
        train = {"train": "lora"} if "LoRA" in kind else {}
        return adapter(build={"kind": "qwen3"}, sampling={"max_tokens": 3}, **train, **compile)

    policies = {"plain": made(), "compiled": made(compile="aot_eager")}
    for name, policy in policies.items():
        for weight in policy.trainable_parameters().values():
            weight.data += 0.01  # LoRA begins at nothing
        (draw if kind.startswith("denoiser") else roll)(policy, n=1)
        policy.save(tmp_path / name)
    assert counters["frames"]["ok"] > 0
    (wanted, about), (found, said) = (written(tmp_path / name) for name in policies)
    assert about == said and found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)
    sent = [dict(p.served().weights() if "denoiser" in kind else merged_weights(p.model)) for p in policies.values()]
    assert sent[0].keys() == sent[1].keys() and all(torch.equal(sent[0][k], sent[1][k]) for k in sent[0])
    mean, _ = written(merge(tmp_path / "mean", [tmp_path / name for name in policies]))
    assert mean.keys() == wanted.keys()


def test_every_shape_and_mode_of_a_run_is_compiled():
    """torch stops at its limit, 8 as it comes, without an error."""

    class Norm(torch.nn.LayerNorm):
        def forward(self, x):
            return super().forward(x)

    part = Norm(4)
    compile_parts([part], "aot_eager", "A")
    for shape in ((1, 1, 4), (1, 3, 4), (3, 1, 4), (3, 3, 4)):
        for dtype in (torch.float32, torch.float64):
            for needed in (True, False):
                part.to(dtype)(torch.ones(shape, dtype=dtype, requires_grad=needed))
            with torch.no_grad():
                part(torch.ones(shape, dtype=dtype))
    assert counters["stats"]["unique_graphs"] >= 4 * 2 * 3


def test_what_cannot_be_compiled_is_refused(adapter):
    with pytest.raises(ValueError, match="'gnu' is no backend"):
        adapter(compile="gnu")
    with pytest.raises(ValueError, match="has no part"):
        compile_parts([], "aot_eager", "A")
    sizes = {"hidden_size": 8, "ffn_dim": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 9}
    decoder = OPTModel(OPTConfig(word_embed_proj_dim=8, **sizes)).decoder
    assert tokenwise(decoder, ["OPTDecoderLayer"]) == []  # norms of torch alone, which it does not compile
    with pytest.raises(Unsupported, match=r"model\.compile was not tried"):
        adapter(compile="aot_eager").divisible()
