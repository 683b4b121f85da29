"""A policy that is sampled elsewhere: what is compared, what fits, and under which names weights are sent."""

from __future__ import annotations

import tempfile

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import mmrl.engines.load
from mmrl.engines.agreement import EngineMismatch, measure
from mmrl.environments.base import Context, Reply
from mmrl.modalities.text.config import ModelConfig
from mmrl.modalities.tokens.outside import merged_weights
from mmrl.types import Prompt

LORA = {"train": "lora", "lora": {"rank": 2, "alpha": 4}}
CUTS = [{"top_k": 5}, {"top_p": 0.8}, {"top_k": 9, "top_p": 0.6}, {"top_k": 1}, {"top_k": 10_000, "top_p": 0.999}]


def cut_logp(logits, top_k, top_p):
    """Log-probs of what is left, one row of logits at a time, by the definition: the k likeliest, then of these the
    fewest whose sum reaches p."""
    p = logits.double().softmax(0)
    order = p.argsort(descending=True).tolist()
    kept = order[: top_k or None]
    whole, total, least = float(p[kept].sum()), 0.0, []
    for token in kept:
        least.append(token)
        total += float(p[token]) / whole
        if total >= top_p:
            break
    left = torch.full_like(p, 0.0)
    left[least] = p[least]
    return (left / left.sum()).log()


class Elsewhere:
    """Holds a copy of the weights, and reports log-probs of what it drew from, as vLLM does."""

    lora, max_model_len = False, 2**31

    def __init__(self, policy):
        self.policy, self.own, self.rests, self.closed = policy, policy._own_engine(), 0, False
        self.held, self.error = {}, 0.0

    def sync(self, weights, version, once):
        self.held = {name: tensor.clone() for name, tensor in weights}

    def sync_lora(self, save, version, once):
        pass

    def generate(self, rows, n, sampling, seeds):
        model = self.policy.model
        now = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.held, strict=False)
        made = self.own.generate(rows, n, sampling, seeds)
        for row, completions in zip(rows, made):
            for completion in completions:
                with torch.no_grad():
                    logits = model(torch.cat([row.ids, completion.ids])[None]).logits[0, len(row) - 1 : -1]
                logits = logits / sampling.temperature
                logits[:, list(sampling.banned)] = -torch.inf
                left = [cut_logp(line, sampling.top_k, sampling.top_p) for line in logits]
                reported = torch.stack([line[token] for line, token in zip(left, completion.ids)])
                completion.logp = reported.float() + self.error
        model.load_state_dict(now)
        return made

    def verify(self, completions, low, high, tolerance):
        found = measure([c.logp for c in completions], low, high)
        if not found.within(tolerance):
            raise EngineMismatch(f"{found}")
        return found.largest

    def rest(self):
        self.rests += 1

    def close(self):
        self.closed = True


@pytest.fixture
def outside(adapter, monkeypatch):
    """outside(**model) -> (a policy that samples through Elsewhere, the engine)."""

    def make(options=None, **model):
        policy = adapter(engine={"name": "vllm", "options": options or {}}, **model)
        engine = Elsewhere(policy)
        monkeypatch.setattr(mmrl.engines.load, "load_engine", lambda *args: engine)
        return policy, engine

    return make


def shake(policy, size):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter += size * torch.randn(parameter.shape, generator=generator)


# -------------------------------------------------------------------- what is compared


@pytest.mark.parametrize("cut", [{}, *CUTS])
def test_every_chunk_is_compared_also_where_the_distribution_is_cut(outside, roll, cut):
    policy, engine = outside(sampling={"temperature": 0.7, **cut})
    shake(policy, 0.3)
    with policy.synced(lambda action: action()):
        for sample in roll(policy):
            stored = sample.trajectory
            assert bool((stored.tensors["logp_sampler"] >= stored.logp - 1e-4).all())
        roll(policy, ("another chunk",))
        engine.held = {name: 1.5 * tensor for name, tensor in engine.held.items()}  # as another run's sync would
        if cut.get("top_k") != 1:  # of one token all are sure
            with pytest.raises(EngineMismatch):
                roll(policy, ("a third chunk",))
    assert engine.rests == 1


