"""Python objects in the place of files: rows and callables in a configuration, through a whole run and its resume."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import pytest
import torch

import mmrl
from mmrl import objects
from mmrl.api import _check_objects, _config
from mmrl.config import ConfigError
from mmrl.data.prompts import load_prompts, training_prompts
from mmrl.data.records import Records
from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.training.stopping import Stopped
from mmrl.types import Group, Prompt, Sample

ROWS = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2=", "answer": "4"}, {"prompt": "3+3=", "answer": "6"}]
MODEL = {
    "path": "built",
    "build": {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1},
    "sampling": {"max_tokens": 4},
}


def generated():
    yield from ROWS


def of_the_index(index, add=0):
    return {"prompt": f"{index + add}+0=", "answer": str(index + add)}


class Frame:
    """As much of a data frame as is asked of one."""

    columns = ("prompt", "answer")

    def to_dict(self, orient):
        assert orient == "records"
        return ROWS


class Indexed:
    """A torch data set."""

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, index):
        return ROWS[index]


def from_datasets(kind):
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "Dataset"):
        pytest.skip("the folder `datasets` is not the library")
    if kind == "stream":
        return datasets.IterableDataset.from_generator(generated)
    return datasets.Dataset.from_list(ROWS)


SOURCES = {
    "list": lambda: list(ROWS),
    "tuple": lambda: tuple(ROWS),
    "generator": generated,
    "generator function": lambda: generated,
    "iterator": lambda: iter(ROWS),
    "datasets": lambda: from_datasets("table"),
    "streamed": lambda: from_datasets("stream"),
    "frame": Frame,
    "torch": Indexed,
}


def config(**data):
    stage = {"kind": "grpo", "steps": 1, "groups": 2, "samples": 2}
    return {"modality": "text", "model": MODEL, "data": data, "rewards": [{"name": "exact.match"}], "stages": [stage]}


# -------------------------------------------------------------------- data


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_rows_of_every_kind_are_the_same_prompts_under_the_same_name(source):
    value = source()
    made = _config(config(prompts=value), {})
    assert made.data.prompts == _config(config(prompts=ROWS), {}).data.prompts
    prompts = training_prompts(made.data)
    assert [(p.id, p.text, p.record["answer"]) for p in prompts] == [
        ("0", "1+1=", "2"),
        ("1", "2+2=", "4"),
        ("2", "3+3=", "6"),
    ]


def test_every_key_that_names_a_source_takes_rows():
    made = _config(config(prompts=ROWS), {"data__eval_prompts": ["a", "b"], "data__records": iter(ROWS)})
    assert [p.text for p in load_prompts(str(made.data.eval_prompts), {}, "stop")] == ["a", "b"]
    assert Records(made.data, ("answer",)).count == 3
    pairs = [{"prompt": "q", "chosen": "a", "rejected": "b"}]
    stage = {"kind": "preference", "steps": 1, "batch": 1, "pairs": pairs}
    made = _config({**config(), "rewards": [], "stages": [stage]}, {})
    assert load_prompts(made.stages[0].pairs, {}, "stop")[0].record["chosen"] == "a"


def test_a_function_of_the_index_is_one():
    made = _config(config(prompts=of_the_index, prompts_count=2, prompts_options={"add": 5}), {})
    assert made.data.prompts == "object:function:of_the_index"
    assert [p.text for p in training_prompts(made.data)] == ["5+0=", "6+0="]


def test_the_name_of_rows_is_a_mark_of_what_they_hold():
    names = [
        _config(config(prompts=rows), {}).data.prompts
        for rows in (ROWS, ROWS[:2], ROWS[::-1], [{**ROWS[0], "answer": 2}, *ROWS[1:]], json.loads(json.dumps(ROWS)))
    ]
    assert names[4] == names[0] and len(set(names[:4])) == 4
    from PIL import Image

    pictures = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    shown = [
        _config(config(prompts=[{"prompt": "<image>?", "images": [p]}]), {}).data
        for p in (*pictures, pictures[0].copy())
    ]
    assert shown[0].prompts == shown[2].prompts != shown[1].prompts
    assert training_prompts(shown[0])[0].record["images"] == [pictures[0]]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"train": ROWS, "test": ROWS}, "prompts: got a dict of train, test; give rows: one of its splits"),
        ([1, 2], r"prompts\[0\] is int, expected a dict of columns, or a text"),
        (object(), "prompts: got object, expected a source's name, rows, or a function"),
        ([{"prompt": ""}], r"object:.*\[0\]: needs a non-empty string `prompt`"),
        ([], "holds no prompts"),
    ],
)
def test_what_is_no_data_is_told(value, told):
    with pytest.raises(ConfigError, match=told):
        training_prompts(_config(config(prompts=value), {}).data)


def test_an_object_of_another_process_is_asked_for():
    with pytest.raises(
        ConfigError, match=r"data: object:0123 is an object of Python .* give mmrl.train the object again"
    ):
        load_prompts("object:0123", {}, "stop")
    with pytest.raises(RewardError, match="reward object:function:gone is an object of Python"):
        load_reward("object:function:gone")


# -------------------------------------------------------------------- rewards


def short(samples, most=2):
    return [float(len(s.artifact) <= most) for s in samples]


def solved(completions, answer, **kwargs):
    """In TRL's form."""
    return [float(c == a) for c, a in zip(completions, answer)]


class Longer:
    def __init__(self, than):
        self.than = than

    def __call__(self, samples):
        return [float(len(s.artifact) > self.than) for s in samples]


