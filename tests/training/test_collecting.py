"""Every way of collecting a step: all prompts come in turn, and no two groups of a run have the same samples."""

from __future__ import annotations

from collections import Counter
from itertools import chain, pairwise

import pytest
import torch
from able import PROMPTS, able, values
from answers import ranks

from mmrl.training.rollouts.sampling import RewardFailure
from mmrl.types import Prompt

HINTS = {"reward": "never", "threshold": 2.0, "fractions": [0.25], "sentence": " "}
TREE = {"iterations": 3, "children": 6, "depth": 4, "step_end": "b", "step_tokens": 2, "least_spread": 0.0}
BY_LEVEL = {"column": "hard", "advance_every": 3}

# name -> options of the stage. Of the curricula, "staged" asks for its easiest level in the first three steps.
WAYS = {
    "answers": {},
    "in chunks": {"rollout_chunk": 1},
    "refill": {"refill": 3},
    "hints": {"hints": HINTS},
    "staleness": {"staleness": 2},
    "tree": {"tree": TREE},
    "sorted": {"curriculum": {"order": "sorted", "column": "hard"}},
    "staged": {"curriculum": {"order": "staged", **BY_LEVEL}},
    "mixed": {"curriculum": {"order": "mixed", **BY_LEVEL}},
    "retire": {"curriculum": {"retire_at": 1.0, "correct_at": 9.0}},
}
each = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """asked(way, prompts, ...) -> per step, [(plain id, group's key, its answers)] of every group that was sampled."""

    def run(way, prompts=PROMPTS, stages=1, name="run", processes=None, **options):
        samples = {} if way == "tree" else {"samples": 6}
        stage = {"steps": 6, "groups": 4, **samples, **WAYS[way], **options}
        made = [{**stage, "name": f"s{i}"} for i in range(stages)]
        rewards = [{"name": f"{tmp_path / 'never.py'}:never", "alias": "never"}]
        (tmp_path / "never.py").write_text(
            "def never(samples):\n    return [float(len(s.artifact) == 3) for s in samples]\n"
        )
        loop = able(values(tmp_path, *made, name=name, rewards=rewards), prompts, processes=processes)
        adapter, found = loop.adapter, {}

        def note(groups):
            key = (loop.cursor.stage, loop.cursor.step + len(loop.stage.rollouts.queue) if loop.stage else 0)
            found.setdefault(key, []).extend(groups)

        rollout, next_steps = adapter.rollout, adapter.next_steps

        def rolled(groups, n, step, seed):
            made = rollout(groups, n, step, seed)
            if loop.stage is not None and n > 2:  # no check of the adapter
                note(
                    (g.prompt.id.partition("#")[0], g.prompt.id, [s.artifact for s in m.samples])
                    for g, m in zip(groups, made)
                )
            return made

        def stepped(items, seeds, greedy, **rest):
            made = next_steps(items, seeds, greedy, **rest)
            if not greedy and not any(path for _, path in items):  # the first steps of each tree
                note((p.id, p.id, [c.ids.tolist() for c in some]) for (p, _), some in zip(items, made))
            return made

        monkeypatch.setattr(adapter, "rollout", rolled)
        monkeypatch.setattr(adapter, "next_steps", stepped)
        loop.train()
        return [groups for _, groups in sorted(found.items())]

    return run


@each
def test_steps_ask_for_other_prompts_until_all_were_asked(asked, way):
    """12 prompts, 4 a step, 4 of each level: a pass is three steps."""
    steps = [[name for name, *_ in groups] for groups in asked(way)]
    assert len(steps) == 6
    firsts = [tuple(dict.fromkeys(names)) for names in steps]
    assert all(one != other for one, other in pairwise(firsts))
    first_pass = set(chain.from_iterable(steps[:3]))
    if way in ("staged", "mixed"):  # the four easiest in each of the first steps, in another order; then the others
        assert first_pass == {p.id for p in PROMPTS if p.record["hard"] == 0}
        assert set(chain.from_iterable(steps[3:])) >= {p.id for p in PROMPTS if p.record["hard"] == 1}
    else:
        assert first_pass == {p.id for p in PROMPTS}
        assert set(chain.from_iterable(steps[3:])) == first_pass
    if way == "sorted":
        hard = {p.id: p.record["hard"] for p in PROMPTS}
        assert [sorted(hard[n] for n in names) for names in steps] == [[0] * 4, [1] * 4, [2] * 4] * 2


@each
def test_a_prompt_that_is_asked_twice_in_a_step_gets_other_samples(asked, way):
    """One prompt fills all groups of a step: by itself, and where a group is sampled again."""
    only = [Prompt("only", "xxxx", {"hard": 0, "solution": "abcdabcd"})]
    steps = asked(way, only, steps=3)
    assert len(steps) == 3
    for groups in steps:
        alike = Counter((key, str(answers)) for _, key, answers in groups)
        assert len(groups) >= 4
        assert max(alike.values()) == 1, alike


@each
def test_a_second_stage_has_an_order_and_samples_of_its_own(asked, way):
    """The policies are nearly equal, so that equal noise would give equal samples."""
    steps = asked(way, stages=2, steps=3, optim={"lr": 1e-9})
    one, other = steps[:3], steps[3:]
    assert len(other) == 3
    names = [[[name for name, *_ in groups] for groups in some] for some in (one, other)]
    assert names[0] != names[1]
    drawn = [{str(group) for groups in some for group in groups} for some in (one, other)]
    assert not drawn[0] & drawn[1]


JUDGE = """
from pathlib import Path

DOWN = Path(__file__).with_name("down")

def three(samples):
    if DOWN.exists() and samples[0].prompt.id == "p3":
        raise OSError("no judge")
    return [float(len(s.artifact) == 3) for s in samples]
"""


@each
@pytest.mark.parametrize("world", [1, 3])
def test_a_step_that_failed_stops_all_processes_and_is_collected_again_as_it_was(tmp_path, way, world):
    """The judge of one prompt, and so of one process, is down. Mended, the run is the one that never failed."""
    (tmp_path / "judge.py").write_text(JUDGE)
    stage = {"steps": 4, "groups": 4, **({"max_invalid": 0.0} if way != "tree" else {}), **WAYS[way]}
    reward = [{"name": f"{tmp_path / 'judge.py'}:three", "alias": "never"}]
    config = values(tmp_path, stage, rewards=reward)

    def run(processes=None, resume=False):
        loop = able(config, processes=processes)
        try:
            loop.train(resume=resume)
        except RewardFailure as error:
            return str(error)
        return loop.adapter.table

    straight = able({**config, "name": "straight"})
    straight.train()
    (tmp_path / "down").touch()
    told = ranks(run, world)
    assert "no judge" in told[0] and told == [told[0]] * world
    (tmp_path / "down").unlink()
    for table in ranks(lambda processes: run(processes, resume=True), world):
        torch.testing.assert_close(table, straight.adapter.table, rtol=0, atol=1e-6)
