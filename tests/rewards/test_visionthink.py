"""VisionThink's table of what correct samples get, in both forms, and groups that a failure spoils."""

from __future__ import annotations

import pytest
from every import every

from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample


def scores(direct: int, called: int, wrong_direct: int = 0, wrong_called: int = 0, **options):
    """Scores of (direct correct, called correct, direct wrong, called wrong), in this order, one each."""
    prompt = Prompt("p", "q", {"answer": "B"})
    kinds = [("B", 0, direct), ("B", 1, called), ("A", 0, wrong_direct), ("A", 1, wrong_called)]
    samples = [Sample(prompt, 0, text, info={"calls": calls}) for text, calls, n in kinds for _ in range(n)]
    found = run(Group(prompt, 0, samples), **options)
    ends = [direct, direct + called, direct + called + wrong_direct, len(samples)]
    parts = [found[start:end] for start, end in zip([0, *ends], ends)]
    assert all(len({s.value for s in part}) <= 1 for part in parts)
    return [part[0].value if part else None for part in parts]


def run(group: Group, **options):
    reward = load_reward("visionthink.controlled", options)
    score_groups([group], [reward])
    return [s.scores["visionthink.controlled"] for s in group.samples]


@every(
    ("direct", "called", "paper", "code"),
    [
        (1, 9, (0.9, 1.0), (0.9, 0.9)),  # the code's tie
        (3, 7, (1.0, 0.9), (1.0, 0.9)),
        (0, 8, (None, 1.0), (None, 0.9)),
        (8, 0, (1.0, None), (1.0, None)),
        (2, 8, (1.0, 0.9), (0.9, 0.9)),  # r is 0.2: not below for the paper, below by the code's 1e-4
        (1, 0, (1.0, None), (1.0, None)),
    ],
)
def test_the_table(direct, called, paper, code):
    assert scores(direct, called)[:2] == [pytest.approx(v) if v is not None else None for v in paper]
    assert scores(direct, called, mode="code")[:2] == [pytest.approx(v) if v is not None else None for v in code]


def test_wrong_samples_and_the_formula_as_it_is_written():
    # Wrong samples do not count in the ratio, and lose nothing unless the formula is taken as it is written.
    assert scores(3, 7, 2, 4) == [1.0, pytest.approx(0.9), 0.0, 0.0]
    assert scores(3, 7, 2, 4, mode="code") == [1.0, pytest.approx(0.9), 0.0, 0.0]
    assert scores(3, 7, 2, 4, only_correct=False) == [1.0, pytest.approx(0.9), 0.0, pytest.approx(-0.1)]
    assert scores(1, 9, 2, 4, only_correct=False) == [pytest.approx(0.9), 1.0, pytest.approx(-0.1), 0.0]
    assert scores(0, 0, 2, 4, only_correct=False) == [None, None, 0.0, 0.0]  # no ratio of nothing


def test_penalty_and_threshold_are_options():
    assert scores(3, 7, threshold=0.5, penalty=0.2)[:2] == [pytest.approx(0.8), 1.0]


def test_an_accuracy_that_is_not_0_or_1():
    prompt = Prompt("p", "q", {"numbers": [2, 3], "target": 6})
    group = Group(prompt, 0, [Sample(prompt, i, text, info={"calls": i}) for i, text in enumerate(["2*3", "2+3"])])
    accuracy = {"name": "countdown.solves", "options": {"partial": 0.5}}
    assert [s.value for s in run(group, accuracy=accuracy)] == [1.0, 0.5]
    assert [s.value for s in run(group, accuracy=accuracy, correct_at=0.5)] == [1.0, pytest.approx(0.4)]
    assert [s.value for s in run(group, accuracy=accuracy, correct_at=0.5, mode="code")] == [1.0, pytest.approx(0.45)]


def test_one_failure_spoils_the_ratio_of_the_whole_group(tmp_path):
    judge = tmp_path / "judge.py"
    judge.write_text(
        "def fails_on_c(samples):\n    return [float('nan') if s.artifact == 'C' else 1.0 for s in samples]\n"
    )
    prompt = Prompt("p", "q", {"answer": "B"})
    group = Group(prompt, 0, [Sample(prompt, i, text, info={"calls": 0}) for i, text in enumerate("BBC")])
    found = run(group, accuracy=f"{judge}:fails_on_c")
    assert [s.status for s in found] == ["invalid"] * 3
    assert "sample 2 has no accuracy" in found[0].reason


def test_unknown_calls_and_records_without_an_answer():
    prompt = Prompt("p", "q", {"answer": "B"})
    unknown = run(Group(prompt, 0, [Sample(prompt, 0, "B")]))
    assert unknown[0].status == "invalid"
    assert "tells no `calls`" in unknown[0].reason
    bare = Prompt("p", "q")
    assert run(Group(bare, 0, [Sample(bare, 0, "B", info={"calls": 0})]))[0].status == "na"
    assert "lacks a non-empty `answer`" in load_reward("visionthink.controlled").check_prompt(bare)


@every(
    ("options", "told"),
    [
        ({"mode": "both"}, "expected one of paper, code"),
        ({"mode": "code", "only_correct": False}, "belongs to the paper's formula"),
        ({"penalty": 2}, "must be from 0 to 1"),
        ({"accuracy": "exact.mach"}, "did you mean 'match'"),
    ],
)
def test_wrong_options(options, told):
    with pytest.raises(RewardError, match=told):
        load_reward("visionthink.controlled", options)
