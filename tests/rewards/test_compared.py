"""A judge that compares as a reward of groups: local and served, texts and pictures, and what is not put to it."""

from __future__ import annotations

import math

import pytest
from PIL import Image

from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample


def run(server, artifacts, record=None, **options):
    prompt = Prompt("p", "What is it?", {"prompt": "What is it?", **(record or {})})
    group = Group(prompt, 0, [Sample(prompt, i, artifact) for i, artifact in enumerate(artifacts)])
    options = {"judge": server.url, "judge_options": {"model": "small"}, **options}
    reward = load_reward("compared.wins", options)
    score_groups([group], [reward])
    return [sample.scores[reward.name] for sample in group.samples]


def words(request):
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "<picture>") for part in content)


def longer(request):
    first, second = (part.partition("\n")[2].strip() for part in words(request).split("### Response ")[1:])
    return f"<think>...</think><answer>{1 if len(first) > len(second) else 2}</answer>"


def test_wins_of_a_judge_that_knows(chat_server):
    chat_server.answer = longer
    scores = run(chat_server, ["aa", "a", "aaa", "aaa"])
    assert [s.value for s in scores] == pytest.approx([1 / 3, 0.0, 2.5 / 3, 2.5 / 3])
    assert scores[2].details["won"] == [1.0, 1.0, None, 0.5]
    # Of the two equal ones nobody is asked, and what is the same request is asked once: both orders of three pairs.
    assert len(chat_server.requests) == 6


def test_nothing_loses_unasked_and_thoughts_are_not_compared(chat_server):
    chat_server.answer = longer
    said = ["<think>a very long thought</think><answer>ab</answer>", "<answer>abc</answer>", "no end"]
    scores = run(chat_server, said, extract="tag:answer")
    assert [s.value for s in scores] == [0.5, 1.0, 0.0]
    assert "thought" not in "".join(map(words, chat_server.requests))


@pytest.mark.parametrize("hack", ["", " \n", "<answer></answer>", "<think></think>"])
def test_saying_nothing_earns_nothing(chat_server, hack):
    chat_server.answer = longer
    assert run(chat_server, [hack, "<answer>right</answer>"], extract="tag:answer")[0].value == 0.0


def test_a_judge_of_places_favours_nobody(chat_server):
    chat_server.answer = lambda request: "<answer>1</answer>"
    scores = run(chat_server, ["a", "bb", "ccc"])
    assert [s.value for s in scores] == [0.5] * 3 and [s.details["agreed"] for s in scores] == [0] * 3


def test_a_judge_that_scores_is_asked_about_each_once_and_prefers_the_higher_score(tmp_path):
    """P(a beats b) = sigmoid(a - b): of 0, 1 and 1 that is 1/(1+e), 1/(1+e); hard: 0, 0 and a tie of the other two."""
    (tmp_path / "sized.py").write_text(
        "CALLS = []\n"
        "def sized(samples, unit=1.0):\n"
        "    CALLS.append(len(samples))\n"
        "    return [None if s.artifact == 'none' else len(s.artifact) / unit for s in samples]\n"
        "def asked(samples):\n"
        "    return [float(sum(CALLS)) for _ in samples]\n"
        "def check_prompt(prompt):\n"
        "    return None if prompt.text else 'it asks nothing'\n"
    )
    name = f"{tmp_path / 'sized.py'}:sized"
    prompt = Prompt("p", "How long?")
    group = Group(prompt, 0, [Sample(prompt, i, "a" * n) for i, n in enumerate((1, 2, 3, 2))])
    soft = load_reward("compared.wins", {"judge": name})
    below, far = 1 / (1 + math.e), 1 / (1 + math.e**2)
    assert [s.value for s in soft.call(group)] == pytest.approx(
        [(2 * below + far) / 3, (1 - below + below + 0.5) / 3, (2 * (1 - below) + 1 - far) / 3, 0.5]
    )
    assert load_reward(f"{tmp_path / 'sized.py'}:asked").call(group.samples)[0] == 4  # and not for each pair
    hard = load_reward("compared.wins", {"judge": name, "judge_options": {"unit": 100.0}, "hard": True})
    assert [s.value for s in hard.call(group)] == pytest.approx([0, 0.5, 1, 0.5])
    # 0.02 of score are 0.005 of probability: within the margin all tie, and one of 0.004 lets the longest win.
    even, apart = ({"judge": name, "judge_options": {"unit": 100.0}, "margin": m} for m in (0.006, 0.004))
    assert [s.value for s in load_reward("compared.wins", even).call(group)] == [0.5] * 4
    assert load_reward("compared.wins", apart).call(group)[2].details["won"] == pytest.approx(
        [1 / (1 + math.exp(-0.02)), 0.5, None, 0.5]
    )
    group.samples[0].artifact = "none"
    assert [s.status for s in hard.call(group)] == ["invalid", "ok", "ok", "ok"]
    assert soft.check_prompt(Prompt("q", "")) == "it asks nothing"


def test_a_verdict_that_does_not_come_masks_its_pair(chat_server):
    chat_server.answer = lambda request: "both" if "bad" in words(request) else longer(request)
    scores = run(chat_server, ["a", "bb", "bad"])
    assert [s.value for s in scores[:2]] == [0.0, 1.0]
    assert scores[2].status == "invalid" and "no verdict" in scores[2].reason


def test_pictures_and_anchors(chat_server):
    pictures = [Image.new("RGB", (8, 8), name) for name in ("red", "blue")]
    chat_server.answer = lambda request: "<answer>1</answer>"
    scores = run(
        chat_server, pictures, {"known": [Image.new("RGB", (8, 8), "lime")]}, schedule="anchors", anchors="known"
    )
    assert [s.value for s in scores] == [0.5, 0.5]
    assert all(words(request).count("<picture>") == 2 for request in chat_server.requests)
    reward = load_reward(
        "compared.wins",
        {"judge": chat_server.url, "judge_options": {"model": "m"}, "schedule": "anchors", "anchors": "known"},
    )
    assert reward.check_prompt(Prompt("p", "?", {"known": "one"})) is None
    assert "'known' holds nothing" in reward.check_prompt(Prompt("p", "?", {}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"judge": "longest", "both_orders": False}, "one candidate at a time"),
        ({"judge": "first", "margin": 0.5}, "margin=0.5"),
        ({"judge": "first", "min_spread": -1.0}, "min_spread=-1.0"),
        ({"judge": "nobody"}, "no judge 'nobody'"),
        ({"judge": "first", "schedule": "all"}, "expected one of"),
        ({"judge": "first", "judge_options": {"model": "m"}}, "it has no options"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(RewardError, match=said):
        load_reward("compared.wins", options)
