"""Every architecture of docs/models.md: what is sampled and replayed is the plain transformers model, row by row."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmrl.engines.decoder import Row
from mmrl.engines.transformers import TransformersEngine, _Asked
from mmrl.types import Group, Prompt

DOCS = Path(__file__).parents[3] / "docs"
spec = importlib.util.spec_from_file_location("make_models", DOCS / "make_models.py")
make_models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_models)
zoo = make_models.architectures()
PAGE = (DOCS / "models.md").read_text(encoding="utf-8")

# A prompt shorter than a convolution's kernel, one shorter than a window, one over several of them.
PROMPTS = [Prompt(str(i), text) for i, text in enumerate(["a", "12+30=", "What is three times five?"])]

# Of log-probs. Nemotron-H norms the small output of a state, which makes rounding large: in float64, in which only its
# steps of time stay float32, it is as much.
ROUNDING = {"Nemotron-H": 2e-3}


def plain_logprobs(folder, samples, banned):
    """Of each sample's tokens: one forward a row, without cache or padding, attention in the plainest way."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    for sample in samples:
        stored = sample.trajectory.tensors
        ids = torch.cat([stored["prompt"], stored["ids"]])
        with torch.no_grad():
            logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
        logits[:, list(banned)] = -torch.inf
        logp = logits.log_softmax(1)[len(stored["prompt"]) - 1 : -1]
        yield logp.gather(1, stored["ids"][:, None])[:, 0]


WITHOUT_CACHE = {"GPT-2"}  # where layers are recomputed


@pytest.fixture(scope="module", params=list(zoo.ARCHITECTURES))
def tried(request, tmp_path_factory):
    """(name, folder, policy, samples): unequal prompts, rows that end early, a batch cut into chunks."""
    torch.set_num_threads(1)
    folder = zoo.write(request.param, tmp_path_factory.mktemp("model"))
    policy = make_models.policy(folder, rollout_batch=9)
    policy.stop_ids = tuple(range(40, 60))  # so that about half of the rows end before their budget
    groups = policy.rollout([Group(p, i) for i, p in enumerate(PROMPTS)], 4, 0, 0)
    return request.param, folder, policy, [s for g in groups for s in g.samples]


@pytest.mark.filterwarnings("ignore:.*sampling is slow")
def test_what_is_sampled_has_the_plain_model_s_log_probs(tried):
    name, folder, policy, samples = tried
    near = {"rtol": 0, "atol": ROUNDING.get(name, 2e-4)}
    assert {s.stop for s in samples} == {"eos", "length"}
    replayed = policy.logprobs(samples, torch.arange(make_models.TOKENS)).logp.detach()
    for sample, wanted, line in zip(samples, plain_logprobs(folder, samples, policy.banned), replayed):
        torch.testing.assert_close(sample.trajectory.logp, wanted, **near)
        torch.testing.assert_close(line[: len(wanted)], wanted, **near)


def test_the_model_is_no_flat_one(tried):
    """Otherwise the test above would pass whatever is computed."""
    _, _, _, samples = tried
    logp = torch.cat([s.trajectory.logp for s in samples])
    assert logp.std() > 0.3


@pytest.mark.parametrize("way", ["shared", "line"])
def test_rows_that_are_replayed_together_leave_the_gradient(tried, way):
    _, _, policy, samples = tried
    if not getattr(policy._ways, way):
        pytest.skip("padded rows are replayed")
    found, ways = [], policy._ways
    for one in (replace(ways, line=0) if way == "shared" else ways, replace(ways, shared=False, line=0)):
        policy._ways = one
        policy.model.zero_grad()
        policy.logprobs(samples, torch.arange(make_models.TOKENS)).logp.sum().backward()
        found.append(
            torch.cat([p.grad.flatten() for p in policy.trainable_parameters().values() if p.grad is not None])
        )
    policy._ways = ways
    assert (found[0] - found[1]).norm() <= 1e-3 * found[0].norm()


