"""Any folder name names a run, and a run's folder, wherever it now is, is a config for every command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from every import every

from mmrl import api
from mmrl.config import Config, ConfigError, load
from mmrl.config.folder import located

NAMES = ["2024", "1e5", "null", "true", "1.0", "~x", ".hidden", "a=b", "seed=1", "two words", "caf\u00e9", "-", "a.b.c"]
NAMES += ["[x]", "{a", "a: b", "# a", "*a", "'quoted", "2024-01-01", "x" * 200]
NO_NAMES = ["", ".", "..", "a/b", "../a", "/a", "a\nb", "a\0b", "x" * 201, "\u00e9" * 101]


@pytest.fixture
def left(config):
    """left(folder) -> the folder with the config of a run that was started as elsewhere/first."""

    def leave(folder: Path, **keys: object) -> Path:
        folder.mkdir(parents=True)
        made = load(config(name="first", out="elsewhere", seed=5, **keys))
        (folder / "config.yaml").write_text(made.dump(), encoding="utf-8")
        return folder

    return leave


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_taken_as_it_is(config, calls, main, name, tmp_path):
    """From Python, from --out, from a file that was written out, and from the run's folder."""
    folder = Path("runs of today") / name
    made = api._config(config(), {"name": name})
    assert made.name == name
    code, _, err = main("train", "text/tiny", "--out", folder, "--quiet")
    assert code == 0, err
    assert calls[-1][1].run_dir == folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(made.dump(), encoding="utf-8")
    for source in (folder, f"{folder}/"):
        again = load(source)
        assert (again.out, again.name) == ("runs of today", name)
    code, _, err = main("train", folder, "--resume", "--quiet")
    assert code == 0, err
    assert calls[-1][1].run_dir == folder


@every("name", NO_NAMES)
def test_a_name_that_leaves_the_folder_is_refused(config, name):
    for make in (lambda: load(config(name=name)), lambda: load(config(), [("name", name)])):
        with pytest.raises(ConfigError, match=r"^name: .* is not the name of a folder"):
            make()


@pytest.mark.parametrize(
    ("out", "folder"),
    [("runs/", "runs"), ("runs/a/", "runs/a"), (".", "{here}"), ("..", "{above}"), ("a/..", "{here}"), ("./a", "a")],
)
def test_out_is_the_folder_however_it_is_written(calls, main, out, folder, tmp_path):
    assert main("train", "text/tiny", "--out", out, "--quiet")[0] == 0
    wanted = Path(folder.format(here=tmp_path, above=tmp_path.parent))
    assert calls[-1][1].run_dir == wanted


def test_the_root_of_the_disk_is_no_run():
    with pytest.raises(ConfigError, match="no folder for a run"):
        located(Path("/"))


@every("value", [None, True, 3, 0.5, "1e5", "null", [1, "a"], {"a": [None]}])
def test_a_value_from_python_is_taken_as_it_is(config, value):
    made = api._config(config(), {"data__where": {"column": value}})
    found = made.data.where["column"]
    assert (found, type(found)) == (value, type(value))
    assert load(made.model_dump()) == made


def test_overrides_of_a_config_object_go_on_top(config):
    made = api._config(load(config()), {"name": "1e5", "stages__grpo__steps": 9})
    assert isinstance(made, Config)
    assert (made.name, made.stages[0].steps) == ("1e5", 9)


# -------------------------------------------------------------------- a run's folder as a config


def test_a_runs_folder_is_its_config(left, tmp_path):
    folder = left(tmp_path / "kept" / "second")
    made = load(folder)
    assert (made.out, made.name, made.seed) == (str(tmp_path / "kept"), "second", 5)
    assert made == load(folder / "config.yaml", [("out", str(tmp_path / "kept")), ("name", "second")])


def test_a_folder_that_was_moved_is_a_run_where_it_is(left, tmp_path):
    folder = left(tmp_path / "a")
    (tmp_path / "moved").mkdir()
    shutil.move(folder, tmp_path / "moved" / "there")
    assert load(tmp_path / "moved" / "there").run_dir == tmp_path / "moved" / "there"


