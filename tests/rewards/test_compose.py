"""Rewards of rewards: the published sums, what is not run, and failures that stay failures."""

from __future__ import annotations

import textwrap

import pytest

from mmrl.media import Media, View
from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample


def run(name: str, options: dict, texts: list[str], **record):
    prompt = Prompt("p", "q", record)
    media = [Media(View(), (100, 100), (100, 100), "original")]
    group = Group(prompt, 0, [Sample(prompt, i, text, media=media) for i, text in enumerate(texts)])
    reward = load_reward(f"compose.{name}", options)
    score_groups([group], [reward])
    assert all(set(s.scores) == {reward.name} for s in group.samples), "parts must leave no scores behind"
    return [s.scores[reward.name] for s in group.samples]


@pytest.fixture
def parts(tmp_path):
    """Rewards of a user: one that counts its calls, one that fails, one that does not apply, one of groups."""
    path = tmp_path / "parts.py"
    path.write_text(
        textwrap.dedent(
            """
            from mmrl.rewarding import group_reward

            seen = []

            def counted(samples):
                seen.extend(s.artifact for s in samples)
                return [0.5] * len(samples)

            def fails(samples):
                raise OSError("the judge is down")

            def skips(samples):
                return [None] * len(samples)

            @group_reward
            def size(group):
                return [len(group.samples)] * len(group.samples)

            def how_many(samples):
                return [len(seen)] * len(samples)
            """
        )
    )
    return str(path)


# -------------------------------------------------------------------- dispatch

TASKS = {
    "by": "accu_reward_method",
    "rewards": {
        "mcq": "choice.letter",
        "chart": {"name": "chart.relaxed", "options": {"rtol": 0.1}},
        "odLength": "detection.average_precision",
        7: "exact.match",
    },
}


@pytest.mark.parametrize(
    ("record", "text", "value"),
    [
        ({"accu_reward_method": "mcq", "answer": "B"}, "(B)", 1.0),
        ({"accu_reward_method": "chart", "answer": "100"}, "109", 1.0),
        ({"accu_reward_method": "odLength", "objects": []}, "[]", 1.0),
        ({"accu_reward_method": 7, "answer": "109"}, "100", 0.0),
    ],
)
def test_the_reward_that_the_record_names(record, text, value):
    found = run("dispatch", TASKS, [text], **record)[0]
    assert found.value == value
    assert found.details["reward"] in ("choice.letter", "chart.relaxed", "detection.average_precision", "exact.match")


def test_a_task_without_a_reward_is_never_a_0():
    check = load_reward("compose.dispatch", TASKS).check_prompt
    unknown = run("dispatch", TASKS, ["x", "y"], accu_reward_method="llm", answer="B")
    assert [s.status for s in unknown] == ["invalid"] * 2
    assert "'llm' names no reward; there are mcq, chart, odLength, 7" in unknown[0].reason
    assert "names no reward" in check(Prompt("p", "q", {"accu_reward_method": "llm"}))
    assert run("dispatch", TASKS, ["x"], answer="B")[0].status == "na"
    assert "lacks `accu_reward_method`" in check(Prompt("p", "q", {}))
    assert "lacks a non-empty `answer`" in check(Prompt("p", "q", {"accu_reward_method": "mcq"}))
    assert check(Prompt("p", "q", {"accu_reward_method": "mcq", "answer": "B"})) is None


def test_a_default_takes_the_rest():
    options = {**TASKS, "default": {"name": "exact.match"}}
    assert run("dispatch", options, ["x"], accu_reward_method="llm", answer="x")[0].value == 1.0
    assert run("dispatch", options, ["x"], answer="x")[0].value == 1.0


def test_failures_and_group_rewards_of_a_task(parts):
    options = {"by": "task", "rewards": {"bad": f"{parts}:fails", "na": f"{parts}:skips", "all": f"{parts}:size"}}
    bad = run("dispatch", options, ["x"], task="bad")[0]
    assert bad.status == "invalid"
    assert "the judge is down" in bad.reason
    assert run("dispatch", options, ["x"], task="na")[0].status == "na"
    assert [s.value for s in run("dispatch", options, ["x", "y"], task="all")] == [2.0, 2.0]


# -------------------------------------------------------------------- gated


def test_what_is_behind_the_gate_runs_only_for_what_passes(parts):
    options = {"condition": "exact.match", "then": f"{parts}:counted"}
    found = run("gated", options, ["right", "wrong", "right"], answer="right")
    assert [s.value for s in found] == [0.5, 0.0, 0.5]
    assert found[1].details["stopped"] == "exact.match"
    assert load_reward(f"{parts}:how_many").call([None]) == [2]
    assert [s.value for s in run("gated", {**options, "otherwise": -1}, ["wrong"], answer="right")] == [-1.0]


def test_timemaster_s_sum(parts):
    # 0.9 accuracy + 0.1 format + 0.5 extension, the last only where both are 1: as three weighted rewards.
    legal = {"name": "tags.label", "options": {"labels": ["run", "walk"]}}
    right = {"name": "exact.match", "options": {"extract": "tag:class"}}
    extension = {"condition": [right, legal], "then": f"{parts}:counted"}
    texts = [f"<class>{c}</class>" for c in ("run", "walk", "fly")]
    prompt = Prompt("p", "q", {"answer": "run"})
    group = Group(prompt, 0, [Sample(prompt, i, text) for i, text in enumerate(texts)])
    rewards = [
        load_reward("exact.match", right["options"]),
        load_reward("tags.label", legal["options"]),
        load_reward("compose.gated", extension),
    ]
    score_groups([group], rewards)
    totals = [sum(w * s.scores[r.name].value for w, r in zip((0.9, 0.1, 0.5), rewards)) for s in group.samples]
    assert totals == pytest.approx([0.9 + 0.1 + 0.25, 0.1, 0.0])


