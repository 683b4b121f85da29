"""Reward functions in TRL's form, as TRL's own documentation has them, run as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.load import public_rewards
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample, Trajectory


def group(texts, record=None, ids=None) -> Group:
    record = {"prompt": "say it", **(record or {})}
    prompt = Prompt("p", "say it", record)
    samples = [Sample(prompt, i, text) for i, text in enumerate(texts)]
    for sample, tokens in zip(samples, ids or []):
        zeros = torch.zeros(len(tokens))
        sample.trajectory = Trajectory(zeros, zeros.bool(), {"ids": torch.tensor(tokens)})
    return Group(prompt, 0, samples)


def scores(path, attribute, group, options=None):
    reward = load_reward(f"{path}:{attribute}", options)
    score_groups([group], [reward])
    return [s.scores[reward.name] for s in group.samples]


MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "say it"}]


def test_completions_are_texts_and_columns_lists(plugin):
    path = plugin(
        "mine",
        """
        def reward_func(completions, ground_truth, **kwargs):
            assert sorted(kwargs) == ["id", "prompts"], kwargs
            return [1.0 if c == gt else 0.0 for c, gt in zip(completions, ground_truth, strict=True)]
        """,
    )
    found = scores(path, "reward_func", group(["a", "b", "a"], {"ground_truth": "a", "id": "7"}))
    assert [s.value for s in found] == [1.0, 0.0, 1.0]


def test_completions_are_messages_where_the_prompt_is(plugin):
    path = plugin(
        "mine",
        """
        def length(prompts, completions, **kwargs):
            for prompt, completion in zip(prompts, completions):
                assert [m["role"] for m in prompt] == ["system", "user"]
                assert [m["role"] for m in completion] == ["assistant"]
            return [float(len(completion[0]["content"])) for completion in completions]
        """,
    )
    assert [s.value for s in scores(path, "length", group(["a", "bbb"], {"messages": MESSAGES}))] == [1.0, 3.0]


def test_prompts_are_texts_where_they_are_none(plugin):
    path = plugin("mine", "def f(completions, prompts):\n    return [p == 'say it' for p in prompts]\n")
    assert [s.value for s in scores(path, "f", group(["a", "b"]))] == [1.0, 1.0]


def test_completion_ids_are_lists_of_the_sampled_tokens(plugin):
    path = plugin("mine", "def f(completions, completion_ids, **_):\n    return [sum(ids) for ids in completion_ids]\n")
    assert [s.value for s in scores(path, "f", group(["a", "b"], ids=[[1, 2], [5]]))] == [3.0, 5.0]
    without = scores(path, "f", group(["a"]))[0]
    assert without.status == "invalid"
    assert "lack completion_ids" in without.reason


def test_none_is_not_applicable_and_a_failure_is_invalid(plugin):
    path = plugin(
        "mine",
        """
        def some(completions, task, **kwargs):
            return [1.0 if t == "math" and c else None for c, t in zip(completions, task)]

        def fails(completions, **kwargs):
            raise KeyError("oh")

        def short(completions, **kwargs):
            return [1.0]
        """,
    )
    assert [s.status for s in scores(path, "some", group(["a", ""], {"task": "math"}))] == ["ok", "na"]
    failed = scores(path, "fails", group(["a"]))[0]
    assert failed.status == "invalid"
    assert "KeyError: 'oh' (mine.py:6)" in failed.reason
    assert "returned 1 score; expected 2 scores" in scores(path, "short", group(["a", "b"]))[0].reason


def test_coroutines_and_classes(plugin):
    path = plugin(
        "mine",
        """
        async def later(completions, **kwargs):
            return [float(len(c)) for c in completions]

        class Scaled:
            def __init__(self, by=1.0):
                self.by = by

            def __call__(self, completions, **kwargs):
                return [self.by * len(c) for c in completions]
        """,
    )
    assert [s.value for s in scores(path, "later", group(["aa"]))] == [2.0]
    assert [s.value for s in scores(path, "Scaled", group(["aa"]), {"by": 3})] == [6.0]


def test_parameters_with_a_default_are_options(plugin):
    path = plugin("mine", "def f(completions, by=1, **kwargs):\n    return [by * len(c) for c in completions]\n")
    assert [s.value for s in scores(path, "f", group(["aa"]))] == [2.0]
    assert [s.value for s in scores(path, "f", group(["aa"], {"by": 9}), {"by": 5})] == [10.0]
    with pytest.raises(RewardError, match="no option 'bye'; did you mean 'by'"):
        load_reward(f"{path}:f", {"bye": 1})


def test_missing_columns_are_told_before_training(plugin):
    path = plugin("mine", "def f(completions, solution, hint=None):\n    return [1.0] * len(completions)\n")
    check = load_reward(f"{path}:f").check_all
    assert check([]) is check([Prompt("p", "q", {"solution": 1})]) is None
    assert check([Prompt("p", "q", {}), Prompt("q", "q", {})]).startswith("no prompt has the column solution")
    failed = scores(path, "f", group(["a"]))[0]
    assert failed.status == "invalid"
    assert "the records lack solution" in failed.reason


def test_a_column_that_only_other_records_have_is_none(plugin):
    """As `datasets` makes one table of them for TRL: the second record lacks `task`, the first `hint`."""
    path = plugin(
        "mine",
        """
        def f(completions, task, **columns):
            return [float(t == "math") + 2 * (h is None) for t, h in zip(task, columns["hint"])]
        """,
    )
    reward = load_reward(f"{path}:f")
    first, second = group(["a"], {"task": "math"}), group(["b"], {"hint": "h"})
    with pytest.warns(UserWarning, match="1 of 2 prompts lack the column `task`: None is given"):
        assert reward.check_all([first.prompt, second.prompt]) is None
    score_groups([first, second], [reward])
    assert [g.samples[0].scores[reward.name].value for g in (first, second)] == [3.0, 0.0]


def test_the_beginning_that_a_prompt_brings_is_of_the_completion(plugin):
    path = plugin(
        "mine",
        """
        def f(completions, prompts, **_):
            assert [[m["role"] for m in p] for p in prompts] == [["user"]]
            return [float(c[0]["content"] == "<think>so</think>") for c in completions]
        """,
    )
    begun = [{"role": "user", "content": "say it"}, {"role": "assistant", "content": "<think>"}]
    assert scores(path, "f", group(["so</think>"], {"messages": begun}))[0].value == 1.0


def test_what_only_the_trainer_of_trl_has_is_refused(plugin):
    path = plugin("mine", "def f(completions, trainer_state, **kwargs):\n    return [0.0]\n")
    with pytest.raises(RewardError, match=r"mine\.py:f.*needs 'trainer_state', which only TRL's trainer has"):
        load_reward(f"{path}:f")
    path = plugin("mild", "def f(completions, trainer_state=None, log_metric=None, **kwargs):\n    return [0.0]\n")
    assert scores(path, "f", group(["a"]))[0].value == 0.0


def test_a_sample_that_is_no_text_is_invalid(plugin):
    path = plugin("mine", "def f(completions, **kwargs):\n    return [0.0]\n")
    found = scores(path, "f", group([3]))[0]
    assert found.status == "invalid"
    assert "the sample's artifact is a int" in found.reason


def test_our_own_form_is_left_alone_and_misspelt_names_find_both(plugin):
    path = plugin(
        "mine", "def ours(samples):\n    return [1.0]\n\ndef theirs(prompts, completions):\n    return [2.0]\n"
    )
    assert scores(path, "ours", group([3]))[0].value == 1.0
    assert public_rewards(Path(path)) == ["ours", "theirs"]
