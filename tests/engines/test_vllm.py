"""The contract of the vLLM engine, on vLLM itself: ids in and out, and the trainer's log-probs after every sync.

Run with `make test-vllm`; on a machine without CUDA that is vLLM's CPU build.
"""

from __future__ import annotations

import importlib.util
import random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mmrl  # noqa: F401  (hooks torchvision before transformers is imported)
from mmrl.engines.agreement import EngineMismatch, default_tolerance
from mmrl.engines.base import Sampling
from mmrl.engines.http_client import ServerError
from mmrl.engines.load import load_engine
from mmrl.engines.remote import StaleWeights
from mmrl.engines.vllm import VllmEngine
from mmrl.modalities.tokens.outside import merged_weights

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),  # the first import compiles and reads gigabytes
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
VOCABULARY, TOLERANCE = 160, 2e-5
OPTIONS = {} if torch.cuda.is_available() else {"kv_cache_memory_bytes": 64 << 20}
PROMPTS = [torch.tensor([10, 11, 12]), torch.tensor([20]), torch.tensor([10, 11, 12, 13, 14])]
BANNED = (7, 8, 30)
SEEDS = [[i * 8 + k for k in range(8)] for i in range(3)]


def tiny(kind: str, tied: bool):
    """A random model whose next-token distributions are far from uniform (head_dim 32)."""
    import transformers

    name = {"qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma2", "qwen3_moe": "Qwen3Moe"}[kind]
    extra: dict = {} if kind == "qwen2" else {"head_dim": 32}
    if kind == "qwen3_moe":
        extra |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1}
    if kind == "gemma2":  # caps that a model of this size reaches
        extra |= {"query_pre_attn_scalar": 32, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.08,
        **extra,
    )
    config._attn_implementation = "eager"  # sdpa has no soft cap
    return getattr(transformers, f"{name}ForCausalLM")(config).float().eval()


def ids_of(rows) -> list[int]:
    return torch.cat([c.ids for row in rows for c in row]).tolist()


def perturb(model, scale: float = 0.02) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn_like(p))


def trainer_logp(model, prompt, ids, temperature=1.0, banned=()):
    """Teacher forcing by the definition: log-softmax of logits / temperature, banned ids removed."""
    with torch.no_grad():
        logits = model(torch.cat([prompt, ids])[None]).logits[0, len(prompt) - 1 : -1].float() / temperature
    logits[:, list(banned)] = -torch.inf
    return logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]


def compare(engine, model, sampling, n=2, tolerance=TOLERANCE, first_seed=0):
    seeds = [[first_seed + 10 * i + k for k in range(n)] for i in range(len(PROMPTS))]
    rows = engine.generate(PROMPTS, n, sampling, seeds)
    completions = [c for row in rows for c in row]
    logp = [
        trainer_logp(model, prompt, c.ids, sampling.temperature or 1.0, sampling.banned)
        for prompt, row in zip(PROMPTS, rows)
        for c in row
    ]
    return engine.verify(completions, logp, logp, tolerance)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A base model in a folder, a PEFT model over it, and a folder for its adapters."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("lora")
    base = tiny("qwen2", True)
    base.save_pretrained(folder / "base")
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM")
    return get_peft_model(base, lora).eval(), folder


def train(model) -> None:
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_" in name:
                p.add_(0.1 * torch.randn_like(p))


def test_lora_adapters_and_merged_weights_follow_the_trainer(adapters):
    model, folder = adapters
    options = {**OPTIONS, "max_lora_rank": 8}
    engine = VllmEngine(folder / "base", dtype="float32", max_model_len=64, lora=True, options=options)
    gaps = [compare(engine, model, Sampling(max_tokens=12))]  # an adapter starts as no change
    for version in (1, 2, 3):
        before = compare(engine, model, Sampling(max_tokens=12))
        train(model)
        with pytest.raises(EngineMismatch):
            compare(engine, model, Sampling(max_tokens=12), tolerance=100 * before)
        engine.sync_lora(model.save_pretrained, version)
        gaps.append(compare(engine, model, Sampling(max_tokens=12)))
    print(f"largest log-prob difference with LoRA {max(gaps):.2e}")
    with pytest.raises(RuntimeError, match="sync_lora"):
        engine.sync(model.state_dict().items(), 4)
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.generate(PROMPTS, 1, Sampling(), [[1], [2], [3]])

    merged = VllmEngine(folder / "base", dtype="float32", max_model_len=64, options=OPTIONS)
    with pytest.raises(ValueError, match="merge the adapter"):
        merged.sync(model.state_dict().items(), 1)
    model.merge_adapter()
    weights = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): w
        for name, w in model.state_dict().items()
        if ".lora_" not in name
    }
    merged.sync(weights.items(), 1)
    assert compare(merged, model, Sampling(max_tokens=12)) < TOLERANCE
    model.unmerge_adapter()
    merged.close()


