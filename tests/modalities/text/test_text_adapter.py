"""The text adapter: its contract on every kind of model, what it stores, its features, losses, reference and files."""

from __future__ import annotations

import math

import pytest
import torch

from mmrl.modalities.text.adapter import TextAdapter
from mmrl.modalities.text.config import ModelConfig
from mmrl.modalities.tokens.annealing import temperatures
from mmrl.modalities.tokens.config import AnnealingConfig
from mmrl.training.check import check_adapter
from mmrl.types import Prompt

PROMPTS = [Prompt(str(i), text) for i, text in enumerate(["12+30=", "a", "What is three times five?"])]
LORA = {"train": "lora", "lora": {"rank": 2, "alpha": 4}}


def shake(policy, size=0.05):
    """As training would: moves every trained number."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter += size * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("model", [{}, LORA], ids=["full", "lora"])
def test_the_contract_holds(adapter, kind, model):
    policy = adapter(build={"kind": kind}, **model)
    results = check_adapter(policy, PROMPTS, reload=lambda folder: TextAdapter(policy.config.at(folder)))
    assert [(r.name, r.detail) for r in results if not r.passed] == []
    assert len(results) == 24


@pytest.mark.parametrize(
    "model",
    [
        {"sampling": {"annealing": {"d0": 5.0, "start": 2}}},
        {"sampling": {"temperature": 0.7, "top_k": 20, "top_p": 0.9}},
        {"build": {"tied": False}, "fp32_head": True, "logits_chunk": 5},
        {"gradient_checkpointing": True},
        {"chat": "off", "attention": "eager"},
    ],
    ids=["annealing", "top-p", "untied", "checkpointing", "eager"],
)
def test_the_contract_holds_for_other_settings(adapter, model):
    assert [(r.name, r.detail) for r in check_adapter(adapter(**model), PROMPTS) if not r.passed] == []


def test_16_bit_replay_is_close_to_its_rollout(adapter, roll):
    for model in ({}, LORA):
        policy = adapter(dtype="bfloat16", **model)
        samples = roll(policy)
        logp = policy.logprobs(samples, torch.arange(12)).logp.detach()
        for row, sample in zip(logp, samples):
            stored = sample.trajectory.logp
            assert (row[: len(stored)] - stored).abs().max() < 0.05
        assert {p.dtype for p in policy.trainable_parameters().values()} == {torch.float32}


# -------------------------------------------------------------------- what is stored


def test_trajectories_hold_the_ids_that_were_sampled_and_text_is_derived(adapter, roll):
    policy = adapter(build={"corpus": ["aa bb cc dd"] * 9, "vocab": 290}, sampling={"max_tokens": 200})
    samples = roll(policy, n=4)
    for sample in samples:
        ids = sample.trajectory.tensors["ids"]
        assert len(ids) == len(sample.trajectory.logp) == len(sample.trajectory.mask)
        assert sample.artifact == policy.tokenizer.decode(ids, skip_special_tokens=True)
        ended = bool(torch.isin(ids[-1], torch.tensor(policy.stop_ids)))
        assert sample.stop == ("eos" if ended else "length")
        assert not torch.isin(ids[:-1], torch.tensor(policy.stop_ids)).any()
        assert policy.tokenizer.decode(sample.trajectory.tensors["prompt"]).endswith("<|im_start|>assistant\n")
    assert {s.stop for s in samples} == {"eos", "length"}
    # Re-encoding the text would have given other ids: sampled bytes do not come in the tokenizer's own merges.
    again = [policy.tokenizer(s.artifact).input_ids for s in samples]
    assert any(a != s.trajectory.tensors["ids"].tolist() for a, s in zip(again, samples))
    shown = TextAdapter(policy.config.model_copy(update={"skip_special_tokens": False}))
    assert any(s.artifact.endswith("<|im_end|>") for s in roll(shown, n=4))


def test_samples_depend_on_seed_step_id_and_index_only(adapter, roll):
    policy = adapter()

    def ids(**options):
        return [s.trajectory.tensors["ids"].tolist() for s in roll(policy, **options)]

    assert ids() == ids()
    assert ids(n=2)[:2] == ids(n=3)[:2]  # of the first prompt
    assert ids(step=1) != ids() != ids(seed=1)


def test_ead_temperatures_by_hand():
    options = AnnealingConfig(tau_max=1.2, tau_min=0.1, start=10, d0=500, d_growth=100, d_max=800)
    found = temperatures(options, 1, 700)
    assert found[:10] == (1.0,) * 10
    assert found[10] == pytest.approx(2.2 - math.exp(10 / 600))
    assert found[300] == pytest.approx(2.2 - math.exp(0.5))
    assert found[-1] == 0.1 and min(found) == 0.1  # e^(699 / 600) > 2.1
    assert temperatures(options, 50, 700)[300] == pytest.approx(2.2 - math.exp(300 / 800))
    assert temperatures(options, 0, 100_000)[-1] == 0.1
    with pytest.raises(ValueError, match="exclude each other"):
        ModelConfig(path="x", sampling={"temperature": 0.9, "annealing": {}})


# -------------------------------------------------------------------- replay


def test_log_probs_past_the_end_of_a_row_are_zero_and_without_gradient(adapter, roll):
    policy = adapter(sampling={"max_tokens": 200})
    samples = sorted(roll(policy, n=4), key=lambda s: len(s.trajectory.logp))[:4:3]
    short, long = (len(s.trajectory.logp) for s in samples)
    assert short < long
    columns = torch.arange(long)
    logp = policy.logprobs(samples, columns).logp
    assert (logp[0, short:] == 0).all() and (logp[0, :short] < 0).all()
    assert not any(g.any() for g in torch.autograd.grad(logp[0, short:].sum(), policy.trainable_parameters().values()))


def test_slices_leave_out_what_is_not_trained(adapter, roll):
    policy = adapter()
    samples = roll(policy)
    samples[1].trajectory.mask[:] = False
    samples[4].trajectory.mask[3:] = False
    parts = list(policy.slices(samples, 1))
    assert sorted(int(p.rows) for p in parts) == [0, 2, 3, 4, 5]
    assert len(next(p.columns for p in parts if int(p.rows) == 4)) == 3


def test_entropy_is_there_when_asked_and_differentiable(adapter, roll):
    policy = adapter(sampling={"temperature": 0.8})
    samples = roll(policy, n=2)
    columns = torch.arange(12)
    assert policy.logprobs(samples, columns).entropy is None
    found = policy.logprobs(samples, columns, entropy=True)
    tensors = samples[0].trajectory.tensors
    logits = policy.model(torch.cat([tensors["prompt"], tensors["ids"]])[None]).logits
    logp = (logits[0, len(tensors["prompt"]) - 1 : -1] / 0.8).log_softmax(1)
    wanted = -(logp.exp() * logp).sum(1)
    torch.testing.assert_close(found.entropy[0, : len(wanted)], wanted, rtol=0, atol=1e-5)
    parameters = list(policy.trainable_parameters().values())
    made = torch.autograd.grad(found.entropy[0].sum(), parameters, retain_graph=True)
    for a, b in zip(made, torch.autograd.grad(wanted.sum(), parameters)):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_features_by_name(adapter, roll):
    policy = adapter()
    samples = roll(policy)
    columns = torch.arange(12)
    replay = policy.logprobs(samples, columns, entropy=True)
    found = policy.features(samples, columns, ["entropy", "logp", "token_class", "fisher"])
    assert set(found) == {"entropy", "logp", "token_class", "fisher"}
    torch.testing.assert_close(found["entropy"], replay.entropy.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found["logp"], replay.logp.detach(), rtol=0, atol=1e-5)
    digits = policy.features(policy.given(PROMPTS[0], ["a1b", "42"]), torch.arange(4), ["token_class"])
    assert digits["token_class"].tolist() == [[0, 1, 0, 0], [1, 1, 0, 0]]  # a byte a token, then EOS and padding
    assert not any(value.requires_grad for value in found.values())
    with pytest.raises(ValueError, match="features surprise: not known"):
        policy.features(samples, columns, ["surprise"])


def test_checkpointing_recomputes_layers_and_leaves_the_gradient(adapter, roll):
    """The last layer is not: the backward begins with it."""
    calls, counts = [], []
    gradients = []
    for on in (False, True):
        policy = adapter(build={"layers": 2}, gradient_checkpointing=on)
        samples = roll(policy, n=2)
        calls.clear()
        for number, layer in enumerate(policy.model.base_model.layers):
            layer.self_attn.q_proj.register_forward_hook(lambda *_, number=number: calls.append(number))
        loss = policy.logprobs(samples, torch.arange(12)).logp.sum()
        gradients.append(torch.autograd.grad(loss, list(policy.trainable_parameters().values())))
        assert not policy.model.training
        counts.append(list(calls))
    assert counts == [[0, 1], [0, 1, 0]]  # all rows in one line
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------- supervised


RECORDS = [{"id": "a", "prompt": "1+1=", "completion": "2"}, {"id": "b", "prompt": "Who?", "completion": "Nobody."}]


def token_losses(policy):
    """-log p of every answer token with transformers' own forward, record by record."""
    found = []
    for record in RECORDS:
        chat = f"<|im_start|>user\n{record['prompt']}<|im_end|>\n<|im_start|>assistant\n"
        prompt, answer = (policy.tokenizer(t).input_ids for t in (chat, record["completion"] + "<|im_end|>"))
        logits = policy.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        found.append(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="none"))
    return torch.cat(found)


