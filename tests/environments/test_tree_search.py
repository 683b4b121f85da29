"""PROPA's search on trees by hand: every visit, value and reward worked out on paper."""

from __future__ import annotations

import itertools
import math

import pytest
from every import every
from hypothesis import given
from hypothesis import strategies as st

from mmrl.environments.tree_search import (
    Node,
    TreeOptions,
    boosted,
    branchings,
    groups,
    labelled_paths,
    process_labels,
    search,
    solved,
    ucb,
)
from mmrl.types import Prompt, Sample

# A path's next steps, two of them; the greedy one. "!" ends a path, with the reward in REWARDS.
SAMPLED = {"": "ab", "a": "c!", "b": "de", "ac": "f!"}
GREEDY = {"a": "!", "b": "d", "bd": "!", "ac": "!", "be": "!", "acf": "!"}
REWARDS = {"a!": 0.5, "bd!": 0.0, "ac!": 1.0, "be!": 0.0, "acf!": 0.0}


class Sampler:
    def __init__(self):
        self.calls = []

    def __call__(self, paths, n, greedy):
        self.calls.append((sorted((tree, "".join(path)) for tree, path in paths), n, greedy))
        table = GREEDY if greedy else SAMPLED
        return [list(table["".join(path)])[:n] for _, path in paths]


def judge(tree, path):
    return REWARDS["".join(path)] if path[-1] == "!" else None


def numbers(root):
    return {"".join(node.path): (node.visits, node.total) for node in root.walk()}


def test_three_iterations_by_hand():
    """1. The root gets a and b, neither ends: a is continued greedily to "a!", worth 0.5.
    2. b was never visited, so it is next: it gets d and e; d comes to "bd!", worth 0.
    3. Root 2 visits, a 1 of value 0.5, b 1 of value 0: a. It gets c and an end, so both count: c comes to "ac!",
    worth 1, and "a!" is worth 0.5."""
    options = TreeOptions(iterations=3, children=2)
    sampler = Sampler()
    (root,) = search(1, sampler, judge, options)
    assert numbers(root) == {
        "": (4, 2.0),
        "a": (3, 2.0),
        "ac": (1, 1.0),
        "a!": (1, 0.5),
        "b": (1, 0.0),
        "bd": (1, 0.0),
        "be": (0, 0.0),
    }
    assert solved(root)


def test_the_fourth_iteration_goes_where_the_bound_is_highest():
    """Root 4 visits: a 2/3 + sqrt(2 ln 4 / 3) = 1.628, b 0 + sqrt(2 ln 4) = 1.665: b, and there the unvisited e,
    which gets no children by the table: it needs an entry. Its greedy way is worth 0."""
    a, b = 2 / 3 + math.sqrt(2 * math.log(4) / 3), math.sqrt(2 * math.log(4))
    assert b > a
    (root,) = search(1, Sampler(), judge, TreeOptions(iterations=3, children=2))
    assert [ucb(child, 1.0) for child in root.children] == pytest.approx([a, b])
    assert ucb(root.children[1].children[1], 1.0) == math.inf
    with pytest.raises(KeyError, match="be"):  # the sampler is asked for what follows "be"
        search(1, Sampler(), judge, TreeOptions(iterations=4, children=2))


def test_without_exploration_the_best_mean_is_followed():
    """With c = 0 iteration 4 goes on at a: c has 1, "a!" 0.5, so c gets f and an end worth 1; f comes to 0."""
    (root,) = search(1, Sampler(), judge, TreeOptions(iterations=4, children=2, c=0))
    found = numbers(root)
    assert found["ac"] == (3, 2.0)
    assert (found["acf"], found["ac!"]) == ((1, 0.0), (1, 1.0))
    assert found["a"] == (5, 3.0)
    assert found[""] == (6, 3.0)


def test_groups_have_boosted_values_and_those_without_spread_are_left_out():
    (root,) = search(1, Sampler(), judge, TreeOptions(iterations=3, children=2))
    first, second = branchings(root)
    assert (first.path, first.steps, first.values) == ((), ("a", "b"), (2 / 3, 0.0))
    assert first.rewards == pytest.approx((math.log(1 + 20 / 3) / math.log(11), 0.0))
    assert (second.path, second.steps, second.place) == (("a",), ("c", "!"), (0,))
    assert second.rewards == pytest.approx((1.0, math.log(6) / math.log(11)))
    # b's children are worth 0 and 0, the second for want of a visit.
    assert branchings(root, least_spread=0.5) == [first]


def family(*values):
    root = Node(visits=1)
    root.children = [Node(str(i), root, visits=1, total=v) for i, v in enumerate(values)]
    return root