def test_the_folder_that_one_is_in_is_a_run(left, tmp_path, monkeypatch):
    monkeypatch.chdir(left(tmp_path / "here"))
    assert load(".").run_dir == tmp_path / "here"


def test_overrides_go_on_top_of_a_runs_config(left, tmp_path):
    made = load(left(tmp_path / "a"), ["seed=9", "name=b"])
    assert (made.seed, made.run_dir) == (9, tmp_path / "b")


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"no run's folder, for it holds no config\.yaml"):
        load(tmp_path)


def test_every_command_takes_a_runs_folder(left, calls, main, monkeypatch, tmp_path):
    from mmrl.training import check

    folder = left(tmp_path / "runs" / "a")
    seen = []
    monkeypatch.setattr(check, "run_checks", lambda config: seen.append(config) or [])
    assert main("train", folder, "--resume", "--quiet", "seed=9")[0] == 0
    assert main("eval", folder)[0] == 0
    assert main("sample", folder, "-p", "a")[0] == 0
    assert main("check", folder)[0] == 0
    plan = main("plan", folder)[1]  # it fails after its words, as the run's data are not there
    assert f"folder {folder}" in plan
    assert [name for name, _, _ in calls] == ["train", "evaluate", "sample"]
    assert {config.run_dir for config in [*(config for _, config, _ in calls), *seen]} == {folder}
    assert calls[0][1].seed == 9
    assert [options.get("run") for _, _, options in calls] == [None, folder, folder], "its last checkpoint"


def test_a_run_beside_a_config_is_the_one_that_is_evaluated(left, calls, main, tmp_path):
    first, second = left(tmp_path / "a"), left(tmp_path / "b", about="the second")
    assert main("eval", "--run", first)[0] == 0
    assert main("eval", first, "--run", second)[0] == 0
    assert main("eval", "text/tiny")[0] == 0
    assert [options["run"] for _, _, options in calls] == [first, second, None]
    assert [config.about == "the second" for _, config, _ in calls] == [False, False, False]


def test_a_file_with_an_equals_sign_is_a_config(config, calls, main, tmp_path):
    path = tmp_path / "seed=3.yaml"
    path.write_text(load(config()).dump(), encoding="utf-8")
    assert main("train", path.name, "seed=4", "--quiet")[0] == 0
    assert calls[0][1].seed == 4


# -------------------------------------------------------------------- options of train


def test_allowed_keys_reach_train(calls, main):
    words = ["train", "text/tiny", "--quiet", "--resume"]
    assert main(*words)[0] == 0
    assert "allow" not in calls[-1][2]
    assert main(*words, "--allow", "stages.grpo.optim.lr", "--allow", "seed")[0] == 0
    assert calls[-1][2]["allow"] == ("stages.grpo.optim.lr", "seed")
    assert calls[-1][2]["resume"] is True


def test_allow_goes_with_resume(calls, main):
    code, _, err = main("train", "text/tiny", "--allow", "seed")
    assert code == 2
    assert "--allow goes with --resume" in err
    assert calls == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "seed=[1", "-m", "text"], "error: override 'seed': not readable as YAML"),
        (["train"], "which run?"),
        (["train", "text/tiny", "vision/tiny"], "expected one config"),
        (["train", "x" * 10_000], "no config"),
        (["train", "text/tiny", "--out", "/"], "no folder for a run"),
        (["train", "text/tiny", f"seed={'9' * 5000}"], "no number that can be read"),
        (["trian", "text/tiny"], "did you mean 'train'?"),
        (["reward", "length.short", __file__, "-o", "max=[1"], "override 'max': not readable as YAML"),
    ],
)
def test_the_command_line_says_one_thing(calls, main, words, told):
    code, _, err = main(*words)
    assert code in (1, 2)
    assert "Traceback" not in err
    assert told in err
    assert len([line for line in err.splitlines() if line.lower().startswith("error:")]) == 1