def test_sft_is_the_mean_cross_entropy_over_answer_tokens(adapter):
    policy = adapter(sampling={"temperature": 0.5})  # which is of sampling only
    wanted = token_losses(policy)
    assert len(wanted) == len("2") + len("Nobody.") + 2 == policy.supervised_weight(RECORDS)
    loss = policy.supervised_loss(RECORDS, "sft", 0)
    torch.testing.assert_close(loss, wanted.mean(), rtol=1e-5, atol=1e-6)
    parameters = list(policy.trainable_parameters().values())
    for a, b in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(wanted.mean(), parameters)):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_phi_weighs_each_token_by_p_times_1_minus_p(adapter):
    policy = adapter()
    wanted = token_losses(policy)
    p = torch.exp(-wanted.detach())
    wanted = (p * (1 - p) * wanted).mean()
    loss = policy.supervised_loss(RECORDS, "sft_phi", 0)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-7)
    parameters = list(policy.trainable_parameters().values())
    for a, b in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(wanted, parameters)):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-7)


def test_supervised_errors_name_what_is_wrong(adapter):
    policy = adapter()
    with pytest.raises(ValueError, match=r"objective 'dpo'.*sft, sft_phi, sft_first"):
        policy.supervised_loss(RECORDS, "dpo", 0)
    with pytest.raises(ValueError, match=r"record 'c'.*`completion`"):
        policy.supervised_loss([{"id": "c", "prompt": "x"}], "sft", 0)


