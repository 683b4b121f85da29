"""Scores of a text model's scalar head: of which state they are, that no batch changes them, and how they are kept."""

from __future__ import annotations

import math

import pytest
import torch

from mmrl.modalities.adapter import Unsupported
from mmrl.types import Prompt

HEAD = {"outputs": 1, "init": 0.1}
ASKED = Prompt("sum", "12+3=", {"prompt": "12+3="})
OTHER = Prompt("word", "What is 5 times 7?", {"prompt": "What is 5 times 7?"})


def given(policy):
    return [*policy.given(ASKED, ["15", "16, I think"]), *policy.given(OTHER, ["35", ""])]


def whole(policy, sample):
    """A row as one forward of the model reads it, [D] behind its last token."""
    ids = torch.cat([sample.actions.tensors["prompt"], sample.actions.tensors["ids"]])[None]
    return policy.model.model(input_ids=ids, use_cache=False).last_hidden_state[0, -1]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_score_is_the_head_on_the_state_of_the_last_token(adapter, kind, outputs):
    policy = adapter(build={"kind": kind}, head={"outputs": outputs, "init": 0.1})
    samples = given(policy)
    scores = policy.scores(samples)
    assert scores.dtype == torch.float32
    wanted = torch.stack([policy.head.weight @ whole(policy, sample) for sample in samples])
    assert float(wanted.detach().std()) > 1e-3
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-5)
    assert samples[0].actions.tensors["ids"][-1] in policy.stop_ids


@pytest.mark.parametrize(
    "model",
    [{}, {"gradient_checkpointing": True}, {"dtype": "bfloat16"}, {"train": "lora", "lora": {"rank": 2}}],
    ids=["plain", "recomputed", "bfloat16", "lora"],
)
def test_neither_the_batch_nor_shared_prompts_change_scores_or_gradients(adapter, model):
    policy = adapter(head=HEAD, build={"context": 256}, **model)
    loose = 2e-2 if model.get("dtype") else 1e-5
    long = Prompt("long", "word " * 20, {"prompt": "word " * 20})
    samples = [*policy.given(long, ["yes", "no", "maybe so", "a"]), *given(policy)]

    def gradients(parts):
        for parameter in policy.trainable_parameters().values():
            parameter.grad = None
        weights = torch.arange(1.0, len(samples) + 1)[:, None]
        found = torch.zeros(len(samples), 1)
        for part in parts:
            scores = policy.scores([samples[i] for i in part])
            (scores * weights[part]).sum().backward()
            found[part] = scores.detach()
        return found, {k: p.grad for k, p in policy.trainable_parameters().items() if p.grad is not None}

    together, whole_gradient = gradients([list(range(len(samples)))])
    alone, sum_of_parts = gradients([[i] for i in range(len(samples))])
    torch.testing.assert_close(alone, together, rtol=loose, atol=loose)
    assert "head.weight" in whole_gradient and len(whole_gradient) > 1
    assert not any("lm_head" in name for name in whole_gradient)
    scale = max(float(g.abs().max()) for g in whole_gradient.values())
    for name, gradient in whole_gradient.items():
        torch.testing.assert_close(sum_of_parts[name], gradient, rtol=10 * loose, atol=loose * scale)


def test_dropout_of_the_model_is_off(adapter):
    policy = adapter(head=HEAD)
    policy.model.config.attention_dropout = 0.5
    samples = given(policy)
    assert torch.equal(policy.scores(samples), policy.scores(samples))


def test_a_new_head_begins_at_zero(adapter):
    policy = adapter(head={})
    assert policy.scores(given(policy)).abs().max() == 0


def test_without_a_head_there_are_no_scores(adapter):
    policy = adapter()
    assert "head.weight" not in policy.trainable_parameters()
    with pytest.raises(Unsupported, match=r"model\.head"):
        policy.scores(given(policy))


def test_the_reference_scores_as_the_stage_began(adapter):
    policy = adapter(head=HEAD)
    before = policy.scores(given(policy)).detach()
    policy.prepare_reference()
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter.mul_(1.1)
    assert not torch.allclose(policy.scores(given(policy)), before, rtol=1e-3)
    assert torch.equal(policy.scores(given(policy), reference=True), before)


def test_nothing_is_ever_cut(adapter):
    policy = adapter(head=HEAD, build={"context": 40})
    with pytest.raises(ValueError, match="context has 40"):
        policy.given(ASKED, ["12 and 3 " * 10])


