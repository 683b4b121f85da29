"""Pref-GRPO as it trains: calls side by side, advantages worked out by hand, judges that fail, and its metrics."""

from __future__ import annotations

import json
import math
import statistics
import threading

import pytest
import torch
from PIL import Image

from mmrl.core.advantage import estimate
from mmrl.core.batch import Batch
from mmrl.core.resolving import resolve
from mmrl.rewarding import RewardRunner, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample


def pictures(name: str, count: int) -> Group:
    prompt = Prompt(name, f"a cat of {name}")
    return Group(prompt, 0, [Sample(prompt, i, Image.new("RGB", (8, 8), (20 * i, 0, 0))) for i in range(count)])


def reward(server, name="unified_reward.think", judge=None, **options):
    asked = {"url": server.url, "model": "seer", "pause": 0.0, "timeout": 60, "threads": 1000, **(judge or {})}
    if name == "compared.wins":
        asked = {key: value for key, value in asked.items() if key not in ("url", "pause")}
        return load_reward(name, {"judge": server.url, "judge_options": asked, **options})
    return load_reward(name, {"judge": asked, "jpeg": None, **options})


VERDICTS = {"unified_reward.think": "<answer>Image 1 is better</answer>", "compared.wins": "<answer>1</answer>"}


@pytest.mark.parametrize("name", VERDICTS)
@pytest.mark.filterwarnings("ignore:the judge of pairs gives")
def test_all_calls_of_a_group_and_of_the_groups_beside_it_are_out_at_once(chat_server, name):
    """Groups of 8 and of 4 are 68 calls. None is answered before all of them are there: one after another they would
    wait in vain, so that a group takes as long as its slowest call, however many it has."""
    together = threading.Barrier(68)
    chat_server.answer = lambda request: together.wait(60) * 0 or VERDICTS[name]
    judged = reward(chat_server, name)
    groups = [pictures("p", 8), pictures("q", 4)]
    score_groups(groups, [judged])
    assert [s.scores[judged.name].value for g in groups for s in g.samples] == [0.5] * 12


def test_a_group_is_judged_beside_the_next_rollout(chat_server):
    """The judge says nothing until the next rollout, which runs in the caller's thread, has said that it is there."""
    sampled = threading.Event()
    chat_server.answer = lambda request: VERDICTS["unified_reward.think"] if sampled.wait(60) else "late"
    judged = reward(chat_server)
    with RewardRunner([judged]) as runner:
        runner.submit([pictures("p", 3)])
        sampled.set()  # what the loop does meanwhile: sample the next chunk
        assert [s.scores[judged.name].value for s in runner.gather()[0].samples] == [0.5] * 3


def advantages(columns: list[list[float]], weights: list[float], **options) -> list[float]:
    scores = torch.tensor(columns, dtype=torch.float64).T
    n = len(scores)
    batch = Batch(group=torch.zeros(n, dtype=torch.int64), n_groups=1, mask=torch.ones(n, 1, dtype=torch.bool))
    algorithm = resolve("grpo", {"clamp": 5.0, **options})
    return estimate(scores, torch.ones_like(scores, dtype=torch.bool), torch.tensor(weights), batch, algorithm)[
        0
    ].tolist()


def normal(values: list[float]) -> list[float]:
    mean, std = statistics.fmean(values), statistics.stdev(values)
    return [(value - mean) / std for value in values]


RANKS = [k / 7 for k in range(8)]
CLIP = [0.31, 0.30, 0.32, 0.29, 0.33, 0.28, 0.30, 0.31]


def test_ranks_have_the_same_advantages_whatever_the_rewards_are():
    """A judge that orders eight pictures without ties gives k/7; 3.5 / sqrt(6) = 1.43 is then the largest advantage."""
    found = advantages([RANKS], [1.0])
    assert found == pytest.approx([(k - 3.5) / math.sqrt(6) for k in range(8)], abs=1e-4)


@pytest.mark.parametrize("combine", ["advantage_sum", "gdpo"])
def test_win_rate_and_clip_are_mixed_as_released(combine):
    """0.4 z(win rate) + 0.6 z(CLIP) in the group; GDPO divides that by its std over the batch."""
    mixed = [0.4 * a + 0.6 * b for a, b in zip(normal(RANKS), normal(CLIP))]
    expected = mixed if combine == "advantage_sum" else [a / statistics.stdev(mixed) for a in mixed]
    assert advantages([RANKS, CLIP], [0.4, 0.6], combine=combine) == pytest.approx(expected, abs=1e-4)


def test_without_std_noise_stays_as_small_as_it_is():
    """Scores that differ by a thousandth: GRPO makes a whole unit of that, the mean alone a thousandth, a floor 0."""
    noise = [0.5 + 0.001 * (k % 2) for k in range(8)]
    assert max(advantages([noise], [1.0])) == pytest.approx(0.9354, abs=3e-3)  # sqrt(7/8)
    assert max(advantages([noise], [1.0], advantage="group_mean")) == pytest.approx(0.0005)
    assert advantages([noise], [1.0], std_floor=0.01) == [0.0] * 8


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((200, json.dumps({"choices": [{"message": {"content": ""}}]}).encode()), "an empty answer"),
        ("<answer></answer>", "no verdict in the answer"),
        ((503, b"starting"), "answered 503"),
    ],
    ids=["nothing", "no verdict", "away"],
)
def test_a_judge_that_gives_nothing_makes_nobody_a_loser(chat_server, answer, told):
    chat_server.answer = lambda request: answer
    group, judged = pictures("p", 3), reward(chat_server, judge={"attempts": 1})
    score_groups([group], [judged])
    found = [s.scores[judged.name] for s in group.samples]
    assert {(s.status, s.value) for s in found} == {("invalid", None)}
    assert all(told in s.reason for s in found)


def test_the_two_parts_of_flex_are_rewards_of_their_own_that_ask_once(chat_server, tmp_path):
    """As GDPO wants them: the winner overall, and the categories' mean; one question a showing for both."""
    table = {"categories": [{"cat_winner": "Image 2"}, {"cat_winner": "Image 1"}], "winner": "Image 1"}
    chat_server.answer = lambda request: json.dumps(table)
    judge = {"cache": str(tmp_path / "told.jsonl")}
    parts = [
        reward(chat_server, "unified_reward.flex", judge, both_orders=False, **{left_out: 0.0})
        for left_out in ("categories", "overall")
    ]
    found = []
    for part in parts:
        group = pictures("p", 2)
        score_groups([group], [part])
        found.append(sorted(s.scores[part.name].value for s in group.samples))
    # Categories: the first of 1 and 0.7 went to image 2, the other to image 1.
    assert found == [pytest.approx([0.0, 1.0]), pytest.approx([0.7 / 1.7, 1 / 1.7])]
    assert len(chat_server.requests) == 1