def test_given_answers_are_scored_like_sampled_ones(adapter, roll):
    policy = adapter(sampling={"max_tokens": 200})
    sampled = [s for s in roll(policy, n=4) if s.stop == "eos"]
    assert sampled
    for sample in sampled:
        (given,) = policy.given(sample.prompt, [sample.trajectory.tensors["ids"].tolist()])
        assert given.artifact == sample.artifact and given.trajectory.mask.all()
        columns = torch.arange(len(sample.trajectory.logp))
        logp = policy.logprobs([given], columns).logp[0].detach()
        torch.testing.assert_close(logp, sample.trajectory.logp, rtol=0, atol=1e-5)
    texts = policy.given(PROMPTS[0], ["42", ""])
    assert [s.index for s in texts] == [0, 1] and [s.artifact for s in texts] == ["42", ""]
    assert [len(s.trajectory.mask) for s in texts] == [3, 1]


# -------------------------------------------------------------------- evaluation, engines, disk


def test_greedy_evaluation_repeats_for_every_seed(adapter):
    policy = adapter(evaluation={"temperature": 0, "max_tokens": 5})
    assert policy.deterministic_evaluation
    answers = [[s.artifact for g in policy.evaluate(PROMPTS, 2, seed) for s in g.samples] for seed in (0, 1)]
    assert answers[0] == answers[1] and answers[0][0] == answers[0][1]
    prompt = policy.reader.prompts.ids(policy.reader.prompts.opening(PROMPTS[0]))
    wanted = policy.model.generate(prompt[None], attention_mask=torch.ones(1, len(prompt)), do_sample=False,
                                   max_new_tokens=5, eos_token_id=list(policy.stop_ids))  # fmt: skip
    assert answers[0][0] == policy.tokenizer.decode(wanted[0, len(prompt) :], skip_special_tokens=True)


