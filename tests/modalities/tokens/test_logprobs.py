"""Chunked log-probabilities against the dense computation, its autograd, closed forms and its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from mmrl.modalities.tokens.logprobs import Head, token_features, token_logprobs

TOKENS, WIDTH, VOCAB = 11, 5, 17
BANNED = [3, 16]


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    hidden, weight, bias = draw(TOKENS, WIDTH), draw(VOCAB, WIDTH), draw(VOCAB)
    ids = torch.tensor([0, 1, 2, 4, 5, 6, 7, 15, 14, 1, 1])  # none of them banned
    heat = 0.5 + torch.rand(TOKENS, generator=generator, dtype=dtype)
    return hidden, weight, bias, ids, heat, draw(TOKENS), draw(TOKENS)


def dense(hidden, weight, bias, ids, heat, scale=1.0, softcap=None, banned=()) -> tuple[Tensor, Tensor]:
    """Everything at once, from the textbook formulas, for autograd."""
    z = (hidden @ weight.T + (0 if bias is None else bias)) * scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    z = z / heat[:, None]
    allowed = torch.ones(z.shape[1], dtype=torch.bool)
    allowed[list(banned)] = False
    p = torch.softmax(z[:, allowed], 1)
    place = torch.cumsum(allowed, 0) - 1
    return p.gather(1, place[ids][:, None])[:, 0].log(), -(p * p.log()).sum(1)


CASES = {
    "plain": {},
    "bias": {"bias": True},
    "temperature": {"heat": True},
    "banned": {"banned": BANNED},
    "scale": {"scale": 0.3},
    "softcap": {"softcap": 2.0},
    "all": {"bias": True, "heat": True, "banned": BANNED, "scale": 0.7, "softcap": 1.5},
}


@pytest.mark.parametrize("chunk", [1, 4, None])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_dense_computation(case, entropy, chunk):
    options = dict(CASES[case])
    hidden, weight, bias, ids, heat, upstream, upstream_entropy = inputs()
    bias = bias if options.pop("bias", False) else None
    heat = heat if options.pop("heat", False) else torch.ones_like(heat)
    leaves = [x.requires_grad_() for x in (hidden, weight, bias) if x is not None]
    wanted, wanted_entropy = dense(hidden, weight, bias, ids, heat, **options)
    loss = (wanted * upstream).sum() + ((wanted_entropy * upstream_entropy).sum() if entropy else 0)
    wanted_gradients = torch.autograd.grad(loss, leaves)

    banned = torch.tensor(options.get("banned", []), dtype=torch.int64)
    head = Head(weight, bias, torch.float64, options.get("scale", 1.0), options.get("softcap"), banned, chunk)
    logp, spread = token_logprobs(hidden, ids, head, heat, entropy)
    loss = (logp * upstream).sum() + ((spread * upstream_entropy).sum() if entropy else 0)
    gradients = torch.autograd.grad(loss, leaves)

    torch.testing.assert_close(logp, wanted, rtol=0, atol=1e-13)
    if entropy:
        torch.testing.assert_close(spread, wanted_entropy, rtol=0, atol=1e-13)
    else:
        assert spread is None
    for found, expected in zip(gradients, wanted_gradients):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk", [4, None])
def test_a_second_backward_has_the_same_gradient(chunk):
    """The first one has used up what was kept for it."""
    hidden, weight, _, ids, heat, upstream, _ = inputs()
    hidden.requires_grad_(), weight.requires_grad_()
    logp, _ = token_logprobs(hidden, ids, Head(weight, compute=torch.float64, chunk=chunk), heat)
    first, second = (
        torch.autograd.grad((logp * upstream).sum(), [hidden, weight], retain_graph=True) for _ in range(2)
    )
    for a, b in zip(first, second):
        torch.testing.assert_close(a, b)


def test_logits_of_one_chunk_are_computed_once(monkeypatch):
    hidden, weight, _, ids, heat, upstream, _ = inputs()
    hidden.requires_grad_()
    made = []
    real = Head.logits
    monkeypatch.setattr(Head, "logits", lambda self, some, out=None: made.append(len(some)) or real(self, some, out))
    for chunk, wanted in ((None, [TOKENS]), (4, [3, 4, 4, 4, 3])):  # chunks of 4, 4 and 3, the first one comes last
        made.clear()
        logp, _ = token_logprobs(hidden, ids, Head(weight, compute=torch.float64, chunk=chunk), heat)
        (logp * upstream).sum().backward()
        assert made == wanted


def test_float32_is_within_rounding_of_the_dense_computation():
    hidden, weight, _, ids, heat, upstream, _ = inputs(torch.float32)
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    wanted, _ = dense(hidden, weight, None, ids, heat)
    logp, _ = token_logprobs(hidden, ids, Head(weight, chunk=3), heat)
    torch.testing.assert_close(logp, wanted, rtol=0, atol=2e-6)
    for found, expected in zip(
        torch.autograd.grad((logp * upstream).sum(), [hidden, weight]),
        torch.autograd.grad((wanted * upstream).sum(), [hidden, weight]),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_flat_distribution_over_what_is_allowed():
    head = Head(torch.zeros(VOCAB, WIDTH), banned=torch.tensor(BANNED))
    logp, entropy = token_logprobs(torch.randn(2, WIDTH), torch.tensor([0, 5]), head, entropy=True)
    torch.testing.assert_close(logp, torch.full((2,), -torch.tensor(15.0).log()))
    torch.testing.assert_close(entropy, torch.full((2,), torch.tensor(15.0).log()))


def test_a_frozen_head_gets_no_gradient_and_hidden_states_do():
    hidden, weight, _, ids, _, _, _ = inputs(torch.float32)
    logp, _ = token_logprobs(hidden.requires_grad_(), ids, Head(weight))
    logp.sum().backward()
    assert weight.grad is None
    p = torch.softmax(hidden.detach() @ weight.T, 1)
    torch.testing.assert_close(hidden.grad, weight[ids] - p @ weight, rtol=0, atol=1e-5)


def test_the_head_in_float32_of_a_16_bit_model():
    hidden, weight, _, ids, _, _, _ = inputs(torch.float32)
    hidden, weight = hidden.bfloat16(), weight.bfloat16()
    wanted = torch.log_softmax(hidden.float() @ weight.float().T, 1).gather(1, ids[:, None])[:, 0]
    narrow = torch.log_softmax((hidden @ weight.T).float(), 1).gather(1, ids[:, None])[:, 0]
    full, _ = token_logprobs(hidden, ids, Head(weight, compute=torch.float32))
    half, _ = token_logprobs(hidden, ids, Head(weight, compute=torch.bfloat16))
    torch.testing.assert_close(full, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(half, narrow, rtol=0, atol=1e-6)
    assert (wanted - narrow).abs().max() > 1e-4


def test_the_float32_head_works_with_tied_embeddings(adapter, roll):
    policy = adapter(build={"tied": True}, dtype="bfloat16", train="lora", lora={"rank": 2}, fp32_head=True)
    assert policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight
    samples = roll(policy)
    columns = torch.arange(4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        stored = samples[0].trajectory.tensors
        ids = torch.cat([stored["prompt"], stored["ids"][:4]])
        hidden = policy.model.base_model(input_ids=ids[None]).last_hidden_state[0, len(stored["prompt"]) - 1 : -1]
    wanted = torch.log_softmax(hidden.float() @ policy.model.get_input_embeddings().weight.float().T, 1)
    logp = policy.logprobs(samples[:1], columns).logp[0].detach()
    torch.testing.assert_close(logp, wanted.gather(1, stored["ids"][:4, None])[:, 0], rtol=0, atol=1e-5)


def test_features_are_those_of_the_whole_distribution():
    hidden, weight, _, ids, heat, _, _ = inputs(torch.float32)
    names = ["entropy", "logp", "proxy_logp", "prob_gap2", "fisher"]
    found = token_features(hidden, ids, Head(weight, chunk=4), names, heat)
    p = torch.softmax(hidden @ weight.T / heat[:, None], 1).double()
    e = torch.nn.functional.one_hot(ids, VOCAB).double() - p
    own = p.gather(1, ids[:, None])
    kept = p >= 0.02 * p.amax(1, keepdim=True)
    proxy = torch.where(kept.gather(1, ids[:, None]), (own / (p * kept).sum(1, keepdim=True)).log(), -1e4)[:, 0]
    fisher = torch.stack([g @ (torch.diag(q) - torch.outer(q, q)) @ g for g, q in zip(e, p)])
    wanted = [-(p * p.log()).sum(1), own.log()[:, 0], proxy, (e**2).sum(1), fisher]
    for name, value in zip(names, wanted):
        torch.testing.assert_close(found[name].double(), value, rtol=1e-4, atol=1e-5, msg=name)
    with pytest.raises(ValueError, match=r"entropi.*known: "):
        token_features(hidden, ids, Head(weight), ["entropi"])


MEMORY = """
import sys, torch
from mmrl.modalities.tokens.logprobs import Head, token_logprobs
torch.set_num_threads(1)

def memory(name):  # of this program alone: getrusage would begin with the peak of the process that started it
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(name))

def run(weight, hidden):
    ids = torch.arange(len(hidden))
    if sys.argv[1] == "dense":
        logp = torch.log_softmax(hidden @ weight.T, 1).gather(1, ids[:, None])
    else:
        logp = token_logprobs(hidden, ids, Head(weight, chunk=16))[0]
    logp.sum().backward()

run(torch.randn(600, 16).requires_grad_(), torch.randn(256, 16).requires_grad_())  # loads what is loaded once
big = torch.randn(151936, 16).requires_grad_(), torch.randn(256, 16).requires_grad_()
before = memory("VmRSS")
run(*big)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_at_a_large_vocabulary_is_below_a_fifth():
    def peak(way: str) -> float:
        done = subprocess.run([sys.executable, "-c", MEMORY, way], capture_output=True, text=True, check=True)
        return float(done.stdout)

    whole, chunked = peak("dense"), peak("chunked")
    assert whole > 2 * 256 * 151936 * 4 / 2**20  # it held the logits more than once
    assert chunked < whole / 5