@pytest.mark.parametrize("error", [2e-3, -2e-3])
def test_a_cut_hides_no_error(outside, roll, error):
    policy, engine = outside(sampling={"top_k": 5, "top_p": 0.9})
    roll(policy)
    engine.error = error
    with pytest.raises(EngineMismatch):
        roll(policy)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_the_tolerance_is_the_precisions(outside, roll, dtype, tolerance):
    policy, engine = outside(dtype=dtype)
    asked = []
    engine.generate = policy._own_engine().generate
    engine.verify = lambda completions, low, high, tolerance: asked.append(tolerance)
    with policy.synced(lambda action: action()):
        roll(policy), roll(policy)
    assert asked == [tolerance] * 2


# -------------------------------------------------------------------- what fits


def test_a_prompt_that_the_engine_has_no_room_for_is_dropped(outside):
    policy, _ = outside(options={"max_model_len": 40})
    words, room = policy.reader.prompts, 40 - 12
    short, long = Prompt("a", "1"), Prompt("b", "1" * 60)
    assert len(words.ids(words.opening(short))) <= room < len(words.ids(words.opening(long)))
    assert policy.usable(short) is None
    assert f"{room} is the most" in policy.usable(long)


def test_completions_that_leave_no_prompt_are_refused_at_the_start(outside):
    with pytest.raises(
        ValueError, match=r"completions of 12 tokens leave no prompt in engine vllm, whose rows have 12"
    ):
        outside(options={"max_model_len": 12})


class Again:
    answers_cut = True

    def open(self, episode):
        return Context([{"role": "user", "content": episode.prompt.text}])

    def respond(self, episode):
        return Reply("Again!")


def test_a_conversation_ends_where_the_engine_has_no_room_for_another_turn(outside, roll):
    policy, engine = outside(options={"max_model_len": 100}, conversation={"max_turns": 50})
    policy.environment = Again()
    engine.max_model_len = 100
    for sample in roll(policy):
        tensors = sample.trajectory.tensors
        assert sample.stop == "length" and len(tensors["prompt"]) + len(tensors["ids"]) <= 100


def test_an_engine_with_less_room_than_prompts_were_chosen_for_is_refused_before_it_samples(outside, roll):
    policy, engine = outside(build={"context": 128})
    engine.max_model_len = 64
    with pytest.raises(ValueError, match=r"rows of 64 tokens, .* rows of 128; set .*max_model_len to 64"):
        roll(policy)
    assert engine.closed


def test_an_engine_that_does_not_start_leaves_no_weights(adapter, roll, monkeypatch, tmp_path):
    def fails(*args):
        raise RuntimeError("no GPU")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(mmrl.engines.load, "load_engine", fails)
    with pytest.raises(RuntimeError, match="no GPU"):
        roll(adapter(engine={"name": "vllm"}))
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------- names


def moe(kind):
    import transformers

    torch.manual_seed(0)
    size = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "pad_token_id": 0}
    size |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    size |= {"moe_intermediate_size": 12, "num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2}
    size |= {"decoder_sparse_step": 1}
    return getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**size)).eval()


def saved(model, folder):
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["Qwen2Moe", "Qwen3Moe", "Mixtral", "Olmoe", "Qwen2", "Gemma2"])
def test_weights_are_sent_as_a_checkpoint_has_them(kind, tmp_path):
    model = moe(kind)
    files, sent = saved(model, tmp_path), dict(merged_weights(model))
    assert set(sent) - set(files) <= {"lm_head.weight"} and not set(files) - set(sent)
    if kind not in ("Qwen2", "Gemma2"):
        assert any(".experts.0." in name for name in sent)
    for name, tensor in files.items():
        torch.testing.assert_close(sent[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    "targets",
    [{"target_modules": ["q_proj", "o_proj"]}, {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}],
)
def test_lora_is_added_to_weights_of_experts_under_their_names(targets, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(moe("Qwen3Moe"), LoraConfig(r=2, lora_alpha=4, **{"target_modules": [], **targets}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    sent = dict(merged_weights(model.get_base_model()))
    plain = saved(moe("Qwen3Moe"), tmp_path / "plain")
    merged = saved(model.merge_and_unload(), tmp_path / "merged")
    assert set(sent) == set(merged) == set(plain)
    assert sum(not torch.equal(merged[name], tensor) for name, tensor in plain.items()) >= 4
    for name, tensor in merged.items():
        torch.testing.assert_close(sent[name], tensor, rtol=0, atol=1e-6)


# -------------------------------------------------------------------- what is not to be had


@pytest.mark.parametrize(
    "name", ["min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "stop", "stop_strings"]
)
def test_what_other_frameworks_have_is_said_to_be_absent(name):
    with pytest.raises(ValidationError, match=f"{name} is not to be had: .*(environment|reward|top_p)"):
        ModelConfig(path="a", sampling={name: 0.5})
