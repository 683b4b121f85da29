"""Evaluation: means by task, pass@k, options in every order; numbers against counts by hand."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

import mmrl
from mmrl.config import ConfigError, DataConfig, EvalConfig, load
from mmrl.media import Media, View
from mmrl.rewarding.load import LoadedReward
from mmrl.training.evaluation.scores import Table, check_tasks, evaluate, pass_at, questions, table
from mmrl.training.run import Data
from mmrl.types import Group, Prompt, Sample, Score


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 1, 1), (4, 1, 2), (5, 2, 3), (6, 0, 2), (6, 6, 2), (5, 4, 2)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n, correct, k):
    answers = [True] * correct + [False] * (n - correct)
    draws = list(itertools.combinations(answers, k))
    assert pass_at(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
def test_pass_at_k_of_too_few_is_refused(n, correct, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at(n, correct, k)


def prompt(id_: str, task: str | None = None, options: int = 0) -> Prompt:
    text = "Which?\n" + "\n".join(f"{letter}. option {letter}" for letter in "ABCD"[:options])
    return Prompt(id_, text, ({"task": task} if task else {}) | {"answer": "A"})


def scored(question, *values: float | None) -> Group:
    """A group of samples with these scores; None is invalid."""
    scores = [Score.invalid("down") if value is None else Score.of(value) for value in values]
    samples = [Sample(question.prompt, i, "", scores={"r": score}) for i, score in enumerate(scores)]
    return Group(question.prompt, 0, samples)


def test_means_by_task_and_pass_at_k_by_hand():
    options = EvalConfig(samples=4, by="task", pass_at=[1, 2, 4], correct_at=0.9)
    asked = questions([prompt("1", "digit"), prompt("2", "digit"), prompt("3", "count"), prompt("4")], options)
    groups = [
        scored(asked[0], 1.0, 0.5, 0.0, 0.0),
        scored(asked[1], 1.0, 1.0, None, 0.0),
        scored(asked[2], 0.5, 0.5, 0.5, 0.5),
        scored(asked[3], 1.0, 1.0, 1.0, 1.0),
    ]
    found = table(asked, groups, ["r"], options).metrics()
    assert found == pytest.approx(
        {
            "r": (1.5 + 2 + 2 + 4) / 15,
            "r/digit": 3.5 / 7,
            "r/count": 0.5,
            "r/invalid": 1,
            "r/pass@1": (1 / 4 + 2 / 3 + 0 + 1) / 4,
            "r/pass@2": ((1 - 3 / 6) + (1 - 0 / 3) + 0 + 1) / 4,
            "r/pass@4": (1 + 0 + 1) / 3,  # the record with an invalid sample has no four
        }
    )


def test_rotations_count_as_one_record():
    options = EvalConfig(choices="rotated", by="task")
    asked = questions([prompt("1", "a", 2), prompt("2", "b", 4), prompt("3", "b"), prompt("4", "b", 3)], options)
    assert len(asked) == 2 + 4 + 1 + 3
    values = [1, 0, *[1, 1, 1, 1], 0, *[1, 1, None]]
    groups = [scored(question, value) for question, value in zip(asked, values)]
    found = table(asked, groups, ["r"], options).metrics()
    last = 2 / 3  # what was valid of it
    assert found["r"] == pytest.approx((0.5 + 1 + 0 + 1 * last) / (3 + last))
    assert found["r/b"] == pytest.approx((1 + 0 + last) / (2 + last))
    # Of the records with options, the invalid one left out, one of two is right in every order.
    assert found["r/consistent"] == 0.5


def test_parts_of_processes_add_up():
    options = EvalConfig(samples=2, by="task", pass_at=[2], choices="rotated")
    prompts = [prompt(str(i), "ab"[i % 2], 2 * (i % 3)) for i in range(6)]

    def of(part):
        asked = questions(part, options)
        groups = [scored(q, len(q.prompt.text) % 3 / 2, int(q.prompt.id[0]) % 2) for q in asked]
        made = table(asked, groups, ["r"], options)
        return [made.sums, made.weights, made.counts]

    one = Table.joined([of(prompts)]).metrics()
    assert Table.joined([of(prompts[0::2]), of(prompts[1::2])]).metrics() == pytest.approx(one)
    assert Table.joined([of(prompts), of([])]).metrics() == one


def test_a_reward_without_a_score_is_told_as_nan():
    (asked,) = questions([prompt("1")], EvalConfig())
    found = table([asked], [scored(asked, None)], ["r"], EvalConfig()).metrics()
    assert math.isnan(found["r"])
    assert found["r/invalid"] == 1


def test_choices_that_the_prompt_does_not_show_are_told():
    hidden = Prompt("h", "Which one?", {"choices": ["one", "two"], "answer": "A"})
    with pytest.warns(UserWarning, match="1 records have `choices`"):
        assert [q.prompt for q in questions([hidden], EvalConfig(choices="rotated"))] == [hidden]


def test_a_task_column_that_is_none_is_refused():
    prompts = [Prompt(str(i), "?", {"id": i, "kind": "x"}) for i in range(70)]
    with pytest.raises(ConfigError, match=r"no held-out record has a column 'task'; there are id, kind"):
        check_tasks(prompts, EvalConfig(by="task"))
    with pytest.raises(ConfigError, match="70 different values"):
        check_tasks(prompts, EvalConfig(by="id"))
    check_tasks(prompts, EvalConfig(by="kind"))


def test_no_task_is_told_under_the_name_of_another_metric():
    """Whatever stands behind a reward's name is refused as a task: here all of it that `table` makes."""
    options = EvalConfig(samples=2, pass_at=[1, 2], choices="rotated")
    asked = questions([prompt("1", options=2), prompt("2")], options)
    groups = [scored(q, *values) for q, values in zip(asked, [(1.0, 0.0), (1.0, 1.0), (0.0, None)], strict=True)]
    behind = {name.removeprefix("r/") for name in table(asked, groups, ["r"], options).metrics() if name != "r"}
    assert behind == {"invalid", "consistent", "pass@1", "pass@2"}
    for task in (*behind, "pass@16"):
        prompts = [prompt("1", "good"), prompt("2", task)]
        with pytest.raises(ConfigError, match=f"has the value '{task}'.*eval/<reward>/{task}; call it something else"):
            check_tasks(prompts, EvalConfig(by="task"))
    check_tasks([prompt("1", "invalid ones"), prompt("2", "pass")], EvalConfig(by="task"))