@pytest.mark.parametrize("in_line", [False, True])
def test_a_prompt_is_shared_by_layers_that_are_recomputed(tried, in_line):
    """The same log-probs and gradient as row by row and as without recomputing, wherever prompts are shared without;
    but for models that give recomputed layers no cache, which replay whole rows, to the same numbers."""
    name, folder, plain, samples = tried
    if not plain._ways.shared:
        pytest.skip("whole rows are replayed")
    policy = make_models.policy(folder, gradient_checkpointing=True)
    policy.banned = plain.banned
    columns, found, ways = torch.arange(make_models.TOKENS), [], (policy._ways, plain._ways)
    for one, shared in ((policy, True), (policy, False), (plain, True)):
        line = one._ways.line if shared and in_line else 0
        one._ways = replace(one._ways, shared=shared, recomputed=shared and one._ways.recomputed, line=line)
        assert one._way.share is (shared and (one is plain or name not in WITHOUT_CACHE))
        one.model.zero_grad()
        logp = one.logprobs(samples, columns).logp
        logp.sum().backward()
        gradient = [p.grad.flatten() for p in one.trainable_parameters().values() if p.grad is not None]
        found.append((logp.detach(), torch.cat(gradient)))
        policy._ways, plain._ways = ways
    for logp, gradient in found[1:]:
        torch.testing.assert_close(found[0][0], logp, rtol=0, atol=max(1e-5, ROUNDING.get(name, 0)))
        assert (found[0][1] - gradient).norm() <= 1e-3 * gradient.norm()


def test_every_adapter_is_passed_and_none_routes(tried):
    """An adapter on a layer whose weight is read directly would have no gradient; on a router it would have one."""
    _, folder, _, samples = tried
    policy = make_models.policy(folder, train="lora")
    policy.logprobs(samples, torch.arange(make_models.TOKENS)).logp.square().sum().backward()
    adapters = policy.trainable_parameters()
    assert adapters and all(".lora_" in name for name in adapters)
    assert [n for n, p in adapters.items() if ".lora_B" in n and (p.grad is None or not p.grad.any())] == []
    layers = {name.split(".lora_")[0] for name in adapters}
    assert not [n for n in layers if "router" in n or n.endswith(("mlp.gate", "moe.gate", "expert_gate", "mixer.gate"))]


def test_a_checkpoint_is_the_policy(tried, tmp_path):
    from transformers import AutoModelForCausalLM

    _, _, policy, samples = tried
    policy.save(tmp_path)
    ids = samples[-1].trajectory.tensors["prompt"][None]
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()(input_ids=ids, use_cache=False).logits
        own = policy.model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(loaded, own, rtol=0, atol=1e-5)


def test_the_page_says_what_is_found(tried):
    name, folder, _, _ = tried
    assert make_models.row([name, *make_models.found(folder), "works", "works"]) in PAGE


def test_the_page_has_no_other_lines():
    rows = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| ")]
    assert rows[2:] == list(zoo.ARCHITECTURES)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(zoo.ARCHITECTURES))
def test_it_trains_in_every_setting(name, tmp_path):
    _, wrong = make_models.line(name, zoo.write(name, tmp_path))
    assert wrong == []


def test_prompts_of_one_length_are_together_where_padding_is_not_right():
    from mmrl.engines.ways import Ways

    net = zoo.build("Qwen3")
    asked = [_Asked(Row(torch.arange(length)), [0], [(i, 0)]) for i, length in enumerate([3, 5, 5, 7, 7, 7])]
    for ways, wanted in (
        (Ways(), [[0, 1, 2], [3, 4, 5]]),
        (Ways(padded=False, shared=False), [[0], [1, 2], [3, 4, 5]]),
        (Ways(False, False, False), [[0, 1, 2], [3, 4, 5]]),
    ):
        batches = TransformersEngine(net, rows=3, ways=ways)._together(asked)
        assert [[one.places[0][0] for one in batch] for batch in batches] == wanted
