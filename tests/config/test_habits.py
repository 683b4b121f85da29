"""Everyday habits at the command line: several processes, words for a shell, warnings, columns of a reward."""

from __future__ import annotations

import os
import re
import signal
import warnings
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner

from mmrl import terminal
from mmrl.cli import cli, main


def run(*words: str, **env: str):
    return CliRunner(env=env).invoke(cli, list(words), catch_exceptions=False)


def test_one_of_several_processes_prints(calls, monkeypatch):
    one = run("train", "text/tiny").output
    four = run("train", "text/tiny", RANK="0", WORLD_SIZE="4").output
    assert "samples a step over 1 process(es)" in one
    assert "samples a step over 4 process(es)" in four
    assert run("train", "text/tiny", RANK="1", WORLD_SIZE="4").output == ""
    assert len(calls) == 3


@pytest.mark.parametrize("words", [["plan", "-m", "mine.py:Mine"], ["train", "text/tiny", "modality=mine.py:Mine"]])
def test_a_modality_whose_file_is_missing_is_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mmrl", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert len(told) == 1 and "mine.py" in told[0] and "no file" in told[0]


def test_an_unknown_config_names_what_is_near_or_where_they_are_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for word, told in (("image/tny", "did you mean 'image/tiny'"), ("zzzz", "see `mmrl list configs`")):
        monkeypatch.setattr("sys.argv", ["mmrl", "plan", word])
        with pytest.raises(SystemExit):
            main()
        line = capsys.readouterr().err.strip()
        assert told in line and "\n" not in line


def test_a_reward_takes_columns(tmp_path):
    said = tmp_path / "said.txt"
    said.write_text("It is 5.", encoding="utf-8")
    for answer, score in (("5", "1.0000"), ("6", "0.0000")):
        assert run("reward", "numeric.close", str(said), "--set", f"answer={answer}").output.endswith(f"\t{score}\n")


def test_env_names_the_versions():
    told = run("env").output
    assert f"mmrl {version('mmrl')}" in told
    assert f"torch {version('torch')}" in told and f"pillow {version('pillow')}" in told
    assert "CUDA" in told
    assert re.search(r"^sandbox: .*landlock, seccomp", told, re.MULTILINE)


# ---- completion -------------------------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    from click.shell_completion import ShellComplete

    *before, last = words
    found = ShellComplete(cli, {}, "mmrl", "_MMRL_COMPLETE").get_completions(list(before), last)
    return [item.value for item in found]


def test_a_shell_completes_configs_then_keys():
    assert completed("train", "image/ti") == ["image/tiny", "image/tiny_dpo", "image/tiny_nft", "image/tiny_pretrain"]
    assert completed("train", "text/tiny", "stages.grpo.optim.l") == ["stages.grpo.optim.lr="]
    assert completed("plan", "-m", "image", "model.sampling.guidance_g") == ["model.sampling.guidance_gradient="]
    assert completed("train", "text/tiny", "seed=1", "stages.grpo.algorithm.kl_c") == ["stages.grpo.algorithm.kl_coef="]
    assert "train" in completed("tr")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_lines(shell):
    assert "_MMRL_COMPLETE" in run("completion", shell).output


# ---- warnings and signals ---------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch, capsys):
    """What warnings print, given as (message, category, file)."""
    monkeypatch.setattr("sys.warnoptions", [])

    def ask(*given: tuple[str, type[Warning], str], rank: str = "0") -> str:
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        with terminal.own_warnings():
            for message, category, file in given:
                warnings.warn_explicit(message, category, file, 1)
        return capsys.readouterr().err

    return ask


def test_warnings_are_lines_of_ours_and_none_of_a_librarys(shown, tmp_path):
    ours, theirs = terminal.__file__, os.path.join(os.path.dirname(click.__file__), "core.py")
    mine = str(tmp_path / "reward.py")
    assert shown(("two alike", UserWarning, ours)) == "warning: two alike\n"
    assert shown(("look here", UserWarning, mine)) == "warning: look here\n"
    assert shown(("slow path", UserWarning, theirs), ("old", FutureWarning, theirs)) == ""
    assert shown(("two alike", UserWarning, ours), rank="1") == ""


def test_the_first_ctrl_c_is_answered_at_once(capfd):
    from mmrl.training.processes import Processes
    from mmrl.training.stopping import Stops

    stops = Stops(Processes("cpu"))
    with stops.signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert stops.asked
        os.kill(os.getpid(), signal.SIGINT)  # the launcher's own, at once: the same wish
    told = capfd.readouterr().err
    assert told.count("the run saves itself") == 1 and "Ctrl-C again" in told


def test_a_value_error_that_mmrl_raises_is_a_line_and_one_that_happens_has_its_traceback(monkeypatch, capsys):
    """The core's functions raise ValueError for what a config alone cannot know, such as a column that nobody gives."""
    from mmrl import api
    from mmrl.share import share

    monkeypatch.setattr("sys.argv", ["mmrl", "train", "text/tiny", "--quiet"])
    monkeypatch.setattr(api, "train", lambda *_, **__: share("..", ".."))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1 and capsys.readouterr().err.startswith("error: '../..' leaves the share folder")
    monkeypatch.setattr(api, "train", lambda *_, **__: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        main()
