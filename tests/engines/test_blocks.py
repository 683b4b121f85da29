"""Tokens by the blocks of a decoder alone are those of the library's own forward, or the blocks are not used."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_decoders import V, decoder

import mmrl  # noqa: F401  before transformers' models: it hooks the import of torchvision
from mmrl.engines import ways
from mmrl.engines.base import Sampling
from mmrl.engines.blocks import KNOWN, Blocks
from mmrl.engines.decoder import Decoder
from mmrl.engines.transformers import TransformersEngine
from mmrl.engines.ways import Ways, find_ways, trial_ids

PROMPTS = [torch.tensor(ids) for ids in ([5, 6, 7], [9], [20, 21, 22, 23, 24, 25, 26])]
SEEDS = [[10 * i + k for k in range(3)] for i in range(len(PROMPTS))]
SAMPLING = Sampling(max_tokens=40, stop_ids=(3, 4, 8))


def model(kind, **numbers):
    made = decoder(kind, **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, **numbers})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4) if parameter.ndim > 1 else parameter.add_(0.3)  # norms and biases that matter
    return made


def completions(net, blocks, prompts=PROMPTS, look=1):
    engine = TransformersEngine(net, ways=Ways(blocks=blocks))
    engine.look = look
    return [one for row in engine.generate(prompts, 3, SAMPLING, SEEDS) for one in row]


@pytest.mark.parametrize("prompts", [PROMPTS, [PROMPTS[0]] * 3], ids=["padded", "alike"])
@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Llama", "Mistral"])
def test_they_sample_what_the_library_s_forward_samples(kind, prompts, monkeypatch):
    net = model(kind, **({"sliding_window": None} if kind == "Mistral" else {}))
    assert find_ways(Decoder(net.base_model), trial_ids(V, ())).blocks
    wanted = completions(net, False, prompts)
    monkeypatch.setattr(Decoder, "step", None)  # the library's is not called
    for made, real in zip(completions(net, True, prompts), wanted, strict=True):
        assert made.ids.tolist() == real.ids.tolist() and made.stop == real.stop
        torch.testing.assert_close(made.logp, real.logp, rtol=0, atol=1e-5)
    assert len({len(c.ids) for c in wanted}) > 2  # rows leave one by one


def test_adapters_of_lora_are_in_them():
    from peft import LoraConfig

    net = model("Qwen3")
    net.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "v_proj", "o_proj", "up_proj"], init_lora_weights=False))
    for made, real in zip(completions(net, True), completions(net, False), strict=True):
        torch.testing.assert_close(made.logp, real.logp, rtol=0, atol=1e-5)


def heard(net):
    net.base_model.layers[1].register_forward_hook(lambda *_: None)


def steered(net):
    net.base_model.layers[1].self_attn.register_forward_hook(lambda *_: None)


def patched(net):
    norm = net.base_model.layers[0].input_layernorm
    norm.forward = norm.forward


def test_each_rollout_is_of_the_weights_as_they_are():
    """What is sampled by copies of the weights follows an update of them."""
    net = model("Qwen3")
    engine = TransformersEngine(net, ways=Ways(blocks=True))

    def sampled():
        return [one for row in engine.generate(PROMPTS, 3, SAMPLING, SEEDS) for one in row]

    before = sampled()
    with torch.no_grad():
        for name in ("input_layernorm", "self_attn.k_proj", "mlp.down_proj"):
            net.base_model.layers[1].get_submodule(name).weight.mul_(-0.5)
    after = sampled()
    assert [c.ids.tolist() for c in before] != [c.ids.tolist() for c in after]
    for made, real in zip(after, completions(net, False), strict=True):
        torch.testing.assert_close(made.logp, real.logp, rtol=0, atol=1e-5)


def test_rows_leave_a_cache_that_had_to_grow():
    """It has room for 64 tokens at first; what was sampled may be replayed with gradient."""
    net = model("Qwen3")
    asked = replace(SAMPLING, max_tokens=150, stop_ids=(3,))
    drawn = []
    for blocks in (True, False):
        engine = TransformersEngine(net, ways=Ways(blocks=blocks))
        drawn.append([one for row in engine.generate(PROMPTS, 3, asked, SEEDS) for one in row])
    assert any(64 < len(one.ids) < 150 for one in drawn[1])
    for made, real in zip(*drawn, strict=True):
        assert made.ids.tolist() == real.ids.tolist()
        torch.testing.assert_close(made.logp, real.logp, rtol=0, atol=1e-5)
    first = drawn[0][0]
    net(input_ids=first.ids[None]).logits[0].gather(1, first.ids[:, None]).sum().backward()


def test_a_projection_that_somebody_steers_is_called():
    net = model("Qwen2")
    net.base_model.layers[0].mlp.up_proj.register_forward_hook(lambda module, given, found: 2 * found)
    for made, real in zip(completions(net, True), completions(net, False), strict=True):
        torch.testing.assert_close(made.logp, real.logp, rtol=0, atol=1e-5)


@pytest.mark.parametrize("part", ["embed_tokens", "layers.0.self_attn.q_proj", "layers.1.mlp.act_fn"])
def test_what_somebody_hears_and_keeps_can_be_trained_with(part):
    """No tensor of inference mode gets out."""
    net, heard = model("Qwen3"), []
    net.base_model.get_submodule(part).register_forward_hook(lambda module, given, found: heard.append(found))
    weight = torch.ones(1, requires_grad=True)
    completions(net, True)
    (heard[-1] * weight).sum().backward()
    assert len(heard) > 2 and weight.grad is not None


OTHERS = {
    "somebody listens": lambda: (net := model("Qwen3"), heard(net))[0],
    "somebody listens inside of a layer": lambda: (net := model("Qwen3"), steered(net))[0],
    "another forward": lambda: (net := model("Qwen3"), patched(net))[0],
    "16 bit": lambda: model("Qwen3").bfloat16(),
    "eager": lambda: model("Qwen3", attn_implementation="eager"),
    "a window": lambda: model("Mistral", sliding_window=4),
    "another block": lambda: model("Gemma2"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_they_are_left_alone_where_they_would_not_be_the_model(name, monkeypatch):
    net = OTHERS[name]()
    monkeypatch.setattr(Blocks, "step", None)
    completions(net, True)


def test_autocast_is_seen():
    net = model("Qwen3").base_model
    assert Blocks.usable(net)
    with torch.autocast("cpu", torch.bfloat16):
        assert not Blocks.usable(net)


def test_blocks_that_compute_something_else_are_found_out(monkeypatch):
    """A layer of a known name that does more."""
    monkeypatch.setattr(ways, "_FOUND", {})  # another model of this class may have been tried
    net = model("Qwen2")
    kind = type(net.base_model.layers[0])
    other = type(kind.__name__, (kind,), {"forward": lambda self, x, **more: 1.5 * kind.forward(self, x, **more)})
    net.base_model.layers[0].__class__ = other
    assert kind.__name__ in KNOWN
    found = find_ways(Decoder(net.base_model), trial_ids(V, ()))
    assert found == Ways(line=found.line) and not found.blocks


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("look", [2, 8, 100])
def test_rows_that_go_on_until_somebody_looks_are_what_they_were(look, blocks):
    net = model("Qwen2")
    for made, real in zip(completions(net, blocks, look=look), completions(net, blocks), strict=True):
        assert made.ids.tolist() == real.ids.tolist() and made.stop == real.stop
        torch.testing.assert_close(made.logp, real.logp, rtol=0, atol=1e-6)
