"""Models of rewards that wait in main memory: on the device while they score and only then, whoever shares them."""

from __future__ import annotations

import threading
from collections import deque
from functools import lru_cache, partial

import pytest
import torch
from torch import nn

from mmrl.parking import NoRoom
from mmrl.rewarding import RewardError, RewardRunner, load_reward, score_groups
from mmrl.rewarding.holding import inside, models, parked
from mmrl.types import Group, Prompt, Sample

META = "meta"  # has no numbers, and is a device

FILE = """
import torch
from torch import nn

seen = []
net = nn.Linear(2, 2)

class judge:
    def __init__(self, own: bool = True):
        self.kept = {"towers": [nn.Linear(3, 1) if own else net]}

    def __call__(self, samples):
        seen.append(self.kept["towers"][0].weight.device.type)
        return [1.0 for _ in samples]

class telling:
    def __init__(self):
        self.hidden = lambda: net

    def modules(self):
        return [self.hidden()]

    def __call__(self, samples):
        seen.append(net.weight.device.type)
        return [1.0 for _ in samples]

class wrong:
    def modules(self):
        return ["net"]

    def __call__(self, samples):
        return [1.0 for _ in samples]

def plain(samples):
    return [0.0 for _ in samples]
"""


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "parked_ones.py"
    path.write_text(FILE)

    def load(name, **options):
        return load_reward(f"{path}:{name}", options)

    return load


def module_of(reward):
    import sys

    return sys.modules[type(reward.call).__module__]


def groups(count=2):
    return [
        Group(Prompt(str(i), "p"), i, [Sample(Prompt(str(i), "p"), k, "said") for k in range(2)]) for i in range(count)
    ]


def on_meta(rewards):
    """As if their models computed on a device of their own."""
    for one in dict.fromkeys(p for reward in rewards for p in reward.parked):
        one.device = torch.device(META)
    return rewards


def where(reward):
    return {p.device.type for module in models(reward) for p in module.parameters()}


def test_a_model_is_on_the_device_while_its_reward_scores(load):
    (reward,) = on_meta(parked([load("judge")], [True]))
    weight = models(reward)[0].weight
    score_groups(groups(3), [reward])
    assert module_of(reward).seen == [META] * 3 and reward.parked[0].moves == 1, "brought once for all groups"
    assert where(reward) == {"cpu"} and models(reward)[0].weight is weight
    assert reward.parked[0].size == 4 * 4


def test_what_a_class_tells_of_is_parked_and_what_is_shared_stays_while_one_of_them_scores(load):
    """Both compute with one model: it is not taken away from the second where the first has ended."""
    first, second = on_meta(parked([load("judge", own=False), load("telling")], [True, True]))
    assert first.parked == second.parked and len(first.parked) == 1
    assert "judge" in first.parked[0].name and "telling" in first.parked[0].name
    with second.present():
        score_groups(groups(), [first])
        assert where(second) == {META}
    assert where(first) == where(second) == {"cpu"} and first.parked[0].moves == 1
    with RewardRunner([first, second], workers=2) as runner:
        runner.submit(groups())
        runner.gather()
    assert set(module_of(first).seen) == {META} and where(first) == {"cpu"}


class Slotted:
    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net


def closed_over(net):
    return lambda: net


@pytest.mark.parametrize(
    "keep",
    [
        lambda net: [[[[net]]]],
        lambda net: deque([net]),
        Slotted,
        closed_over,
        lambda net: lru_cache(closed_over(net)),
        lambda net: partial(max, key=net.forward),
        lambda net: ([[[[[there := [net]]]]]], there),  # first met where it is too deep
    ],
)
def test_models_are_found_wherever_an_object_keeps_them(keep):
    net = nn.Linear(1, 1)
    assert list(inside(keep(net))) == [net]


def test_what_is_not_parked_stays(load):
    one, other = parked([load("judge"), load("judge")], [False, True])
    assert not one.parked and len(other.parked) == 1
    assert {id(m) for m in models(one)}.isdisjoint(id(m) for m in other.parked[0].modules)


@pytest.mark.parametrize(
    ("names", "wanted", "said"),
    [
        ([("plain", {})], [True], "holds no torch model"),
        ([("wrong", {})], [True], "modules"),
        ([("judge", {"own": False}), ("telling", {})], [True, False], "has the same model"),
    ],
)
def test_what_cannot_be_parked_is_refused(load, names, wanted, said):
    with pytest.raises(RewardError, match=said):
        parked([load(name, **options) for name, options in names], wanted)


def test_a_device_without_room_ends_the_scoring_in_one_line_and_nothing_has_moved(load, monkeypatch):
    (reward,) = on_meta(parked([load("judge")], [True]))

    def full(tensor, device):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("mmrl.parking.to_device", full)
    with pytest.raises(NoRoom, match=r"reward parked_ones\.judge: no room on meta"):
        score_groups(groups(), [reward])
    assert where(reward) == {"cpu"}
    monkeypatch.undo()
    score_groups(groups(), [reward])
    assert module_of(reward).seen[-1] == META


def test_threads_that_use_a_model_at_once_bring_it_once():
    from mmrl.parking import Parked

    net = nn.Linear(2, 2)
    one = Parked("net", [net], torch.device(META))
    one.rest()
    inside, seen = threading.Barrier(3), []

    def use():
        with one.using():
            inside.wait(30)
            seen.append(net.weight.device.type)
            inside.wait(30)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [META] * 3 and one.moves == 1 and net.weight.device.type == "cpu"