# Engines that are closed again come before the one of `pair`, which stays: a process has one at a time.


def test_a_model_without_a_head_of_its_own_follows_the_trainer(tmp_path):
    """vLLM's Gemma-2 refuses a head, and applies soft caps."""
    model = tiny("gemma2", True)
    model.save_pretrained(tmp_path)
    engine = VllmEngine(tmp_path, dtype="float32", max_model_len=64, options=OPTIONS)
    gaps = [compare(engine, model, Sampling(max_tokens=12))]
    perturb(model)
    with pytest.raises(EngineMismatch):
        compare(engine, model, Sampling(max_tokens=12))
    engine.sync(merged_weights(model), 1)
    gaps.append(compare(engine, model, Sampling(max_tokens=12)))
    engine.close()
    print(f"gemma2: largest log-prob differences {gaps}")
    assert max(gaps) < TOLERANCE


def test_experts_are_sent_under_names_that_vllm_reads(tmp_path):
    """In memory they are one tensor a layer. What a sync sends is read as a checkpoint here: vLLM's CPU build does not
    pack experts again when weights are exchanged."""
    model = tiny("qwen3_moe", False)
    model.save_pretrained(tmp_path)
    perturb(model)
    sent = {name: weight.contiguous().clone() for name, weight in merged_weights(model)}
    save_file(sent, tmp_path / "model.safetensors", metadata={"format": "pt"})
    engine = VllmEngine(tmp_path, dtype="float32", max_model_len=64, options=OPTIONS)
    assert compare(engine, model, Sampling(max_tokens=12)) < TOLERANCE
    engine.close()


def test_16_bits_are_within_their_bound_and_other_weights_are_not(tmp_path):
    model = tiny("qwen2", True)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    tolerance = default_tolerance("bfloat16")
    engine = VllmEngine(tmp_path, dtype="bfloat16", max_model_len=64, options=OPTIONS)
    gaps = [compare(engine, model, Sampling(max_tokens=40), n=4, tolerance=tolerance)]
    perturb(model, 0.01)
    with pytest.raises(EngineMismatch):
        compare(engine, model, Sampling(max_tokens=40), n=4, tolerance=tolerance)
    engine.sync(model.state_dict().items(), 1)
    gaps.append(compare(engine, model, Sampling(max_tokens=40), n=4, tolerance=tolerance))
    engine.close()
    print(f"bfloat16: largest log-prob differences {gaps}")


@pytest.fixture(scope="module", params=[("qwen2", True), ("qwen3", False)], ids=str)
def pair(request, tmp_path_factory):
    """A trainer's model and an engine that was loaded from the same folder."""
    kind, tied = request.param
    folder = tmp_path_factory.mktemp(f"{kind}-{tied}")
    model = tiny(kind, tied)
    model.save_pretrained(folder)
    section = {"name": "vllm", "dtype": "float32", "max_model_len": 64, "options": OPTIONS}
    engine = load_engine(section, model, None, folder)
    yield model, engine
    engine.close()


def test_log_probs_follow_the_trainer_through_updates(pair, record_property):
    model, engine = pair
    gaps = [compare(engine, model, Sampling(max_tokens=12))]
    for version in range(1, 5):
        perturb(model)
        engine.sync(model.state_dict().items(), version)
        assert engine.version == version
        gaps.append(compare(engine, model, Sampling(max_tokens=12), first_seed=100 * version))
    assert max(gaps) < TOLERANCE
    print(f"largest log-prob difference {max(gaps):.2e}")


def test_a_sync_without_the_head_by_name_is_completed(pair):
    """`parameters` of a tied model name the embeddings alone."""
    model, engine = pair
    perturb(model)
    engine.sync(model.named_parameters(), 10)
    assert compare(engine, model, Sampling(max_tokens=12)) < TOLERANCE


def test_verify_finds_weights_that_did_not_arrive(pair):
    """What vLLM does when a tied checkpoint is reloaded as it is: the head keeps its old values, without an error."""
    model, engine = pair
    if not model.config.tie_word_embeddings:
        pytest.skip("an untied head has a name of its own")
    perturb(model)
    without_head = {name: w for name, w in model.state_dict().items() if name != "lm_head.weight"}
    engine._backend.load(lambda: iter(without_head.items()), 11)
    with pytest.raises(EngineMismatch, match=r"tied to the embeddings.*send lm_head\.weight"):
        compare(engine, model, Sampling(max_tokens=12))
    engine.sync(model.state_dict().items(), 12)
    assert compare(engine, model, Sampling(max_tokens=12)) < TOLERANCE


