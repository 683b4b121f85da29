"""PROPA's search: trees of reasoning steps, whose branchings become groups with given rewards. No model in here.

A step is whatever a sampler returns (a text, ids ...); a path is the tuple of steps from the question on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from mmrl.strict import Strict
from mmrl.types import Group, Prompt, Sample, Score

Path = tuple[Any, ...]
# ([(tree, path)], n, greedy) -> for each path n next steps, sampled or greedy.
Grow = Callable[[Sequence[tuple[int, Path]], int, bool], Sequence[Sequence[Any]]]
# (tree, path) -> the reward of a path that is finished, in [0, 1]; None for one that is not.
Judge = Callable[[int, Path], float | None]


class TreeOptions(Strict):
    """Defaults are the release's."""

    iterations: int = Field(10, ge=1, description="Leaves that are looked at in each tree.")
    children: int = Field(4, ge=2, description="Next steps that are sampled at a leaf.")
    depth: int = Field(8, ge=1, description="Steps of the longest path; without an answer by then the reward is 0.")
    c: float = Field(1.0, ge=0, description="Weight of exploration.")
    least_spread: float = Field(0.1, ge=0, description="A branching whose rewards differ by less is no group.")


@dataclass
class Node:
    """A step in a tree, the root being the question. reward: of a path that is finished here, otherwise None."""

    step: Any = None
    parent: Node | None = None
    reward: float | None = None
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0

    @property
    def value(self) -> float:
        """Mean reward of the visits; 0 without any."""
        return self.total / self.visits if self.visits else 0.0

    @property
    def path(self) -> Path:
        """Steps from the question to this one."""
        return tuple(node.step for node in self.way)

    @property
    def way(self) -> tuple[Node, ...]:
        """The nodes from the root, which is left out, to this one."""
        return () if self.parent is None else (*self.parent.way, self)

    def walk(self) -> list[Node]:
        """This node and all below, parents first, in order of being made."""
        return [self, *(node for child in self.children for node in child.walk())]


def search(trees: int, grow: Grow, judge: Judge, options: TreeOptions) -> list[Node]:
    """Roots of `trees` searched trees. All trees take a step together, so that a sampler gets batches.

    An iteration goes from the root to a leaf by `ucb`, and gives a leaf that is not finished its children: all of
    them are valued if one is finished, the first alone otherwise. A finished path is worth its reward, another what it
    comes to when it is continued greedily; that is added to every node on the way. A leaf at `depth` is worth 0: the
    release grows it on.
    """
    roots = [Node() for _ in range(trees)]
    for _ in range(options.iterations):
        leaves = [_leaf(root, options.c) for root in roots]
        growing = [i for i, leaf in enumerate(leaves) if leaf.reward is None and len(leaf.path) < options.depth]
        made = grow([(i, leaves[i].path) for i in growing], options.children, False) if growing else []
        visited = [[leaf] for leaf in leaves]
        for i, steps in zip(growing, made, strict=True):
            leaf = leaves[i]
            leaf.children = [Node(step, leaf, judge(i, (*leaf.path, step))) for step in steps]
            finished = any(child.reward is not None for child in leaf.children)
            visited[i] = leaf.children if finished else leaf.children[:1]
        nodes = [(i, node) for i, some in enumerate(visited) for node in some]
        for (_, node), reward in zip(nodes, _outcomes(nodes, grow, judge, options.depth)):
            _back_up(node, reward)
    return roots


def ucb(node: Node, c: float) -> float:
    """Value of a node + c sqrt(2 ln(visits of its parent) / visits); infinite without a visit."""
    if not node.visits:
        return math.inf
    assert node.parent is not None
    return node.value + c * math.sqrt(2 * math.log(node.parent.visits) / node.visits)


def _leaf(node: Node, c: float) -> Node:
    while node.children:
        node = max(node.children, key=lambda child: ucb(child, c))  # of equals the first
    return node


def _outcomes(nodes: Sequence[tuple[int, Node]], grow: Grow, judge: Judge, depth: int) -> list[float]:
    """The reward of each node's path, continued greedily until it is finished or has `depth` steps (worth 0)."""
    paths = [node.path for _, node in nodes]
    rewards = [node.reward for _, node in nodes]
    while True:
        going = [k for k, path in enumerate(paths) if rewards[k] is None and len(path) < depth]
        if not going:
            return [reward or 0.0 for reward in rewards]
        for k, (step,) in zip(going, grow([(nodes[k][0], paths[k]) for k in going], 1, True), strict=True):
            paths[k] = (*paths[k], step)
            rewards[k] = judge(nodes[k][0], paths[k])