def test_visual_tokens_and_environment_beside_the_scores():
    def answer(prompts, n, seed):
        media = [Media(View(), (8, 8), (8, 8), tokens=12)]
        samples = {p.id: Sample(p, 0, "x", media=media, info={"calls": int(p.id), "crop": "ok"}) for p in prompts}
        return [Group(p, i, [samples[p.id]]) for i, p in enumerate(prompts)]

    reward = LoadedReward("r", lambda s: [1.0] * len(s), group=False, source="")
    run = SimpleNamespace(
        config=SimpleNamespace(eval=EvalConfig(by="task"), report=SimpleNamespace(eval_prompts=0), data=DataConfig()),
        processes=SimpleNamespace(rank=0, world=1, is_main=True, gather=lambda value: [value]),
        adapter=SimpleNamespace(evaluate=answer),
        eval_rewards=[reward],
        weights={"r": 1.0},
        data=Data(eval_prompts=[prompt("0", "a"), prompt("1")]),
        stops=SimpleNamespace(waited_long=lambda: False),
        keep=lambda *stored: None,
        whole=nullcontext,
    )
    found = evaluate(run, "now")
    assert found["eval/r"] == 1.0
    assert found["eval/visual_tokens"] == found["eval/visual_tokens/a"] == 12
    assert found["eval/env/calls"] == 0.5
    assert found["eval/env/crop/ok"] == 1.0


def test_configs_that_cannot_mean_it_are_refused(tiny):
    with pytest.raises(ConfigError, match=r"pass_at=\[1, 8\] with samples=4"):
        load(tiny(eval={"samples": 4, "pass_at": [1, 8]}))
    greedy = {"modality": "text", "model": {"path": "x", "evaluation": {"temperature": 0}}}
    with pytest.raises(ConfigError, match="greedy samples are all the same"):
        load({**tiny(), **greedy, "eval": {"samples": 4, "pass_at": [4]}})


def test_mmrl_eval_by_task_and_pass_at_k(tiny, tmp_path):
    lines = [f'{{"id": "{i}", "prompt": "a red dot {i}", "task": "{"ab"[i % 2]}"}}' for i in range(4)]
    (tmp_path / "held.jsonl").write_text("\n".join(lines))
    config = tiny(
        data={"eval_prompts": str(tmp_path / "held.jsonl")},
        eval={"samples": 2, "by": "task", "pass_at": [1, 2], "correct_at": 0.0},
    )
    found = mmrl.evaluate(config)
    assert set(found) == {f"eval/bright.brightness{rest}" for rest in ("", "/a", "/b", "/pass@1", "/pass@2")}
    assert found["eval/bright.brightness"] == pytest.approx(
        (found["eval/bright.brightness/a"] + found["eval/bright.brightness/b"]) / 2
    )
    assert found["eval/bright.brightness/pass@2"] == 1.0