def test_temperature_and_bans_are_in_the_log_probs(pair):
    model, engine = pair
    assert compare(engine, model, Sampling(temperature=0.7, banned=BANNED, max_tokens=12)) < TOLERANCE
    assert compare(engine, model, Sampling(temperature=2.0, banned=BANNED, max_tokens=12)) < TOLERANCE
    with pytest.raises(EngineMismatch, match="temperature, bans"):
        seeds = [[1], [2], [3]]
        rows = engine.generate(PROMPTS, 1, Sampling(temperature=0.5, max_tokens=12), seeds)
        wrong = [trainer_logp(model, p, row[0].ids, 1.0) for p, row in zip(PROMPTS, rows)]
        engine.verify([row[0] for row in rows], wrong, wrong, 1e-3)


def test_draws_have_the_distribution_of_the_log_probs(pair):
    """4000 first tokens, one seed each, against the trainer's probabilities: chi-square over ids expected 8 times."""
    model, engine = pair
    count, banned, heat = 4000, list(BANNED), 0.7
    seeds = [[7919 * i for i in range(count)]]
    drawn = engine.generate(PROMPTS[:1], count, Sampling(temperature=heat, banned=BANNED, max_tokens=1), seeds)[0]
    with torch.no_grad():
        logits = model(PROMPTS[0][None]).logits[0, -1] / heat
    logits[banned] = -torch.inf
    expected = count * logits.double().softmax(0)
    found = torch.bincount(torch.cat([c.ids for c in drawn]), minlength=VOCABULARY).double()
    often = expected >= 8
    cells = [torch.cat([x[often], x[~often].sum()[None]]) for x in (found, expected)]
    statistic, freedom = float(((cells[0] - cells[1]) ** 2 / cells[1]).sum()), len(cells[0]) - 1
    print(f"chi-square {statistic:.1f} with {freedom} degrees of freedom")
    assert freedom > 20 and statistic < freedom + 4 * (2 * freedom) ** 0.5


def test_banned_ids_are_never_sampled_where_they_would_be_likely(pair):
    """The 40 ids that were sampled most often are banned; with the same seeds none of them comes."""
    _, engine = pair
    free = ids_of(engine.generate(PROMPTS, 8, Sampling(max_tokens=40), SEEDS))
    likely = tuple(sorted(set(free), key=free.count)[-40:])
    ids = ids_of(engine.generate(PROMPTS, 8, Sampling(banned=likely, max_tokens=40), SEEDS))
    assert len(free) == len(ids) == 3 * 8 * 40
    assert sum(free.count(i) for i in likely) > 240
    assert not set(ids) & set(likely)


def test_stop_ids_end_a_completion_and_belong_to_it(pair):
    """Of completions that nothing ends, the first stop id is where the same seeds end with it."""
    _, engine = pair
    free = engine.generate(PROMPTS, 8, Sampling(max_tokens=40), SEEDS)
    assert all(len(c.ids) == 40 and c.stop == "length" for row in free for c in row)
    stops = tuple(range(100, 110))
    ended = engine.generate(PROMPTS, 8, Sampling(stop_ids=stops, max_tokens=40), SEEDS)
    for whole, cut in [(w.ids.tolist(), c) for x, y in zip(free, ended) for w, c in zip(x, y)]:
        end = next((i + 1 for i, token in enumerate(whole) if token in stops), None)
        assert cut.ids.tolist() == whole[:end]
        assert cut.stop == ("eos" if end else "length")
    assert {c.stop for row in ended for c in row} >= {"eos"}


def test_the_models_own_end_is_an_id_like_any_other(pair):
    """`eos_token_id` of the checkpoint is 2: made likely, it does not end a completion that names no stop ids."""
    _, engine = pair
    banned = tuple(i for i in range(VOCABULARY) if i not in (2, 3))
    rows = engine.generate(PROMPTS, 2, Sampling(banned=banned, max_tokens=40), [[1, 2], [3, 4], [5, 6]])
    assert all(len(c.ids) == 40 and c.stop == "length" for row in rows for c in row)
    assert 2 in ids_of(rows)


def test_mixed_precision_of_the_caller_stays_outside(pair):
    model, engine = pair
    with torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=torch.bfloat16):
        rows = engine.generate(PROMPTS, 1, Sampling(max_tokens=12), [[1], [2], [3]])
    logp = [trainer_logp(model, prompt, row[0].ids) for prompt, row in zip(PROMPTS, rows)]
    assert engine.verify([row[0] for row in rows], logp, logp, TOLERANCE) < TOLERANCE


