"""LoRA stands on the decoder alone, changes what it should and nothing else, and is peft's on disk (trap T15)."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmrl.modalities.tokens.outside import merged_weights
from mmrl.modalities.vision.adapter import VisionAdapter

LORA = {"train": "lora", "lora": {"rank": 2, "alpha": 4}}


def trained(policy, samples):
    """One step as training does it: the log-probs of the samples rise."""
    parameters = list(policy.trainable_parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=0.05)
    for _ in range(2):  # in the first one, only the zero half of each pair has a gradient
        optimizer.zero_grad()
        (-policy.logprobs(samples, torch.arange(10)).logp.sum()).backward()
        optimizer.step()
    return policy


# Layers of SigLIP and of its relatives are called as those of the decoder are.
@pytest.mark.parametrize("targets", [None, ["q_proj", "v_proj"]])
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "idefics3", "paligemma"])
def test_only_the_decoder_has_adapters_and_only_they_change(adapter, drawn, ask, roll, kind, targets):
    policy = adapter(kind, train="lora", lora={"rank": 2, "targets": targets})
    language = {id(p) for p in policy.family.language(policy.model).parameters()}
    assert all("lora_" in name and id(p) in language for name, p in policy.trainable_parameters().items())
    assert {id(p) for n, p in policy.model.named_parameters() if "lora_" in n} <= language
    per_layer = 7 if targets is None else 2  # q, k, v, o, gate, up, down
    assert len(policy.trainable_parameters()) == 2 * per_layer * 2

    samples = roll(policy, [ask("What?", drawn(1))])
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    logp = policy.logprobs(samples, torch.arange(10)).logp.detach()
    policy.prepare_reference()
    trained(policy, samples)
    changed = {name for name, p in policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(policy.trainable_parameters())
    assert (policy.logprobs(samples, torch.arange(10)).logp - logp).abs().max() > 1e-3
    torch.testing.assert_close(
        policy.logprobs(samples, torch.arange(10), reference=True).logp_reference, logp, rtol=0, atol=1e-6
    )


def test_targets_outside_of_the_decoder_are_refused(adapter):
    with pytest.raises(
        ValueError, match=r"lora.targets \['qkv'\]: no linear layer of the decoder; there are down_proj"
    ):
        adapter("qwen2_5_vl", train="lora", lora={"targets": ["qkv"]})
    with pytest.raises(ValueError, match="lora leaves the vision tower frozen"):
        adapter(vision="trained", **LORA)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "smolvlm"])
def test_files_are_peft_s_own_and_load_into_the_plain_model(adapter, drawn, ask, roll, tmp_path, kind):
    from peft import PeftModel

    policy = adapter(kind, **LORA)
    prompt = ask("What?", drawn(1))
    samples = roll(policy, [prompt])
    policy = trained(policy, samples)
    policy.save(tmp_path)
    base = adapter(kind)
    loaded = PeftModel.from_pretrained(base.model, tmp_path).eval()
    text = base.reader.prompts.render([{"role": "user", "content": "<image>What?"}])
    encoded = base.processor(text=[text], images=[prompt.record["images"]], return_tensors="pt")
    with torch.no_grad():
        wanted, plain = policy.model(**encoded).logits, adapter(kind).model(**encoded).logits
        torch.testing.assert_close(loaded(**encoded).logits, wanted, rtol=0, atol=1e-5)
    assert (plain - wanted).abs().max() > 1e-2

    again = VisionAdapter(policy.config.at(tmp_path))
    assert list(again.trainable_parameters()) == list(policy.trainable_parameters())
    found = [p.logprobs(samples, torch.arange(10)).logp for p in (policy, again)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_an_engine_would_get_merged_weights_under_a_checkpoints_names(adapter, drawn, ask, roll, tmp_path):
    """T15, for engines that cannot serve adapters: what is sent has changed, and is the whole model."""
    policy = adapter(**LORA)
    prompt = ask("What?", drawn(1))
    trained(policy, roll(policy, [prompt]))
    plain = adapter()
    plain.model.save_pretrained(tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    sent = dict(merged_weights(policy.model))
    assert set(sent) - {"lm_head.weight"} == set(files) - {"lm_head.weight"}
    moved = {name for name, tensor in files.items() if not torch.equal(sent[name], tensor)}
    assert moved and all("visual" not in name and name.endswith("_proj.weight") for name in moved)
    save_file({name: tensor.contiguous().clone() for name, tensor in sent.items()}, tmp_path / "model.safetensors")
    plain.model = type(plain.model).from_pretrained(tmp_path).eval()
    samples = roll(policy, [prompt])
    found = [p.logprobs(samples, torch.arange(10)).logp for p in (policy, plain)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
