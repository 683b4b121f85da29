"""The transformers engine against teacher forcing, generation one by one, hand-made distributions and its own calls."""

from __future__ import annotations

import pytest
import torch
from random_decoders import V, decoder
from scipy.stats import chisquare

import mmrl  # noqa: F401  before transformers: it hooks the import of torchvision
from mmrl.engines.base import Sampling
from mmrl.engines.transformers import TransformersEngine, _invert

PROMPTS = [torch.tensor(ids) for ids in ([5, 6, 7], [9], [20, 21, 22, 23, 24, 25, 26], [5, 6, 8])]


def model(kind="Qwen2", **numbers):
    made = decoder(kind, **{"num_attention_heads": 2, "num_key_value_heads": 1, **numbers})
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(8)  # far from uniform, so that mistakes show
    return made


@pytest.fixture(scope="module")
def qwen():
    return model()


def seeds(n: int, prompts=PROMPTS):
    return [[1000 * i + j for j in range(n)] for i in range(len(prompts))]


def forced(net, prompt, completion, temperature=None, banned=()):
    """log p of each token from one forward of the whole text, without cache, padding or engine."""
    with torch.no_grad():
        logits = net(torch.cat([prompt, completion.ids])[None]).logits[0, len(prompt) - 1 : -1].double()
    logits = logits / (1.0 if temperature is None else temperature)
    logits[:, list(banned)] = -torch.inf
    return logits.log_softmax(1).gather(1, completion.ids[:, None])[:, 0].float()


@pytest.mark.parametrize(
    "kind, numbers",
    [
        ("Qwen2", {}),
        ("Qwen3", {"head_dim": 16}),
        ("Llama", {}),
        ("Mistral", {"sliding_window": 4}),
        ("Gemma2", {"sliding_window": 4, "head_dim": 16, "final_logit_softcapping": 5.0}),
    ],
)
def test_log_probs_equal_teacher_forcing_for_prompts_of_different_lengths(kind, numbers):
    net = model(kind, **numbers)
    head = None
    if kind == "Gemma2":
        head = lambda hidden: 5.0 * torch.tanh(net.lm_head(hidden) / 5.0)  # noqa: E731
    sampling = Sampling(max_tokens=15, stop_ids=(3, 11))
    made = TransformersEngine(net, head).generate(PROMPTS, 3, sampling, seeds(3))
    assert {len(c.ids) for row in made for c in row} != {15}  # some stopped
    for prompt, row in zip(PROMPTS, made):
        for completion in row:
            torch.testing.assert_close(completion.logp, forced(net, prompt, completion), rtol=0, atol=1e-5)


def test_a_completion_is_the_same_alone_and_in_any_batch(qwen):
    sampling = Sampling(max_tokens=20, stop_ids=(3, 11))
    together = TransformersEngine(qwen).generate(PROMPTS, 3, sampling, seeds(3))
    narrow = TransformersEngine(qwen, rows=2).generate(PROMPTS, 3, sampling, seeds(3))
    for i, prompt in enumerate(PROMPTS):
        for j in range(3):
            alone = TransformersEngine(qwen).generate([prompt], 1, sampling, [[seeds(3)[i][j]]])[0][0]
            for other in (together[i][j], narrow[i][j]):
                assert other.ids.tolist() == alone.ids.tolist() and other.stop == alone.stop
                torch.testing.assert_close(other.logp, alone.logp, rtol=0, atol=1e-5)


def test_equal_prompts_are_computed_once_and_give_what_each_gives_alone(qwen, monkeypatch):
    sampling = Sampling(max_tokens=20, stop_ids=(3, 11))
    twice = [PROMPTS[0], PROMPTS[1], PROMPTS[0].clone(), PROMPTS[0]]
    own = [[1], [2], [3], [4]]
    engine, read = TransformersEngine(qwen), []
    run = engine.decoder.run
    monkeypatch.setattr(engine.decoder, "run", lambda rows, **more: read.append(len(rows)) or run(rows, **more))
    together = engine.generate(twice, 1, sampling, own)
    assert read == [2]
    for prompt, (made,), seed in zip(twice, together, own):
        ((alone,),) = TransformersEngine(qwen).generate([prompt], 1, sampling, [seed])
        assert made.ids.tolist() == alone.ids.tolist()
        torch.testing.assert_close(made.logp, alone.logp, rtol=0, atol=1e-5)


def test_a_larger_budget_goes_on_where_a_smaller_one_stopped(qwen):
    short, long = (
        TransformersEngine(qwen).generate(PROMPTS[:1], 2, Sampling(max_tokens=budget), [[7, 8]])[0]
        for budget in (70, 150)  # more than one block of random numbers
    )
    for a, b in zip(short, long):
        assert a.ids.tolist() == b.ids[:70].tolist()
        assert (a.stop, len(b.ids)) == ("length", 150)