def _back_up(node: Node | None, reward: float) -> None:
    while node is not None:
        node.visits += 1
        node.total += reward
        node = node.parent


# ---------------------------------------------------------------- what training takes from a tree


@dataclass(frozen=True)
class Branching:
    """A group: the steps that were sampled behind a path. values: of the nodes; rewards: those, boosted.

    place: the way from the root in numbers of children, which tells a tree's branchings apart.
    """

    path: Path
    steps: tuple[Any, ...]
    values: tuple[float, ...]
    rewards: tuple[float, ...]
    place: tuple[int, ...] = ()


def boosted(value: float, a: float = 10.0) -> float:
    """ln(1 + a v) / ln(1 + a), v cut to [0, 1]: small values are told apart; 0.1 becomes 0.29."""
    return math.log1p(a * min(max(value, 0.0), 1.0)) / math.log1p(a)


def branchings(root: Node, least_spread: float = 0.1) -> list[Branching]:
    """The branchings whose rewards differ by `least_spread` or more; equal rewards teach nothing."""
    found = []
    for place, node in _placed(root, ()):
        values = tuple(child.value for child in node.children)
        rewards = tuple(map(boosted, values))
        if rewards and max(rewards) - min(rewards) >= max(least_spread, 1e-12):
            steps = tuple(child.step for child in node.children)
            found.append(Branching(node.path, steps, values, rewards, place))
    return found


def _placed(node: Node, place: tuple[int, ...]) -> list[tuple[tuple[int, ...], Node]]:
    below = (pair for i, child in enumerate(node.children) for pair in _placed(child, (*place, i)))
    return [(place, node), *below]


def solved(root: Node) -> bool:
    """Whether the tree's rewards came to 1 or more; the others' questions are PROPA's supervised training."""
    return root.total >= 1


def process_labels(root: Node) -> list[tuple[Path, float]]:
    """(path, value) of every visited node but the root: what PROPA's process reward model learns, not boosted."""
    return [(node.path, node.value) for node in root.walk() if node.visits and node.parent is not None]


@dataclass(frozen=True)
class Labelled:
    """A path that no visited step goes on from, for a stage `reward_model` with `rows: steps`.

    path: its steps; reward: as it is the node's. steps, values: the words of its steps and the values of their nodes,
    one each; a step without words, the mere end of an answer, is in neither. A node's value stands once in a tree, in
    the first path that has it, and is None in the others.
    """

    path: Path
    reward: float | None
    steps: tuple[str, ...]
    values: tuple[float | None, ...]


def labelled_paths(root: Node, text: Callable[[Any], str]) -> list[Labelled]:
    """`process_labels` by paths, those that tell no value left out. text: the words of a step."""
    found: list[Labelled] = []
    told: set[int] = set()
    for leaf in root.walk():
        if leaf.parent is None or not leaf.visits or any(child.visits for child in leaf.children):
            continue
        said = [(node, words) for node in leaf.way if (words := text(node.step))]
        values = tuple(None if id(node) in told else node.value for node, _ in said)
        told |= {id(node) for node, _ in said}
        if any(value is not None for value in values):
            found.append(Labelled(leaf.path, leaf.reward, tuple(words for _, words in said), values))
    return found


def groups(
    prompts: Sequence[Prompt],
    roots: Sequence[Node],
    sample: Callable[[Prompt, Path, Any], Sample],
    least_spread: float = 0.1,
    reward: str = "tree",
) -> list[Group]:
    """The branchings of all trees as groups whose samples have the score `reward` already.

    sample: (prompt, path, step) -> a sample with the trajectory of that step behind that path. A group's prompt is the
    question with the branching's place behind its id ("q7/0/2"); group indices count from 0. The score's detail
    `mean` is the reward before the boost.
    """
    made: list[Group] = []
    for prompt, root in zip(prompts, roots, strict=True):
        for branching in branchings(root, least_spread):
            place = "".join(f"/{i}" for i in branching.place)
            of = Prompt(f"{prompt.id}{place}", prompt.text, prompt.record, prompt.root)
            group = Group(of, len(made))
            for index, step in enumerate(branching.steps):
                child = sample(of, branching.path, step)
                child.index = index
                child.scores[reward] = Score.of(branching.rewards[index], mean=branching.values[index])
                group.samples.append(child)
            made.append(group)
    return made
