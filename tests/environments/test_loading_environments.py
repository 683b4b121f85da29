"""Environments by name: what is there, what is meant by a typo, what does not fit."""

from __future__ import annotations

import subprocess
import sys

import pytest
from every import every

from mmrl.environments.load import BUILT_IN, load_environment
from mmrl.environments.single import SingleTurn


def test_every_name_gives_an_environment():
    for name in BUILT_IN:
        options = {"feedback": "guess"} if name == "rounds" else {}
        environment = load_environment({"name": name, **options})
        assert callable(environment.open)
        assert callable(environment.respond)
        assert isinstance(environment.answers_cut, bool)
    assert isinstance(load_environment(None), SingleTurn)
    assert load_environment("mgpo").options.min_side == 28


def test_options_arrive():
    environment = load_environment({"name": "ui_s1", "patches": -1, "match": {"distance": 0.1}})
    assert (environment.options.patches, environment.options.match.distance) == (-1, 0.1)


@every(
    ("section", "told"),
    [
        ({"name": "mpgo"}, "did you mean 'mgpo'"),
        ({"name": "xyz"}, "known: mgpo, pairs, rounds, single"),
        ({}, "needs a `name`"),
        ({"name": "mgpo", "min_sides": 3}, "no option 'min_sides'; did you mean 'min_side'"),
        ({"name": "mgpo", "min_side": -3}, "min_side: Input should be greater than or equal to 0"),
        ({"name": "ui_s1", "match": {"distanc": 1}}, "match.distanc: Extra inputs"),
        ({"name": "rounds"}, "feedback: Field required"),
        ({"name": "rounds", "feedback": "gues"}, "did you mean 'guess'"),
        ({"name": "nowhere.py:Game"}, "there is no file"),
    ],
)
def test_what_is_wrong_is_said(section, told):
    with pytest.raises(ValueError, match=told):
        load_environment(section)


SECTIONS = {
    "number": 5,
    "zero": 0,
    "truth": True,
    "list": ["mgpo"],
    "bytes": b"mgpo",
    "long": "m" * 10_000,
    "lines": "mgpo\nmgpo",
    "empty": "",
    "name is a number": {"name": 5},
    "name is a mapping": {"name": {"name": "mgpo"}},
    "key is a number": {"name": "mgpo", 5: 1},
    "long option": {"name": "mgpo", "x" * 10_000: 1},
    "value is a list": {"name": "mgpo", "min_side": [4]},
    "value is a mapping": {"name": "single", "scale": {}},
    "value is long": {"name": "single", "scale": "x" * 10_000},
    "inner is a number": {"name": "ui_s1", "match": 5},
    "feedback is a number": {"name": "rounds", "feedback": 5},
    "feedback is long": {"name": "rounds", "feedback": "x" * 10_000},
    "feedback is an object": {"name": "rounds", "feedback": object()},
}


@every("section", SECTIONS.values(), ids=SECTIONS)
def test_whatever_stands_in_its_place_is_one_line_that_names_it(section):
    """A record may hold anything."""
    with pytest.raises(ValueError, match=r"environment|feedback") as caught:
        load_environment(section, files=False)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


OWN = """
from mmrl.environments.base import Context

class Echo:
    answers_cut = False

    def __init__(self, times=1):
        self.times = times

    def open(self, episode):
        return Context([{"role": "user", "content": episode.prompt.text * self.times}])

    def respond(self, episode):
        return None

class Wants(Echo):
    def __init__(self, needed): ...

class Half:
    def open(self, episode): ...
"""


def test_a_class_of_your_own(play, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN, encoding="utf-8")
    game = play(load_environment({"name": f"{file}:Echo", "times": 2}), "ha")
    assert game.context.messages[0]["content"] == "haha"
    with pytest.raises(ValueError, match="did you mean 'times'"):
        load_environment({"name": f"{file}:Echo", "time": 2})
    with pytest.raises(ValueError, match="missing a required argument: 'needed'"):
        load_environment({"name": f"{file}:Wants"})
    with pytest.raises(ValueError, match="did you mean 'Echo'"):
        load_environment({"name": f"{file}:Ecko"})
    with pytest.raises(ValueError, match="Half lacks respond"):
        load_environment({"name": f"{file}:Half"})


@pytest.mark.parametrize(
    "section", [{"name": "own.py:Echo"}, {"name": "rounds", "feedback": "own.py:say"}, "own.py:Echo"]
)
def test_data_names_no_code(section, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("raise SystemExit('this code must not run')", encoding="utf-8")
    with pytest.raises(ValueError, match="not by data"):
        load_environment(section, files=False)
    assert load_environment({"name": "mgpo", "min_side": 14}, files=False).options.min_side == 14


def test_environments_load_no_torch():
    names = ", ".join(path.partition(":")[0] for path in BUILT_IN.values())
    code = f"import sys, mmrl.environments.load, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
