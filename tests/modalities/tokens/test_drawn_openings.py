"""Samples of one prompt that were shown different things: rolled out, replayed, given again, filtered, planned."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mmrl.config import FilterStage
from mmrl.engines.base import Completion
from mmrl.environments.base import Context
from mmrl.environments.pairs import Pairs, PairsOptions
from mmrl.seeds import seed_of
from mmrl.training.check import check_adapter
from mmrl.training.stages.filter_rules import keep
from mmrl.types import Group, Prompt

OPTIONS = PairsOptions(template="{question} {responses}", response="{number}{answer}")


def pair(id="p", *, candidates=("cat", "a dog"), **record):
    return Prompt(id, "Which?", {"prompt": "Which?", "candidates": list(candidates), "shares": [1, 0], **record})


@pytest.fixture
def policy(adapter):
    made = adapter(sampling={"max_tokens": 6})
    made.environment = Pairs(OPTIONS)
    return made


def shown(sample):
    return sample.turns[0].text


def test_each_sample_has_the_row_of_its_own_order(policy):
    (group,) = policy.rollout([Group(pair(), 0)], 12, 0, 0)
    texts = {"[0, 1]": "Which? 1cat\n\n2a dog", "[1, 0]": "Which? 1a dog\n\n2cat"}
    assert {str(s.info["order"]) for s in group.samples} == set(texts)
    for sample in group.samples:
        assert shown(sample) == texts[str(sample.info["order"])]
        assert shown(sample) in policy.tokenizer.decode(sample.trajectory.tensors["prompt"])
    assert [s.index for s in group.samples] == list(range(12))


def test_other_steps_draw_other_orders_and_the_same_step_the_same(policy):
    orders = [
        [s.info["order"] for s in policy.rollout([Group(pair(), 0)], 8, step, 0)[0].samples] for step in (0, 1, 0)
    ]
    assert orders[0] == orders[2] != orders[1]


def test_two_samples_of_an_evaluation_show_both_orders(policy):
    for group in policy.evaluate([pair(id) for id in "pqrs"], 2, 0):
        assert sorted(s.info["order"] for s in group.samples) == [[0, 1], [1, 0]]


def test_the_contract_holds(policy):
    found = check_adapter(policy, [pair("a"), pair("b", candidates=["x", "yy", "zzz"])], n=3)
    assert [r for r in found if not r.passed] == []


def test_prompts_of_other_environments_stand_beside_them(policy):
    plain = Prompt("q", "Hi", {"prompt": "Hi", "environment": "single"})
    groups = policy.rollout([Group(plain, 0), Group(pair(), 1), Group(plain, 2)], 3, 0, 0)
    alone = policy.rollout([Group(pair(), 1)], 3, 0, 0)[0]
    assert [[shown(s) for s in g.samples] for g in groups] == [
        ["Hi"] * 3,
        [shown(s) for s in alone.samples],
        ["Hi"] * 3,
    ]
    ids = [[s.trajectory.tensors["ids"].tolist() for s in g.samples] for g in (groups[1], alone)]
    assert ids[0] == ids[1]


def test_an_engine_is_asked_for_one_answer_to_each_row_and_for_all_of_a_shared_one(policy, monkeypatch):
    """What an engine with its own copy of the weights gets, too: it shares the beginnings of rows itself."""
    asked = []

    class Engine:
        def generate(self, rows, n, sampling, seeds):
            asked.append((rows, n, seeds))
            return [[Completion(torch.tensor([policy.stop_ids[0]]), torch.zeros(1), "eos")] * n for _ in rows]

    monkeypatch.setattr(policy, "_own_engine", lambda *_: Engine())
    plain = Prompt("q", "Hi", {"prompt": "Hi", "environment": "single"})
    policy.rollout([Group(pair(), 0), Group(plain, 1)], 3, 0, 0)
    seeds = [[seed_of(0, 0, id, i) for i in range(3)] for id in "qp"]
    assert [(len(rows), n) for rows, n, _ in asked] == [(1, 3), (3, 1)]
    assert [given for _, _, given in asked] == [[seeds[0]], [[seed] for seed in seeds[1]]]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_given_answer_is_shown_as_its_record_says(policy, order):
    (made,) = policy.given(pair(order=order), ["<answer>1</answer>"])
    assert made.info["order"] == order
    record = {**pair(order=order).record, "completion": "<answer>1</answer>"}
    logp = policy.logprobs([made], torch.arange(len(made.trajectory.mask))).logp
    assert policy.supervised_loss([record], "sft", 0).item() == pytest.approx(-logp.mean().item(), abs=1e-6)


def test_a_given_answer_without_an_order_is_to_the_candidates_as_they_stand(policy):
    (made,) = policy.given(pair(), ["<answer>1</answer>"])
    assert made.info["order"] == [0, 1]


def test_a_prompt_has_what_is_drawn_for_a_seed_and_a_step_as_columns(policy):
    drawn = [policy.drawn(pair(), seed, step) for seed in range(12) for step in (0, 1)]
    assert {tuple(prompt.record["order"]) for prompt in drawn} == {(0, 1), (1, 0)}
    assert policy.drawn(pair(order=[1, 0]), 3, 0).record["order"] == [1, 0]
    plain = Prompt("q", "Hi", {"prompt": "Hi", "environment": "single"})
    assert policy.drawn(plain, 3, 0) == plain


def test_steps_of_a_search_tell_the_order_that_they_stand_behind(policy):
    steps = [Completion(torch.tensor([5, 6]), torch.zeros(2), "eos")]
    for order, text in (([0, 1], "Which? 1cat\n\n2a dog"), ([1, 0], "Which? 1a dog\n\n2cat")):
        made = policy.stepped(pair(order=order), (), steps)
        assert (made.info["order"], shown(made)) == (order, text)
    assert policy.stepped(pair(), (), steps).info["order"] == [0, 1]


def scored(policy, n=8):
    (group,) = policy.rollout([Group(pair(), 0)], n, 0, 0)
    for place, sample in enumerate(group.samples):
        sample.reward = float(place % 3 == 0)
    return group


@pytest.mark.parametrize("rule", ["rejection", "pairs"])
def test_what_a_filter_keeps_is_given_again_as_it_was_shown(policy, rule):
    group = scored(policy)
    records = keep(policy, FilterStage(rule=rule, steps=1, samples=8), group)
    said = {(s.artifact, str(s.info["order"])): s for s in group.samples}
    assert records
    for record in records:
        for answer in (record[key] for key in ("completion", "chosen", "rejected") if key in record):
            (again,) = policy.given(Prompt("p", "Which?", record), [answer])
            then = said[again.artifact, str(record["order"])]
            assert again.trajectory.tensors["prompt"].tolist() == then.trajectory.tensors["prompt"].tolist()


def test_a_prompt_that_a_filter_keeps_is_drawn_anew(policy):
    (record,) = keep(policy, FilterStage(rule="difficulty", steps=1, samples=8), scored(policy))
    assert "order" not in record


def test_pairs_of_which_something_is_wrong_are_not_usable(policy):
    assert policy.usable(pair()) is None
    assert "needs `candidates`" in policy.usable(pair(candidates=["a"]))
    pictured = pair(candidates=[{"answer": "a", "images": ["x.png"]}, "b"])
    assert policy.usable(pictured) == "shows pictures, which this modality does not read"


class Growing:
    """Says more to those samples that draw an odd number."""

    answers_cut, draws = False, ("odd",)

    def open(self, episode):
        odd = episode.info["odd"] = int(episode.index or 0) % 2
        return Context([{"role": "user", "content": "Hi" + " there" * 30 * odd}])

    def respond(self, episode):
        return None


def test_a_drawn_opening_that_is_too_long_gives_way_to_the_one_by_which_the_prompt_fits(policy):
    policy.environment = Growing()
    short, long = policy.rollout([Group(pair(), 0)], 2, 0, 0)[0].samples
    policy.reader.prompts.limit = len(long.trajectory.tensors["prompt"]) - 1
    assert policy.usable(pair()) is None
    samples = policy.rollout([Group(pair(), 0)], 2, 0, 0)[0].samples
    assert [(s.index, s.info["odd"]) for s in samples] == [(0, 0), (1, 0)]
    assert samples[0].trajectory.tensors["ids"].tolist() == short.trajectory.tensors["ids"].tolist()


def test_the_estimate_of_a_rollout_counts_a_prompt_for_each_sample(policy, monkeypatch):
    asked = []
    engine = policy._own_engine()
    monkeypatch.setattr(engine, "longest_step", lambda prompts, n, sampling: asked.append((len(prompts), n)))
    monkeypatch.setattr(policy, "_own_engine", lambda *_: engine)
    policy.config.rollout_batch = 5
    blank = policy.blank(pair())
    policy.trial([blank, blank], 4)
    policy.environment = None
    policy.trial([dataclasses.replace(blank), blank], 4)
    assert asked == [(5, 1), (1, 4)]
