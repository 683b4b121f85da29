import subprocess
import sys

import pytest

from mmrl.rewarding import RewardError, available, load_reward
from mmrl.types import Prompt


def test_rewards_that_ship_are_listed_without_importing_them():
    names = available()
    assert {
        "composition.follows",
        "composition.strict",
        "jpeg.compressible",
        "clip.score",
        "ocr.quoted",
    } <= set(names)
    assert "composition.detect" not in names
    code = (
        "import sys, mmrl.rewarding as r; r.available(); "
        "print([m for m in ('open_clip', 'rapidocr', 'scipy', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("name", ["composition.folows", "compositon.follows"])
def test_a_misspelt_name_is_answered_with_the_nearest(name):
    with pytest.raises(RewardError, match=r"did you mean .*follows"):
        load_reward(name)


@pytest.mark.parametrize("name", ["follows", "../composition.follows", "", "a.b.c"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(RewardError, match="unknown reward"):
        load_reward(name)


def test_a_function_of_the_user_gets_its_options_at_every_call(plugin, group):
    path = plugin("mine", "def scaled(samples, by=1):\n    return [s.artifact * by for s in samples]\n")
    reward = load_reward(f"{path}:scaled", {"by": 3})
    assert reward.call(group("a", [1, 2]).samples) == [3, 6]
    assert (reward.group, reward.name, reward.check_prompt) == (False, "mine.scaled", None)


def test_a_class_is_built_once(plugin, group):
    path = plugin(
        "mine",
        """
        built = []

        class Counter:
            def __init__(self, start):
                built.append(start)
                self.next = start

            def __call__(self, samples):
                self.next += 1
                return [self.next] * len(samples)

        def how_often(samples):
            return [len(built)] * len(samples)
        """,
    )
    reward = load_reward(f"{path}:Counter", {"start": 5})
    samples = group("a", [0]).samples
    assert [reward.call(samples), reward.call(samples)] == [[6], [7]]
    assert load_reward(f"{path}:how_often").call(samples) == [1], "the file must be imported only once"


def test_group_rewards_are_marked_functions_classes_and_factories(plugin, group):
    path = plugin(
        "mine",
        """
        from mmrl.rewarding import group_reward, win_rate

        @group_reward
        def size(group):
            return [len(group.samples)] * len(group.samples)

        @group_reward
        class Size:
            def __call__(self, group):
                return [len(group.samples)] * len(group.samples)

        duel = win_rate(lambda a, b: float(a.artifact > b.artifact))
        """,
    )
    for name, expected in (("size", [2, 2]), ("Size", [2, 2])):
        reward = load_reward(f"{path}:{name}")
        assert reward.group
        assert reward.call(group("a", [0, 0])) == expected
    duel = load_reward(f"{path}:duel")
    assert duel.group
    assert [s.value for s in duel.call(group("a", [1, 2]))] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scael": 2}, "no option 'scael'; did you mean 'scale'"), ({}, "needs the option 'scale'")],
)
def test_wrong_options_are_found_at_loading(plugin, options, message):
    path = plugin("mine", "def f(samples, scale):\n    return []\n")
    with pytest.raises(RewardError, match=message):
        load_reward(f"{path}:f", options)


def test_a_missing_extra_names_the_command(plugin, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    path = plugin("needs_ocr", "import rapidocr\n\ndef f(samples):\n    return []\n")
    with pytest.raises(RewardError) as error:
        load_reward(f"{path}:f")
    assert 'pip install "mmrl[ocr]"' in str(error.value)
    assert "\n" not in str(error.value)


def test_a_class_that_imports_late_names_the_command_too(plugin, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    path = plugin(
        "late",
        """
        class F:
            def __init__(self):
                import open_clip

            def __call__(self, samples):
                return []
        """,
    )
    with pytest.raises(RewardError, match=r"mmrl\[clip\]"):
        load_reward(f"{path}:F")


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("import no_such_package_here\n", "f", "'no_such_package_here', which is not installed"),
        ("def f(:\n", "f", "does not import: SyntaxError"),
        ("1 / 0\n", "f", "does not import: ZeroDivisionError"),
        ("def quality(samples):\n    return []\n", "qualty", "did you mean 'quality'"),
        ("f = 3\n", "f", "has no 'f'"),
    ],
)
def test_a_file_that_does_not_serve_says_why(plugin, source, name, message):
    path = plugin(f"broken_{abs(hash(source))}", source)
    with pytest.raises(RewardError, match=message):
        load_reward(f"{path}:{name}")


def test_a_file_that_is_not_there_or_no_module(tmp_path, plugin):
    with pytest.raises(RewardError, match="there is no file"):
        load_reward(f"{tmp_path}/absent.py:f")
    with pytest.raises(RewardError, match="cannot be imported"):
        load_reward(f"{plugin('my-reward', 'x = 1')}:f")


def test_files_of_one_folder_may_import_one_another_and_folders_do_not_mix(tmp_path, group):
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "shared.py").write_text(f"VALUE = {value}\n")
        source = "from .shared import VALUE\n\ndef f(samples):\n    return [VALUE] * len(samples)\n"
        (tmp_path / folder / "mine.py").write_text(source)
    samples = group("g", [0]).samples
    assert load_reward(f"{tmp_path}/a/mine.py:f").call(samples) == [1]
    assert load_reward(f"{tmp_path}/b/mine.py:f").call(samples) == [2]


def test_a_check_of_prompts_comes_with_the_reward(plugin):
    path = plugin(
        "checked",
        """
        def check_prompt(prompt):
            return None if "!" in prompt.text else f"{prompt.id}: no exclamation mark"

        def f(samples):
            return []
        """,
    )
    check = load_reward(f"{path}:f").check_prompt
    assert check(Prompt("a", "hey!")) is None
    assert check(Prompt("a", "hey")) == "a: no exclamation mark"


def test_a_class_may_say_itself_which_prompts_suit_it(plugin):
    path = plugin(
        "mine",
        """
        class Needs:
            groups_at_once = 4

            def __init__(self, column):
                self.column = column

            def __call__(self, samples):
                return [0] * len(samples)

            def check_prompt(self, prompt):
                return None if self.column in prompt.record else f"lacks {self.column}"

        def plain(samples):
            return [0] * len(samples)

        def check_prompt(prompt):
            return "of the file"
        """,
    )
    needs, plain = load_reward(f"{path}:Needs", {"column": "mask"}), load_reward(f"{path}:plain")
    assert needs.check_prompt(Prompt("p", "q", {})) == "lacks mask"
    assert needs.check_prompt(Prompt("p", "q", {"mask": 1})) is None
    assert plain.check_prompt(Prompt("p", "q", {})) == "of the file"
    assert (needs.at_once, plain.at_once) == (4, 1)


def test_a_reward_stands_twice_under_an_alias():
    from mmrl.config import load
    from mmrl.rewarding.run import score_groups
    from mmrl.training.assemble import load_rewards
    from mmrl.types import Group, Sample

    config = load(
        {
            "modality": "text",
            "model": {"path": "none"},
            "data": {"prompts": "none.jsonl"},
            "rewards": [
                {"name": "regex.count", "options": {"pattern": "a"}},
                {"name": "regex.count", "alias": "b", "options": {"pattern": "b"}},
            ],
            "stages": [{"kind": "grpo", "steps": 1}],
        }
    )
    rewards, _ = load_rewards(config)
    sample = Sample(Prompt("p", "say"), 0, "abb")
    score_groups([Group(sample.prompt, 0, [sample])], rewards)
    assert {name: score.value for name, score in sample.scores.items()} == {"regex.count": 1.0, "b": 1.0}
