"""A plan goes on without rewards that need what is not here, and says which; what is wrong stops it all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from every import every

from mmrl.config import load
from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.lacking import NotCalled, without_what_is_lacking
from mmrl.rewarding.load import NotHere
from mmrl.share import share
from mmrl.training.assemble import load_rewards
from mmrl.training.plan_rewards import held, reward_lines

REWARDS = """
import torch

def there(samples, case=1):
    return [0.0 for _ in samples]

class Package:
    def __init__(self, least: int = 1):
        if least < 0:
            raise ValueError(f"least={least} must be 0 or more")
        import nowhere_at_all

    def __call__(self, samples):
        return []

class File(Package):
    def __init__(self, least: int = 1):
        open("/nowhere/at/all.safetensors")

class Holds:
    def __init__(self):
        weights = torch.nn.Linear(10, 10, bias=False)
        self.parts = {"both": [weights, {"again": weights.weight}]}

    def __call__(self, samples):
        return []
"""
TOP = "import nowhere_at_all\n\ndef late(samples, *, case: int, more=2):\n    return []\n"
PACKAGE, FILE = "needs the package 'nowhere_at_all'", "No such file or directory: '/nowhere/at/all.safetensors'"


@pytest.fixture
def name(tmp_path: Path) -> Any:
    (tmp_path / "own.py").write_text(REWARDS, encoding="utf-8")
    (tmp_path / "top.py").write_text(TOP, encoding="utf-8")
    return lambda reward: f"{tmp_path}/{'top' if reward == 'late' else 'own'}.py:{reward}"


def gated(*parts: Any) -> dict[str, Any]:
    return {"name": "compose.gated", "options": {"condition": list(parts[:-1]), "then": parts[-1]}}


# What is lacking -> (section of the config, by a function that names a reward of the user's; words of the reason).
LACKING: dict[str, Any] = {
    "package of a file": (lambda name: {"name": name("late"), "options": {"case": 1}}, [PACKAGE]),
    "package of a class": (lambda name: {"name": name("Package")}, [PACKAGE]),
    "file": (lambda name: {"name": name("File")}, [FILE]),
    "within a time": (lambda name: {"name": name("File"), "timeout": 5}, [FILE]),
    "part of a reward": (lambda name: gated(name("there"), name("Package")), [PACKAGE]),
    "two parts of a reward": (lambda name: gated(name("File"), name("Package")), [FILE, PACKAGE]),
    "as a monitor": (lambda name: {"name": name("Package"), "weight": 0}, [PACKAGE]),
}
# What is wrong on any machine, beside something that is lacking -> (section, words).
WRONG: dict[str, Any] = {
    "no such reward": (lambda name: {"name": name("later")}, "has no 'later'; did you mean 'there'"),
    "no such reward in a file that cannot be imported": (
        lambda name: {"name": name("late").replace("late", "latter"), "options": {}},
        "has no 'latter'; did you mean 'late'",
    ),
    "option of a file that cannot be imported": (
        lambda name: {"name": name("late"), "options": {"case": 1, "mor": 2}},
        "has no option 'mor'; did you mean 'more'",
    ),
    "lacking option of a file that cannot be imported": (
        lambda name: {"name": name("late")},
        "needs the option 'case'",
    ),
    "option": (lambda name: {"name": name("Package"), "options": {"most": 1}}, "has no option 'most'"),
    "value": (lambda name: {"name": name("Package"), "options": {"least": -1}}, "least=-1 must be 0 or more"),
    "part behind one that is lacking": (lambda name: gated(name("File"), name("nothing")), "has no 'nothing'"),
    "option of a part": (
        lambda name: gated(name("File"), {"name": name("there"), "options": {"cae": 1}}),
        "no option 'cae'",
    ),
}


def config(folder: Path, *rewards: dict[str, Any]) -> str:
    """A run of a model of a few thousand numbers, as a file."""
    lines = [json.dumps({"id": str(i), "prompt": f"say {i}"}) for i in range(3)]
    (folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    values = {
        "name": "run",
        "modality": "text",
        "out": str(folder / "runs"),
        "device": "cpu",
        "model": {"path": "built", "build": {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1}},
        "data": {"prompts": str(folder / "prompts.jsonl")},
        "rewards": list(rewards),
        "stages": [{"kind": "grpo", "steps": 1, "groups": 2, "samples": 2, "micro_batch": 64}],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(folder / "config.yaml")


@every("what", LACKING)
def test_a_reward_that_lacks_something_stands_in_a_plan_and_stops_all_else(what, name, tmp_path):
    section, reasons = LACKING[what]
    parsed = load(config(tmp_path, section(name)))
    [reward], _ = load_rewards(parsed, lacking=True)
    assert len(reward.lacks) == len(reasons)
    assert all(reason in lack for reason, lack in zip(reasons, reward.lacks))
    with pytest.raises(RewardError, match="reward ") as error:
        load_rewards(parsed)
    assert reasons[0] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("what", ["package of a file", "two parts of a reward"])
def test_a_plan_says_what_is_lacking_and_goes_on_where_a_training_stops(what, name, main, tmp_path):
    section, reasons = LACKING[what]
    path = config(tmp_path, {"name": name("there"), "alias": "here"}, section(name))
    code, said, errors = main("plan", path)
    assert (code, errors) == (0, "")
    (line,) = [line for line in said.splitlines() if line.startswith("warning: reward")]
    assert all(reason in line for reason in reasons) and "its memory left out" in line
    assert "rewards: here: loaded\n" in said
    assert "2 prompts x 2 samples = 4 samples a step" in said and "memory of stage grpo: about " in said
    code, _, said = main("train", path, "--quiet")
    assert code == 1 and reasons[0] in said and said.count("\n") == 1


@every("what", WRONG)
def test_what_is_wrong_stops_a_plan_too(what, name, tmp_path):
    section, words = WRONG[what]
    parsed = load(config(tmp_path, section(name)))
    with pytest.raises(RewardError, match="reward ") as error:
        load_rewards(parsed, lacking=True)
    assert words in str(error.value) and not isinstance(error.value, NotHere)


# Shipped rewards that read weights -> options by which they lack them, and one with a value that is wrong.
WEIGHTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pickscore.score": ({"model": "nobody/nothing"}, {"dtype": "int8"}),
    "imagereward.score": ({"weights": "/nowhere/w.safetensors"}, {"dtype": "int8"}),
    "hpsv3.score": ({"weights": "/nowhere/w.safetensors", "prompt": "/nowhere/p.txt"}, {"prompt": "p.md"}),
    "latent.score": ({"head": "/nowhere/h.safetensors"}, {"level": 1.0}),
    "bmas.similarity": ({"model": "/nowhere"}, {"length_gate": 0.5}),
    "judge.answer": ({"judge": {"path": "/nowhere"}}, {"judge": {"path": "/nowhere", "wrong": 1}}),
    "identity.subjects": (
        {"detector": "/nowhere", "features": "nobody/nothing", "labels": ["cat"]},
        {"batch": 0},
    ),
}


@every("imported", ["mmrl.no_such_module", ".no_such_file"])
def test_a_module_that_no_machine_has_is_wrong_and_not_lacking(imported, tmp_path):
    module = imported.rpartition(".")[2]
    (tmp_path / "own.py").write_text(f"from {imported} import x\n\ndef score(samples):\n    return []\n")
    with without_what_is_lacking(), pytest.raises(RewardError, match=f"imports '.*{module}', and there is no"):
        load_reward(f"{tmp_path}/own.py:score")


def test_a_module_that_an_installed_package_has_not_is_told_by_its_own_name(tmp_path):
    (tmp_path / "own.py").write_text("import yaml.no_such_module\n\ndef score(samples):\n    return []\n")
    with pytest.raises(NotHere, match=r"needs the module 'yaml\.no_such_module', which the installed yaml has not"):
        load_reward(f"{tmp_path}/own.py:score")


@every("name", WEIGHTS)
def test_shipped_rewards_without_their_weights_still_refuse_a_wrong_value(name):
    options, wrong = WEIGHTS[name]
    with pytest.raises(NotHere):
        load_reward(name, options)
    with without_what_is_lacking():
        reward = load_reward(name, options)
        assert len(reward.lacks) == 1 and name in reward.lacks[0]
        with pytest.raises(NotCalled):
            reward.call([])
        with pytest.raises(RewardError) as error:
            load_reward(name, {**options, **wrong})
        assert not isinstance(error.value, NotHere)
    with pytest.raises(NotHere):  # once the plan is over
        load_reward(name, options)


def test_what_loaded_rewards_hold_is_told_once(name):
    rewards = [load_reward(name("Holds")), load_reward(name("there"))]
    assert held(rewards) == 4 * 100 == held(rewards * 2)
    assert held(rewards, "cuda") == 0 == held(rewards[1:])
    big = rewards[0].call.parts["both"][0]
    big.weight.data = torch.zeros(1_000, 1_000)
    assert list(reward_lines(rewards)) == ["rewards: own.Holds, own.there: loaded, with 4 MB of weights"]


SHIPPED = sorted(str(path.relative_to(share("configs")).with_suffix("")) for path in share("configs").rglob("*.yaml"))


@every("name", SHIPPED)
def test_rewards_of_a_shipped_config_are_there_or_say_what_they_lack(name, no_network):
    found = [reward for some in load_rewards(load(name), lacking=True) for reward in some]
    told = [line for line in reward_lines(found) if line.startswith("warning: reward ")]
    assert len(told) == len({reward.name for reward in found if reward.lacks})
    assert all("\n" not in line for line in told)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise AssertionError("a plan asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("image/")])
def test_a_shipped_config_is_planned_without_rewards_and_network(name, main, no_network):
    """Some ten seconds of a core for a model of billions."""
    code, said, errors = main("plan", name)
    stages = load(name).stages
    assert all(f"{stage.name}: {stage.kind}, {stage.steps} steps" in said for stage in stages)
    if code:  # of data that the user brings
        assert errors.startswith("error: data: no prompt file data/")
        return
    for stage in stages:
        told = f"memory of stage {stage.name}: about " if stage.data_from is None else f"stage {stage.name}: its data"
        assert told in said