def test_seeds_decide(pair):
    _, engine = pair
    sampling, big = Sampling(max_tokens=12), 2**64 - 5
    first = engine.generate(PROMPTS, 2, sampling, [[1, 2], [3, big], [5, 6]])
    again = engine.generate(PROMPTS, 2, sampling, [[1, 2], [3, big], [5, 6]])
    other = engine.generate(PROMPTS, 2, sampling, [[11, 12], [13, 14], [15, 16]])
    alone = engine.generate(PROMPTS[1:2], 1, sampling, [[big]])
    ids = [[[c.ids.tolist() for c in row] for row in rows] for rows in (first, again, other)]
    assert ids[0] == ids[1]
    assert all(a != b for x, y in zip(ids[0], ids[2]) for a, b in zip(x, y))
    assert alone[0][0].ids.tolist() == ids[0][1][1]
    same = engine.generate(PROMPTS[:1], 2, sampling, [[9, 9]])[0]
    assert same[0].ids.tolist() == same[1].ids.tolist()


def test_temperature_zero_is_the_argmax(pair):
    model, engine = pair
    c = engine.generate(PROMPTS[:1], 1, Sampling(temperature=0.0, max_tokens=8), [[0]])[0][0]
    ids = PROMPTS[0]
    for token in c.ids:
        with torch.no_grad():
            assert int(model(ids[None]).logits[0, -1].argmax()) == int(token)
        ids = torch.cat([ids, token[None]])


def test_random_states_of_the_trainer_are_left_alone(pair):
    _, engine = pair
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    want = torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    engine.generate(PROMPTS, 1, Sampling(max_tokens=4), [[1], [2], [3]])
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()) == want


def test_what_does_not_fit_is_refused_before_it_is_cut(pair):
    _, engine = pair
    with pytest.raises(ValueError, match="5 tokens \\+ max_tokens 60 exceeds max_model_len 64"):
        engine.generate(PROMPTS, 1, Sampling(max_tokens=60), [[1], [2], [3]])


def test_a_server_follows_the_trainer(text_server, tmp_path):
    """One server: new weights first, then the first weights again with adapters over them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    url, base = text_server
    seeds, sampling = [[1, 2], [3, 4], [5, 6]], Sampling(temperature=0.8, banned=BANNED, max_tokens=12)
    options = {"url": url, "folder": tmp_path / "weights"}
    engine = VllmEngine(base, mode="server", dtype="float32", options=options)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM")
    peft_model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).eval()
    first = {name: w.clone() for name, w in model.state_dict().items()}
    gaps = [compare(engine, model, sampling)]
    for version in (1, 2, 3):
        perturb(model)
        engine.sync(model.named_parameters(), version)  # without the head by name
        gaps.append(compare(engine, model, sampling))
    (own,) = (tmp_path / "weights").iterdir()
    assert [p.name for p in own.iterdir() if p.is_dir()] == ["version_3"]
    before, again = (engine.generate(PROMPTS, 2, sampling, seeds) for _ in range(2))
    assert ids_of(before) == ids_of(again)
    second = VllmEngine(base, mode="server", dtype="float32", options={"url": url})
    second.sync(first.items(), 1)
    with pytest.raises(StaleWeights, match=r"another run, process .*, sends to it"):
        engine.generate(PROMPTS, 2, sampling, seeds)
    second.close()
    engine.sync(model.named_parameters(), 4)
    gaps.append(compare(engine, model, sampling))
    stops = tuple(range(40, 160))
    ended = engine.generate(PROMPTS, 2, Sampling(stop_ids=stops, max_tokens=40), seeds)
    assert all(int(c.ids[-1]) in stops and c.stop == "eos" for row in ended for c in row)
    with pytest.raises(RuntimeError, match=r"answered 4\d\d: .*vocab"):
        engine.generate([torch.tensor([model.config.vocab_size + 5])], 1, sampling, [[1]])
    engine.sync(first.items(), 5)
    engine.close()

    engine = VllmEngine(base, mode="server", dtype="float32", lora=True, options={"url": url})
    state = peft_model.state_dict()
    peft_model.load_state_dict({k: torch.zeros_like(v) if "lora_B" in k else v for k, v in state.items()})
    gaps.append(compare(engine, peft_model, sampling))
    for version in (1, 2):
        train(peft_model)
        engine.sync_lora(peft_model.save_pretrained, version)
        gaps.append(compare(engine, peft_model, sampling))
    print(f"largest log-prob difference over HTTP {max(gaps):.2e}")
    engine.close()
    with pytest.raises(ServerError, match=r"a model of another shape .hidden_size 64 there, 128 here"):
        VllmEngine(save_other(tmp_path / "other"), mode="server", options={"url": url})


def save_other(folder):
    tiny("qwen2", True).config.save_pretrained(folder)
    return folder
