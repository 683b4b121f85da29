"""Votes: which answers are one, and the label that the core makes of them."""

from __future__ import annotations

import torch
from every import every

from mmrl.core.batch import Batch
from mmrl.core.shape import co_reward, majority_vote
from mmrl.rewarding import load_reward
from mmrl.rewarding.run import score_groups
from mmrl.training.stages.experience import columns
from mmrl.types import Group, Prompt, Sample


def answers(*texts: str) -> list:
    samples = [Sample(Prompt("p", "q"), i, text) for i, text in enumerate(texts)]
    return [score.details["vote"] for score in load_reward("vote.answer").call(samples)]


OPERATORS = [
    ["x+1", "x-1", "x1", "x*1", "x/1", "x^1", "x=1", "x<1", "x>1"],
    ["ab", "a/b", "a-b", "a:b"],
    ["23", "2^3", "2:3", "2-3", "2,3"],
    ["x", "-x", "x!"],
    ["(1,2)", "[1,2]", "{1,2}", "(1,2]"],
    [r"\boxed{\sqrt{3}}", r"\boxed{3}"],
]


@every(
    "same",
    [
        ["0.5", "1/2", "50%", r"\boxed{0.50}", "The answer is 0.5."],
        ["1,200", "1200", "$1200"],
        ["(B)", "b", "B.", r"\boxed{B}"],
        ["The cat", "cat", "a cat.", "CAT"],
        [r"\boxed{\frac{1}{2}}", r"\boxed{\dfrac{1}{2}}", r"\boxed{\frac12}", "$\\frac{1}{2}$", "1/2"],
        ["(1,2)", "(1, 2)", "( 1 , 2 )"],
        ["**Paris.**", "paris", "Paris!", '"Paris"', "*Paris*", "`Paris`", r"\boxed{\text{Paris}}"],
        [r"\boxed{50\%}", "50%", "**50%**", "0.5"],
        ["x+1", "x + 1", "$x+1$"],
        ["-3", r"\boxed{-3}", "\N{MINUS SIGN}3"],
    ],
)
def test_answers_that_are_one(same):
    assert len(set(answers(*same))) == 1


@every("other", [["3", "-3"], ["3.5", "35"], ["B", "C"], ["3 cats", "3"], ["1, 2", "12"], *OPERATORS])
def test_answers_that_are_not(other):
    assert len(set(answers(*other))) == len(other)


def test_the_majority_of_a_group_is_its_label():
    prompt = Prompt("p", "q")
    texts = ["0.5", "1/2", "2", "", "", "", "", r"\boxed{0.50}"]
    group = Group(prompt, 0, [Sample(prompt, i, text) for i, text in enumerate(texts)])
    score_groups([group], [load_reward("vote.answer")])
    reward = torch.tensor([s.scores["vote.answer"].value for s in group.samples], dtype=torch.float64)
    where = torch.zeros(len(texts), dtype=torch.int64)
    batch = Batch(where, 1, torch.ones(len(texts), 1).bool(), columns=columns(group.samples, ["vote"]))
    # No answer, though most frequent, has no vote.
    assert majority_vote(reward, batch).tolist() == [1, 1, 0, 0, 0, 0, 0, 1]


def test_the_right_answer_of_the_record_is_no_vote():
    """A sample whose reward failed, or was never asked, says nothing; the record's `answer` is the gold one."""
    prompt = Prompt("p", "q", record={"answer": "7"})
    samples = [Sample(prompt, i, text) for i, text in enumerate(["3", "3", "7", "7"])]
    score_groups([Group(prompt, 0, samples[:2])], [load_reward("vote.answer")])
    batch = Batch(torch.zeros(4).long(), 1, torch.ones(4, 1).bool(), columns=columns(samples, ["vote"]))
    assert majority_vote(torch.ones(4, dtype=torch.float64), batch).tolist() == [1, 1, 0, 0]
    assert columns(samples[2:], ["vote"]) == {}


def test_records_name_their_pair_by_its_id():
    """As records come: each names the other's id, whatever places their groups have in the step."""
    prompts = [Prompt("b", "q'", record={"pair": "a"}), Prompt("a", "q", record={"pair": "b"})]
    groups = [
        Group(p, i, [Sample(p, k, t) for k, t in enumerate(texts)])
        for i, (p, texts) in enumerate(zip(prompts, [["1", "1", "2"], ["2", "2", "1"]]))
    ]
    score_groups(groups, [load_reward("vote.answer")])
    samples = [s for g in groups for s in g.samples]
    given = columns(samples, ["id", "pair", "vote"])
    batch = Batch(torch.tensor([0, 0, 0, 1, 1, 1]), 2, torch.ones(6, 1).bool(), columns=given)
    assert co_reward(torch.ones(6, dtype=torch.float64), batch).tolist() == [0, 0, 1, 0, 0, 1]


def test_an_empty_answer_gets_no_vote():
    prompt = Prompt("p", "q")
    scores = load_reward("vote.answer").call([Sample(prompt, i, text) for i, text in enumerate(["", " ", "?!", "x"])])
    assert [(s.value, s.details["vote"]) for s in scores] == [(0.0, -1), (0.0, -1), (0.0, -1), (1.0, "x")]