def test_stops_at_any_stop_id_and_keeps_it(qwen):
    free = TransformersEngine(qwen).generate(PROMPTS, 4, Sampling(max_tokens=30), seeds(4))
    stopping = TransformersEngine(qwen).generate(PROMPTS, 4, Sampling(max_tokens=30, stop_ids=(3, 11)), seeds(4))
    for a, b in zip((c for row in free for c in row), (c for row in stopping for c in row)):
        ends = [i for i, token in enumerate(a.ids.tolist()) if token in (3, 11)]
        assert b.ids.tolist() == a.ids.tolist()[: ends[0] + 1 if ends else 30]
        assert b.stop == ("eos" if ends else "length")
    assert {c.stop for row in stopping for c in row} == {"eos", "length"}


def test_one_prefill_a_prompt_and_no_forward_of_finished_rows(qwen):
    shapes = []
    hook = qwen.model.register_forward_pre_hook(
        lambda module, args, options: shapes.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    made = TransformersEngine(qwen).generate(PROMPTS, 4, Sampling(max_tokens=30, stop_ids=(3, 11)), seeds(4))
    hook.remove()
    lengths = [len(c.ids) for row in made for c in row]
    going = [sum(length > t for length in lengths) for t in range(1, 30)]
    assert shapes == [(4, 7)] + [(rows, 1) for rows in going if rows]


def test_greedy_is_that_of_transformers(qwen):
    made = TransformersEngine(qwen).generate(PROMPTS, 1, Sampling(temperature=0, max_tokens=10), seeds(1))
    for prompt, (completion,) in zip(PROMPTS, made):
        wanted = qwen.generate(prompt[None], attention_mask=torch.ones(1, len(prompt)), do_sample=False,
                               max_new_tokens=10, eos_token_id=None)  # fmt: skip
        assert completion.ids.tolist() == wanted[0, len(prompt) :].tolist()
        torch.testing.assert_close(completion.logp, forced(qwen, prompt, completion), rtol=0, atol=1e-5)


def test_temperature_banned_ids_and_annealing_are_in_the_log_probs(qwen):
    banned = tuple(range(20, V))
    made = TransformersEngine(qwen).generate(
        PROMPTS, 2, Sampling(temperature=0.7, max_tokens=12, banned=banned), seeds(2)
    )
    for prompt, row in zip(PROMPTS, made):
        for c in row:
            assert c.ids.max() < 20
            torch.testing.assert_close(c.logp, forced(qwen, prompt, c, 0.7, banned), rtol=0, atol=1e-5)
    heat = torch.tensor([1.0, 0.5, 2.0] + [0.25] * 9, dtype=torch.float64)
    annealed = Sampling(max_tokens=12, annealing=(1.0, 0.5, 2.0, 0.25))
    for prompt, row in zip(PROMPTS, TransformersEngine(qwen).generate(PROMPTS, 2, annealed, seeds(2))):
        for c in row:
            torch.testing.assert_close(c.logp, forced(qwen, prompt, c, heat[:, None]), rtol=0, atol=1e-5)


# -------------------------------------------------------------------- from a distribution to a token

P = torch.tensor([0.1, 0.4, 0.0, 0.2, 0.3])


def drawn(qwen, n, **options):
    """First tokens of n samples where the model's distribution is P, and their log-probs."""
    engine = TransformersEngine(qwen, head=lambda hidden: P.log().expand(len(hidden), -1), rows=n)
    made = engine.generate(PROMPTS[:1], n, Sampling(max_tokens=1, **options), [list(range(n))])[0]
    return torch.cat([c.ids for c in made]), torch.cat([c.logp for c in made])


def test_tokens_come_in_the_shares_of_the_distribution(qwen):
    ids, logp = drawn(qwen, 4000)
    counts = torch.bincount(ids, minlength=5)
    assert counts[2] == 0
    real = [0, 1, 3, 4]
    assert chisquare(counts[real].numpy(), (4000 * P[real] / P.sum()).double().numpy()).pvalue > 0.001
    torch.testing.assert_close(logp, P.log()[ids])


def test_a_sample_inverts_the_distribution_at_the_first_number_of_its_stream(qwen):
    ids, _ = drawn(qwen, 50)
    for seed, token in enumerate(ids.tolist()):
        u = float(torch.rand(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        assert token == next(i for i, edge in zip((0, 1, 3, 4), (0.1, 0.5, 0.7, 1.0)) if u < edge)


@pytest.mark.parametrize(
    "options, support",
    [
        ({"top_k": 2}, [1, 4]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.6}, [1, 4]),
        ({"top_p": 0.75}, [1, 3, 4]),
        ({"top_k": 3, "top_p": 0.5}, [1, 4]),  # of the top 3 and their 0.9, 0.4 alone is less than half
    ],
)
def test_top_k_and_top_p_cut_the_support_and_leave_the_log_probs(qwen, options, support):
    ids, logp = drawn(qwen, 400, **options)
    assert ids.unique().tolist() == support
    torch.testing.assert_close(logp, P.log()[ids])
    share = (ids == 1).float().mean()
    assert abs(float(share) - float(P[1] / P[support].sum())) < 0.1


def test_the_ends_of_the_unit_interval_never_give_an_impossible_token():
    p = torch.tensor([[0.0, 0.5, 0.5, 0.0]]).repeat(3, 1)
    below_one = torch.nextafter(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    uniform = torch.stack([torch.zeros((), dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64), below_one])
    assert _invert(p, uniform).tolist() == [1, 2, 2]