def more_than(count):
    def reward(samples):
        return [float(len(s.artifact) > count) for s in samples]

    return reward


def scored(names, texts, record=None):
    group = Group(prompt := Prompt("p", "q", record or {}), 0)
    group.samples = [Sample(prompt, i, text) for i, text in enumerate(texts)]
    loaded = [load_reward(section.name, section.options) for section in names]
    score_groups([group], loaded)
    return {r.name: [s.scores[r.name].value for s in group.samples] for r in loaded}


def test_callables_of_every_kind_are_rewards():
    rewards = [
        short,
        {"name": short, "alias": "shorter", "weight": -1, "options": {"most": 1}},
        solved,
        Longer(2),
        {"name": Longer, "options": {"than": 3}, "alias": "class"},
        more_than(0),
        more_than(3),
        functools.partial(short, most=9),
        lambda samples: [7.0] * len(samples),
        {"name": "exact.match"},
    ]
    made = _config({**config(prompts=ROWS), "rewards": rewards}, {}).rewards
    names = [r.name.removeprefix("object:function:") for r in made]
    assert names == [
        "short",
        "short",
        "solved",
        "Longer",
        "Longer#2",
        "reward",
        "reward#2",
        "short#2",
        "lambda",
        "exact.match",
    ]
    found = scored([r for r in made if r.alias is None], ["2", "four"], {"answer": "2"})
    assert found == {
        "short": [1, 0], "solved": [1, 0], "Longer": [0, 1], "reward": [1, 1], "reward#2": [0, 1], "short#2": [1, 1],
        "lambda": [7, 7], "exact.match": [1, 0],
    }  # fmt: skip
    assert (made[1].weight, made[1].options) == (-1, {"most": 1})
    assert scored([made[1]], ["2", "33"]) == {"short": [1, 0]}
    assert scored([made[4]], ["333", "4444"]) == {"Longer#2": [0, 1]}


def test_rewards_of_an_evaluation_and_of_an_override_are_callables_too():
    made = _config(config(prompts=ROWS), {"rewards": [short], "eval__rewards": [solved], "data__eval_prompts": ["a"]})
    assert [r.name for r in (*made.rewards, *made.eval.rewards)] == ["object:function:short", "object:function:solved"]


def test_what_a_reward_raises_is_placed_in_its_file():
    def broken(samples):
        raise KeyError("oh")

    (section,) = _config({**config(prompts=ROWS), "rewards": [broken]}, {}).rewards
    group = Group(Prompt("p", "q"), 0, [Sample(Prompt("p", "q"), 0, "a")])
    reward = load_reward(section.name)
    score_groups([group], [reward])
    assert "KeyError: 'oh' (test_objects.py:" in group.samples[0].scores[reward.name].reason


def test_code_is_marked_by_what_it_does():
    marks = [
        objects.mark_of_code(f) for f in (short, solved, more_than(1), more_than(2), more_than(1), Longer(1), Longer)
    ]
    assert marks[2] == marks[4] and len(set(marks[:4])) == 4 and marks[5] == marks[6]
    typed = {}
    exec("def f(samples): return [1.0]\ndef g(samples): return [2.0]", typed)
    assert objects.mark_of_code(typed["f"]) != objects.mark_of_code(typed["g"])
    assert objects.mark_of_code(functools.partial(short, most=1)) != objects.mark_of_code(
        functools.partial(short, most=2)
    )


# -------------------------------------------------------------------- runs


def processes(*seen):
    return SimpleNamespace(gather=lambda value: [value, *seen])


def test_processes_with_other_data_are_told():
    made = _config(config(prompts=ROWS), {})
    same = [made.data.prompts, "None", "exact.match"]
    _check_objects(made, processes(same))
    with pytest.raises(ConfigError, match=r"processes were given different objects: object:.* and object:other"):
        _check_objects(made, processes(same, ["object:other", *same[1:]]))


@pytest.fixture
def once(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    stage = {"kind": "grpo", "steps": 4, "groups": 2, "samples": 2, "optim": {"lr": 1e-3}}

    def train(name, rewards=(short, solved), rows=ROWS, **options):
        values = {
            **config(prompts=rows),
            "rewards": list(rewards),
            "stages": [stage],
            "out": str(tmp_path),
            "name": name,
        }
        return mmrl.train(values, quiet=True, **options)

    yield train
    torch.set_num_threads(before)


def lines(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "peak", "memory"))} for row in rows]


def test_a_run_of_objects_resumes_with_them_and_with_no_others(once, tmp_path):
    whole = once("whole")
    assert whole["steps"] == 4
    with pytest.raises(Stopped):
        once("cut", should_stop=stop_at_update(2))
    resumed = once("cut", resume=True)
    assert resumed["steps"] == 4
    drop = ("wall_s", "name", "out")
    for a, b in zip(lines(tmp_path / "whole"), lines(tmp_path / "cut"), strict=True):
        assert {k: v for k, v in a.items() if k not in drop} == {k: v for k, v in b.items() if k not in drop}
    written = (tmp_path / "cut" / "config.yaml").read_text()
    assert "object:function:short" in written and "reward/solved" in (tmp_path / "cut" / "metrics.jsonl").read_text()
    with pytest.raises(Exception, match=r"data.prompts: 'object:.*' -> 'object:.*'"):
        once("cut", rows=ROWS[:2], resume=True)


def stop_at_update(number):
    seen = []

    def should_stop(point):
        seen.append(point)
        return seen.count("update") > number

    return should_stop