# Published: skipped where all are 0, all are 1, or they differ by less than 0.1; g(0.1) = 0.289, g(0.9) = 0.960.
@every(
    ("values", "kept"),
    [
        ((0, 0, 0, 0), False),
        ((1, 1, 1, 1), False),
        ((0.5, 0.5), False),
        ((0, 0.1), True),
        ((0.9, 1), False),
        ((0.5, 0.65), False),
        ((0.5, 0.8), True),
        ((0, 1, 0, 0), True),
    ],
)
def test_which_branchings_are_groups(values, kept):
    assert bool(branchings(family(*values))) == kept


def test_equal_rewards_are_no_group_whatever_the_spread():
    assert branchings(family(0.5, 0.5), least_spread=0) == []


@every(("value", "reward"), [(0, 0), (0.1, 0.2891), (0.25, 0.5224), (1, 1), (-1, 0), (2, 1)])
def test_the_boost(value, reward):
    assert boosted(value) == pytest.approx(reward, abs=5e-5)


def test_labels_for_a_process_reward_model_are_plain_values_of_what_was_visited():
    (root,) = search(1, Sampler(), judge, TreeOptions(iterations=3, children=2))
    labels = {"".join(path): value for path, value in process_labels(root)}
    assert labels == {"a": 2 / 3, "ac": 1.0, "a!": 0.5, "b": 0.0, "bd": 0.0}


def test_paths_for_a_process_reward_model_tell_each_value_once():
    (root,) = search(1, Sampler(), judge, TreeOptions(iterations=3, children=2))
    made = labelled_paths(root, str.upper)
    assert [(p.path, p.steps, p.values, p.reward) for p in made] == [
        (("a", "c"), ("A", "C"), (2 / 3, 1.0), None),
        (("a", "!"), ("A", "!"), (None, 0.5), 0.5),
        (("b", "d"), ("B", "D"), (0.0, 0.0), None),
    ]


def test_a_step_without_words_is_in_no_path_and_loses_no_value():
    """The mere end of an answer: what comes before it is told once all the same, and a path of nothing is none."""
    (root,) = search(1, Sampler(), judge, TreeOptions(iterations=3, children=2))
    made = labelled_paths(root, lambda step: "" if step in "!c" else step)
    assert [(p.steps, p.values) for p in made] == [(("a",), (2 / 3,)), (("b", "d"), (0.0, 0.0))]
    assert labelled_paths(root, lambda step: "") == []


def test_trees_are_sampled_together_and_do_not_touch_each_other():
    alone, together = Sampler(), Sampler()
    (one,) = search(1, alone, judge, TreeOptions(iterations=3, children=2))
    many = search(5, together, judge, TreeOptions(iterations=3, children=2))
    assert all(numbers(root) == numbers(one) for root in many)
    assert len(together.calls) == len(alone.calls)
    assert together.calls[0] == ([(i, "") for i in range(5)], 2, False)


def test_a_finished_leaf_is_worth_its_reward_every_time():
    def end(paths, n, greedy):
        assert not greedy
        return [["!"] * n for _ in paths]

    (root,) = search(1, end, lambda tree, path: 0.25, TreeOptions(iterations=5, children=2))
    assert (root.visits, root.total) == (6, 1.5)
    assert [c.visits for c in root.children] == [3, 3]


@given(st.integers(1, 12), st.integers(1, 5), st.integers(2, 4))
def test_paths_end_at_the_depth_and_are_then_worth_nothing(iterations, depth, children):
    count = itertools.count()

    def on(paths, n, greedy):
        assert all(len(path) < depth for _, path in paths)
        return [[next(count) for _ in range(n)] for _ in paths]

    (root,) = search(1, on, lambda tree, path: None, TreeOptions(iterations=iterations, children=children, depth=depth))
    assert (root.visits, root.total) == (iterations, 0)
    assert max(len(node.path) for node in root.walk()) <= depth
    assert not solved(root)
    assert branchings(root) == []


def test_groups_of_samples_carry_their_rewards():
    roots = search(2, Sampler(), judge, TreeOptions(iterations=3, children=2))
    prompts = [Prompt(f"q{i}", "?", {"answer": "a"}) for i in range(2)]
    made = groups(prompts, roots, lambda prompt, path, step: Sample(prompt, 0, "".join((*path, step))))
    assert [(g.prompt.id, g.index) for g in made] == [("q0", 0), ("q0/0", 1), ("q1", 2), ("q1/0", 3)]
    assert [s.artifact for s in made[1].samples] == ["ac", "a!"]
    assert [s.index for s in made[1].samples] == [0, 1]
    score = made[1].samples[1].scores["tree"]
    assert (score.value, score.details["mean"]) == (pytest.approx(math.log(6) / math.log(11)), 0.5)
    assert made[3].prompt.record == {"answer": "a"}