# -------------------------------------------------------------------- steps


def test_steps_are_scored_behind_each(adapter):
    policy = adapter(head=HEAD)
    steps = ["10 and 2.", " 12 and 3.", " 15"]
    sample = policy.steps(ASKED, steps)
    scores = policy.scores([sample, *policy.given(ASKED, ["15"])])
    assert scores.shape == (4, 1)
    for number in range(3):
        (alone,) = policy.scores([policy.steps(ASKED, steps[: number + 1])])[-1:]
        torch.testing.assert_close(scores[number], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        scores[2].detach(), (policy.head.weight @ whole(policy, sample)).detach(), rtol=1e-4, atol=1e-5
    )


def test_a_step_without_a_word_is_refused(adapter):
    policy = adapter(head=HEAD)
    with pytest.raises(ValueError, match="step 1 is empty"):
        policy.steps(ASKED, ["a", ""])
    with pytest.raises(ValueError, match="no steps"):
        policy.steps(ASKED, [])


# -------------------------------------------------------------------- on the disk


@pytest.mark.parametrize("train", ["full", "lora"])
def test_saved_and_loaded_it_gives_the_same_numbers(adapter, tmp_path, train):
    from mmrl.modalities.text.adapter import TextAdapter

    lora = {"train": "lora", "lora": {"rank": 2}} if train == "lora" else {}
    policy = adapter(head=HEAD, **lora)
    policy.score_notes = {"mean": 1.5, "std": 0.5}
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter += 0.05
    policy.save(tmp_path)
    again = TextAdapter(policy.config.at(tmp_path))
    assert torch.equal(again.scores(given(again)), policy.scores(given(policy)))
    assert again.score_notes == {"mean": 1.5, "std": 0.5}
    with pytest.raises(ValueError, match="holds a trained head"):
        TextAdapter(policy.config.at(tmp_path).model_copy(update={"head": policy.config.head}))
    two = policy.config.head.model_copy(update={"outputs": 2, "init": 0.0})
    with pytest.raises(ValueError, match=r"1 x 32 .*expected 2 x 32"):
        TextAdapter(policy.config.at(tmp_path).model_copy(update={"head": two}))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("train", ["full", "lora"])
def test_transformers_reads_the_classifier_and_gives_the_same_numbers(adapter, tmp_path, kind, tied, train):
    """One row alone, and several that are padded: the row's last token is a turn's end, and no padding."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    lora = {"train": "lora", "lora": {"rank": 2}} if train == "lora" else {}
    policy, folder = adapter(build={"kind": kind, "tied": tied}, head=HEAD, **lora), tmp_path / "classifier"
    if lora:  # which begins as no change
        base = policy.scores(given(policy)).detach()
        with torch.no_grad():
            for name, parameter in policy.trainable_parameters().items():
                parameter += 0.1 * torch.randn(parameter.shape) * ("lora_" in name)
        assert not torch.allclose(policy.scores(given(policy)), base, rtol=1e-2)
        policy.save_classifier(folder)
    else:
        policy.save(tmp_path)
    model, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not (told["missing_keys"] or told["unexpected_keys"] - {"lm_head.weight"})
    assert model.config.num_labels == 1 and model.config.architectures == [type(model).__name__]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.pad_token_id == tokenizer.pad_token_id not in policy.stop_ids
    samples = given(policy)
    rows = [torch.cat([s.actions.tensors["prompt"], s.actions.tensors["ids"]]) for s in samples]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.config.pad_token_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    wanted = policy.scores(samples).detach()
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=padded, attention_mask=mask).logits, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(input_ids=rows[0][None]).logits, wanted[:1], rtol=1e-4, atol=1e-5)


def test_the_classifier_takes_no_room_for_weights_twice(adapter, tmp_path):
    policy = adapter(head=HEAD)
    policy.save(tmp_path)
    policy.save(tmp_path)  # over itself, as an engine's folder is written again and again
    assert (tmp_path / "classifier" / "policy.safetensors").samefile(tmp_path / "model.safetensors")


def test_a_checkpoint_of_lora_is_small_and_has_no_classifier(adapter, tmp_path):
    adapter(head=HEAD, train="lora", lora={"rank": 2}).save(tmp_path)
    assert not (tmp_path / "classifier").exists()
    assert math.isfinite((tmp_path / "head" / "head.safetensors").stat().st_size)
