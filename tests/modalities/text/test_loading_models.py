"""What is refused before weights are read, the attention that is taken, and positions that change with length."""

from __future__ import annotations

import warnings

import pytest
import torch
from test_architectures import PROMPTS, make_models, plain_logprobs, zoo

from mmrl.engines.decoder import Decoder
from mmrl.engines.ways import find_ways, trial_ids
from mmrl.modalities.text.adapter import TextAdapter
from mmrl.modalities.text.config import ModelConfig
from mmrl.modalities.tokens import attention
from mmrl.types import Group, Prompt


@pytest.fixture
def without_weights(tmp_path):
    """without_weights(name or model) -> a folder of it that has no weights any more."""

    def make(model):
        (zoo.build(model) if isinstance(model, str) else model).save_pretrained(tmp_path)
        zoo.build_tokenizer().save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        return tmp_path

    return make


def one_line(error):
    return "\n" not in str(error.value) and len(str(error.value)) < 400


# -------------------------------------------------------------------- attention


@pytest.mark.parametrize("name", ["Gemma 2", "gpt-oss", "Bloom"])
def test_sdpa_is_refused_where_the_class_has_none(without_weights, name):
    with pytest.raises(ValueError, match=r"attention=sdpa cannot be had for .*leave it at auto") as error:
        make_models.policy(without_weights(name), attention="sdpa")
    assert one_line(error)


@pytest.mark.parametrize("name", ["Bloom", "Llama 4 (text)"])
def test_flash_attention_is_refused_where_the_class_has_none(without_weights, name):
    with pytest.raises(ValueError, match="attention=flash_attention_2 cannot be had") as error:
        make_models.policy(without_weights(name), attention="flash_attention_2")
    assert one_line(error)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it may be had there")
def test_flash_attention_is_refused_in_one_line_without_its_package(tmp_path):
    with pytest.raises(ValueError, match=r"flash_attention_2 cannot be had for Llama.*leave it at auto") as error:
        make_models.policy(zoo.write("Llama 2", tmp_path), attention="flash_attention_2")
    assert one_line(error)


def test_a_soft_cap_or_sinks_are_not_left_out(tmp_path):
    """The class of Gemma 3 has sdpa, which knows no soft cap."""
    model = zoo.build("Gemma 3")
    model.config.attn_logit_softcapping = 2.0
    model.save_pretrained(tmp_path)
    zoo.build_tokenizer(chat=False).save_pretrained(tmp_path)
    assert make_models.policy(tmp_path).model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match=r"attention=sdpa cannot be had.*leave a soft cap out"):
        make_models.policy(tmp_path, attention="sdpa")


# -------------------------------------------------------------------- kinds of models


def test_another_kind_of_model_is_refused(without_weights):
    from transformers import T5Config, T5ForConditionalGeneration

    net = T5ForConditionalGeneration(T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8, vocab_size=259))
    with pytest.raises(ValueError, match="a t5 is no causal language model") as error:
        make_models.policy(without_weights(net))
    assert one_line(error)


def test_quantised_weights_are_not_trained_whole(without_weights):
    net = zoo.build("Llama 2")
    net.config.quantization_config = {"quant_method": "fp8"}
    with pytest.raises(ValueError, match=r"quantised \(fp8\); set train: lora"):
        make_models.policy(without_weights(net))


def test_a_model_that_sees_what_comes_is_refused():
    from transformers import BertConfig, BertLMHeadModel

    numbers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    net = BertLMHeadModel(BertConfig(vocab_size=99, initializer_range=0.5, **numbers)).eval()
    with pytest.raises(ValueError, match=r"sees? what is behind them"):
        find_ways(Decoder(net.base_model), trial_ids(99, (0,)))


# -------------------------------------------------------------------- LongRoPE


def roll(policy, prompts):
    return [s for g in policy.rollout([Group(p, i) for i, p in enumerate(prompts)], 2, 0, 0) for s in g.samples]


def test_longrope_stays_below_its_original_length(tmp_path):
    folder = zoo.write("Phi-3 (longrope)", tmp_path)
    with pytest.warns(UserWarning, match="positions change at 96 tokens.*set max_prompt_tokens"):
        policy = TextAdapter(ModelConfig(path=str(folder), chat="off", sampling={"max_tokens": 10}))
    assert policy.usable(Prompt("long", "a" * 86)) is None
    assert "87" in policy.usable(Prompt("long", "a" * 87))
    samples = roll(policy, [*PROMPTS, Prompt("long", "a" * 86)])
    for sample, wanted in zip(samples, plain_logprobs(folder, samples, policy.banned)):
        torch.testing.assert_close(sample.trajectory.logp, wanted, rtol=0, atol=2e-4)


def test_longrope_takes_the_long_positions_where_the_budget_needs_them(tmp_path):
    """Rows over the original length are the plain model's from their first token, and shorter ones next to them are
    what they are alone: transformers itself would compute a whole batch by its longest row."""
    folder = zoo.write("Phi-3 (longrope)", tmp_path)
    with pytest.warns(UserWarning, match="long positions"):
        config = ModelConfig(path=str(folder), chat="off", sampling={"max_tokens": 20}, max_prompt_tokens=90)
        policy = TextAdapter(config)
    prompts = [Prompt("long", "a" * 90), *PROMPTS]
    samples = roll(policy, prompts)
    replayed = policy.logprobs(samples, torch.arange(20)).logp.detach()
    longer = [i for i, s in enumerate(samples) if 90 + len(s.trajectory.logp) > 96 and s.prompt.id == "long"]
    assert longer
    for i, wanted in zip(longer, plain_logprobs(folder, [samples[i] for i in longer], policy.banned)):
        torch.testing.assert_close(samples[i].trajectory.logp, wanted, rtol=0, atol=2e-4)
        torch.testing.assert_close(replayed[i, : len(wanted)], wanted, rtol=0, atol=2e-4)
    alone = policy.logprobs(samples[-2:], torch.arange(20)).logp.detach()
    torch.testing.assert_close(replayed[-2:], alone, rtol=0, atol=1e-4)
    torch.testing.assert_close(alone[0, :3], samples[-2].trajectory.logp[:3], rtol=0, atol=1e-4)


def test_other_models_are_not_warned_of(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy = TextAdapter(ModelConfig(path=str(zoo.write("Llama 3", tmp_path)), sampling={"max_tokens": 10}))
    assert policy.context == 256


# -------------------------------------------------------------------- models of several parts


def paligemma2():
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    text = {"model_type": "gemma2", "vocab_size": 99, "hidden_size": 16, "intermediate_size": 16, "head_dim": 8}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    sees = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sees |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 16}
    return PaliGemmaForConditionalGeneration(PaliGemmaConfig(text_config=text, vision_config=sees, image_token_id=98))


def test_each_part_of_a_model_has_the_attention_that_it_can_have():
    model = paligemma2()
    attention.settle(model, ModelConfig(path="none"))
    parts = model.config.text_config._attn_implementation, model.config.vision_config._attn_implementation
    assert parts == ("eager", "sdpa")
    with pytest.raises(ValueError, match=r"attention=sdpa cannot be had for .*leave it at auto"):
        attention.settle(paligemma2(), ModelConfig(path="none", attention="sdpa"))