def test_a_condition_that_fails_is_not_a_closed_gate(parts):
    failed = run("gated", {"condition": f"{parts}:fails", "then": "exact.match"}, ["x"], answer="x")[0]
    assert (failed.status, failed.value) == ("invalid", None)
    assert run("gated", {"condition": f"{parts}:skips", "then": "exact.match"}, ["x"], answer="x")[0].status == "na"
    behind = run("gated", {"condition": "exact.match", "then": f"{parts}:fails"}, ["x", "y"], answer="x")
    assert [s.status for s in behind] == ["invalid", "ok"]


# -------------------------------------------------------------------- staged

SATORI = {
    "stages": [
        {"name": "caption.overlap"},
        {"name": "grounding.union_iou"},
        {"name": "exact.match", "options": {"extract": "tag:answer"}},
    ]
}
RECORD = {"caption": "a small dog on grass", "boxes": [[0, 0, 10, 10]], "answer": "dog"}


def satori(caption: str, box: list, answer: str) -> str:
    return f"<caption>{caption}</caption><bbox>{[box]}</bbox><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("text", "gated", "plain"),
    [
        (satori("a small dog on grass", [0, 0, 10, 10], "dog"), 3.0, 3.0),
        (satori("a small dog on grass", [0, 0, 10, 5], "cat"), 1.5, 1.5),
        (satori("a small dog on grass", [0, 0, 10, 4], "dog"), 1.4, 2.4),  # looked elsewhere: the answer counts nothing
        (satori("x", [0, 0, 10, 10], "dog"), 0.0, 2.0),
    ],
)
def test_satori_s_stages(text, gated, plain):
    assert run("staged", SATORI, [text], **RECORD)[0].value == pytest.approx(gated)
    assert run("staged", {**SATORI, "threshold": 0}, [text], **RECORD)[0].value == pytest.approx(plain)


def test_weights_and_thresholds_of_stages():
    text = satori("a small dog on grass", [0, 0, 10, 4], "dog")
    options = {**SATORI, "weights": [0.5, 1, 2], "threshold": [0.5, 0.4, 1]}
    found = run("staged", options, [text], **RECORD)[0]
    assert found.value == pytest.approx(0.5 + 0.4 + 2)
    earned = {"1 caption.overlap": 1.0, "2 grounding.union_iou": 0.4, "3 exact.match": 1.0}
    assert found.details.items() >= earned.items()


def test_stages_that_fail_or_do_not_apply(parts):
    both = {"stages": ["exact.match", f"{parts}:fails"]}
    found = run("staged", both, ["x", "y"], answer="x")
    assert [s.status for s in found] == ["invalid", "ok"]  # the second never came to the judge
    assert run("staged", {"stages": [f"{parts}:skips", "exact.match"]}, ["x"], answer="x")[0].value == 1.0
    assert run("staged", {"stages": [f"{parts}:skips"]}, ["x"])[0].status == "na"
    check = load_reward("compose.staged", SATORI).check_prompt
    assert check(Prompt("p", "q", RECORD)) is None
    assert "lacks `boxes`" in check(Prompt("p", "q", {**RECORD, "boxes": None}))


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("gated", {"condition": [], "then": "choice.letter"}, "condition is empty"),
        ("dispatch", {"by": "task", "rewards": {}}, "rewards is empty"),
        ("dispatch", {"by": "task", "rewards": {"a": "exact.mach"}}, "did you mean 'match'"),
        ("dispatch", {"by": "task", "rewards": {"a": {"nme": "exact.match"}}}, "expected the name of a reward"),
        ("gated", {"condition": "exact.match", "then": {"name": "exact.match", "weight": 2}}, "expected the name"),
        ("staged", {"stages": []}, "need one of each"),
        ("staged", {"stages": ["exact.match"], "weights": [1, 2]}, "1 stages, 1 thresholds and 2 weights"),
    ],
)
def test_wrong_options(name, options, told):
    with pytest.raises(RewardError, match=told):
        load_reward(f"compose.{name}", options)


# -------------------------------------------------------------------- what the parts say of a sample

SAYING = """
from mmrl.types import Score

def runs(samples):
    fine = [s.artifact == "good" for s in samples]
    return [Score.of(float(f), status="ok" if f else "syntax", why=s.artifact) for f, s in zip(fine, samples)]

def fits(samples):
    return [Score.of(0.5, status="ok", solids={"answer": 1}) for s in samples]
"""


@pytest.mark.parametrize("several", [False, True])
def test_what_a_part_tells_of_a_sample_is_told_of_the_whole(tmp_path, several):
    """Shares of statuses, and what the report draws, are read from details: a closed gate hides no failure."""
    (tmp_path / "saying.py").write_text(SAYING)
    then = f"{tmp_path}/saying.py:fits"
    options = {"condition": f"{tmp_path}/saying.py:runs", "then": [then] if several else then}
    good, bad = run("gated", options, ["good", "b(d"])
    assert (good.value, bad.value) == (0.5, 0.0)
    assert (good.details["status"], bad.details["status"]) == ("ok", "syntax")
    assert bad.details["why"] == "b(d" and good.details["solids"] == {"answer": 1}