class Other:
    """An engine with its own weights, whose log-probs are off by `error`."""

    exact = False
    error, lora, closed, max_model_len = 0.0, False, False, 2**31

    def __init__(self, policy, path):
        self.policy, self.path, self.synced, self.tolerances, self.rests = policy, path, [], [], 0

    def sync(self, weights, version, once):
        once(lambda: self.synced.append((version, {name: tensor.clone() for name, tensor in weights})))

    def close(self):
        self.closed = True

    def generate(self, prompts, n, sampling, seeds):
        made = self.policy._own_engine().generate(prompts, n, sampling, seeds)
        for completion in (c for row in made for c in row):
            completion.logp = completion.logp + self.error
        return made

    def rest(self):
        self.rests += 1

    def verify(self, completions, lows, highs, tolerance):
        self.tolerances.append(tolerance)
        for completion, low, high in zip(completions, lows, highs, strict=True):
            assert bool((completion.logp >= low - tolerance).all() and (completion.logp <= high + tolerance).all())


@pytest.fixture
def outside(adapter, monkeypatch):
    """outside(**model) -> a policy that samples through Other, and a function that returns it once it is made."""
    import mmrl.engines.load

    def make(**model):
        policy = adapter(engine={"name": "vllm", "options": {"mode": "colocated"}}, **model)
        made = []

        def load_engine(section, model, tokenizer, path):
            assert section == {"name": "vllm", "dtype": "float32", "mode": "colocated"}
            made.append(Other(policy, path))
            return made[-1]

        monkeypatch.setattr(mmrl.engines.load, "load_engine", load_engine)
        return policy, lambda: made[0]

    return make


def test_log_probs_of_another_engine_are_kept_replaced_and_compared(outside, roll, monkeypatch):
    monkeypatch.setattr(Other, "error", 5e-4)
    policy, engine = outside()
    for sample in roll(policy):
        stored = sample.trajectory
        torch.testing.assert_close(stored.tensors["logp_sampler"], stored.logp + 5e-4, rtol=0, atol=1e-5)
    assert engine().tolerances == [1e-3]
    monkeypatch.setattr(Other, "error", 2e-3)
    with pytest.raises(AssertionError):
        roll(policy)
    assert [version for version, _ in engine().synced] == [1, 2]


def test_weights_are_sent_once_while_they_stay_as_they_are(outside, roll):
    policy, engine = outside()
    sent = []

    def once(action):
        sent.append(action)
        action()

    with policy.synced(once):
        roll(policy, ("12+3=",)), roll(policy, ("What is 5 times 7?",))
    assert len(engine().synced) == len(sent) == 1
    roll(policy), roll(policy)  # nobody said that they stay
    assert [version for version, _ in engine().synced] == [1, 2, 3] and len(sent) == 1
    policy.close()
    policy.close()
    assert engine().closed


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model", [{}, LORA], ids=["full", "lora"])
def test_an_engine_gets_merged_weights_under_a_checkpoints_names(outside, roll, model, tied):
    from transformers import AutoModelForCausalLM

    policy, engine = outside(build={"tied": tied}, **model)
    shake(policy)
    samples = roll(policy)
    copy = AutoModelForCausalLM.from_pretrained(engine().path).eval()  # what the engine began with
    (_, weights), ids = engine().synced[0], torch.arange(10, 30)[None]
    assert "lm_head.weight" in weights
    with torch.no_grad():
        assert (copy(ids).logits - policy.model(ids).logits).abs().max() > 1e-3
        assert copy.load_state_dict(weights, strict=True)
        torch.testing.assert_close(copy(ids).logits, policy.model(ids).logits, rtol=0, atol=1e-5)
    assert len(samples) == 6


def test_an_answer_longer_than_the_context_is_named(adapter):
    policy = adapter(build={"context": 64})
    with pytest.raises(ValueError, match=r"prompt '0' with answer 1 has .* the context has 64"):
        policy.given(PROMPTS[0], ["short", "x" * 60])


def test_lora_files_are_pefts_own(adapter, roll, tmp_path):
    from peft import PeftModel

    policy = adapter(**LORA)
    shake(policy)
    policy.save(tmp_path / "lora")
    assert {f.name for f in (tmp_path / "lora").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    base = adapter().model
    loaded = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    samples = roll(policy, n=1)
    tensors = samples[0].trajectory.tensors
    ids = torch.cat([tensors["prompt"], tensors["ids"]])[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, policy.model(ids).logits, rtol=0, atol=1e-5)
    again = TextAdapter(policy.config.at(tmp_path / "lora"))
    assert list(again.trainable_parameters()) == list(policy.trainable_parameters())


def test_a_saved_policy_is_an_ordinary_model_folder(adapter, tmp_path):
    from transformers import AutoModelForCausalLM

    policy = adapter()
    shake(policy)
    policy.save(tmp_path / "full")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, policy.model(ids).logits)


def test_models_that_cannot_be_used_are_refused(adapter, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config.json"):
        TextAdapter(ModelConfig(path=str(tmp_path)))
    with pytest.raises(ValueError, match="known are qwen2, qwen3, llama"):
        adapter(build={"kind": "gpt"})
    with pytest.raises(ValueError, match=r"lora.targets 'lm_head': no such layer in Qwen3ForCausalLM"):
        adapter(build={"tied": False}, train="lora", lora={"targets": ["lm_head", "q_proj"]})


def test_a_forward_that_does_more_to_its_logits_is_noticed(adapter):
    from mmrl.modalities.tokens.loading import check_head

    policy = adapter()
    head = policy._head()
    check_head(policy.model, head)
    head.scale = 0.5
    with pytest.raises(ValueError, match="does more than a linear head"):
        check_head(policy.model, head)


def test_a_run_from_config_to_checkpoint_and_back(tmp_path):
    """Rewards of answers with digits rise; the run stops between two micro-batches and goes on to the same weights."""
    import mmrl
    from mmrl.training.run_folder import released

    (tmp_path / "prompts.txt").write_text("one\ntwo words\nthree\nfour\n", encoding="utf-8")
    reward = "def digits(samples):\n    return [sum(c.isdigit() for c in s.artifact) / 8 for s in samples]\n"
    (tmp_path / "digits.py").write_text(reward, encoding="utf-8")
    build = {"kind": "qwen2", "hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1}
    stage = {"kind": "grpo", "steps": 6, "groups": 2, "samples": 8, "updates": 2, "micro_batch": 200,
             "optim": {"lr": 2e-2}}  # fmt: skip
    values = {
        "modality": "text",
        "out": str(tmp_path / "runs"),
        "device": "cpu",
        "threads": 1,
        "model": {"path": "built", "build": build, "sampling": {"max_tokens": 8}},
        "data": {"prompts": str(tmp_path / "prompts.txt"), "eval_prompts": str(tmp_path / "prompts.txt")},
        "rewards": [{"name": f"{tmp_path / 'digits.py'}:digits"}],
        "stages": [stage],
        "eval": {"samples": 8},
    }

    def weights(name):
        return (tmp_path / "runs" / name / "checkpoints" / "latest" / "policy" / "model.safetensors").read_bytes()

    with released(tmp_path / "runs" / "whole"):
        summary = mmrl.train({**values, "name": "whole"}, quiet=True)
    after, before = (next(iter(summary[when].values())) for when in ("after", "before"))
    assert after > before + 0.1
    seen = []
    with released(tmp_path / "runs" / "cut"), pytest.raises(Exception, match="stopped and saved"):
        mmrl.train({**values, "name": "cut"}, quiet=True, should_stop=lambda p: seen.append(p) or len(seen) == 9)
    with released(tmp_path / "runs" / "cut"):
        mmrl.train({**values, "name": "cut"}, quiet=True, resume=True)
    assert weights("cut") == weights("whole")
