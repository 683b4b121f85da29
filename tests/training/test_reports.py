"""report.html while a run goes on, and of one that ended before its last step; and what it may cost."""

from __future__ import annotations

import json
import random
import re

import pytest
from answers import make

from mmrl.reporting.disk import WriteError
from mmrl.reporting.report import write_report
from mmrl.training.reports import Reports
from mmrl.training.rollouts.sampling import RewardFailure
from mmrl.training.stopping import Stopped
from mmrl.types import Prompt

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i)) for i in range(12)]


@pytest.fixture
def base(tmp_path):
    (tmp_path / "letters.py").write_text(
        "calls = []\n\ndef a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n\n"
        "def breaks(samples):\n    calls.append(1)\n"
        "    return [0.5 if len(calls) < 4 else 'no number' for s in samples]\n"
    )

    def config(reward="a"):
        options = {"kind": "grpo", "steps": 4, "groups": 4, "samples": 4, "micro_batch": 20, "optim": {"lr": 0.05}}
        return {
            "name": "run",
            "out": str(tmp_path),
            "data": {"prompts": "unused.txt", "eval_prompts": "unused.txt"},
            "rewards": [{"name": f"{tmp_path / 'letters.py'}:{reward}"}],
            "stages": [options],
            "eval": {"every": 1, "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}]},
        }

    return config


@pytest.fixture
def pages(monkeypatch):
    """The text of the page each time that it is written, after a run's every evaluation."""
    seen = []

    def written(folder):
        path = write_report(folder)
        seen.append(
            re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<svg.*?</svg>|<[^>]*>", " ", path.read_text(), flags=re.S))
        )
        return path

    monkeypatch.setattr("mmrl.reporting.curves.svg", lambda *_: "<svg></svg>")
    monkeypatch.setattr("mmrl.training.reports.SHARE", 1e9)
    monkeypatch.setattr("mmrl.training.reports.write_report", written)
    return seen


def asked(number):
    """A should_stop that says yes at the number-th step."""
    steps = []

    def ask(point):
        steps.extend([point] if point == "step" else [])
        return len(steps) >= number

    return ask


def test_every_evaluation_leaves_a_report_that_says_how_far_the_run_is(base, pages):
    make(base(), PROMPTS, eval_prompts=PROMPTS).train()
    words = [re.search(r"not finished(: step \d)?", page) for page in pages]
    assert [w and w[0] for w in words] == ["not finished", *(f"not finished: step {n}" for n in (1, 2, 3)), None]
    assert "evaluation before training and at step 2" in pages[2]


def test_a_run_that_was_stopped_says_so_until_it_goes_on(base, pages):
    loop = make(base(), PROMPTS, eval_prompts=PROMPTS, should_stop=asked(2))
    with pytest.raises(Stopped):
        loop.train()
    folder = loop.run.folder
    assert "stopped at step 2" in pages[-1]
    assert "go on with --resume" in pages[-1]
    assert json.loads((folder / "ended.json").read_text())["how"] == "stopped"
    make(base(), PROMPTS, eval_prompts=PROMPTS).train(resume=True)
    assert not (folder / "ended.json").exists()
    assert "stopped at" not in pages[-1]
    assert "evaluation before and after training" in pages[-1]


def test_a_run_that_an_error_ended_says_which(base, pages):
    loop = make(base("breaks"), PROMPTS, eval_prompts=PROMPTS)
    with pytest.raises(RewardFailure) as error:
        loop.train()
    assert re.search(r"failed at step \d", pages[-1])
    assert " ".join(str(error.value).split())[:60] in pages[-1]


def test_ctrl_c_again_leaves_a_word_and_no_page(base, pages, monkeypatch):
    loop = make(base(), PROMPTS)

    def interrupted(stage):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.train()
    assert not pages
    assert "without saving" in json.loads((loop.run.folder / "ended.json").read_text())["why"]
    write_report(loop.run.folder)
    assert "stopped at step 0" in (loop.run.folder / "report.html").read_text()


def test_a_refused_resume_changes_nothing_of_what_the_folder_says(base, pages):
    loop = make(base(), PROMPTS)
    loop.train()
    other = base()
    other["stages"][0]["optim"] = {"lr": 0.5}
    with pytest.raises(Exception, match="lr"):
        make(other, PROMPTS).train(resume=True)
    assert (loop.run.folder / "summary.json").is_file()
    assert not (loop.run.folder / "ended.json").exists()


@pytest.mark.parametrize("error", [WriteError("the disk is full"), ValueError("a fault of its own")])
def test_a_report_that_cannot_be_written_ends_no_run(base, monkeypatch, capsys, error):
    monkeypatch.setattr("mmrl.training.reports.SHARE", 1e9)

    def fails(folder):
        if not (folder / "summary.json").exists():
            raise error

    monkeypatch.setattr("mmrl.training.reports.write_report", fails)
    assert make(base(), PROMPTS, eval_prompts=PROMPTS).train()["steps"] == 4
    assert capsys.readouterr().out.count("warning: the run goes without its report") == 4


@pytest.mark.parametrize("seed", range(20))
def test_reports_take_a_hundredth_of_a_run_and_no_evaluation_waits_for_long(tmp_path, monkeypatch, seed):
    """Of any time that an evaluation and a report take; where there is time for all, all are written."""
    rng = random.Random(seed)
    now, spent, written = [0.0], [], []
    cost = rng.choice([0.01, 1.0, 30.0])

    def write(folder):
        spent.append(cost * rng.uniform(0.8, 1.2))
        now[0] += spent[-1]

    monkeypatch.setattr("mmrl.training.reports.write_report", write)
    reports, pause = Reports(tmp_path, clock=lambda: now[0]), rng.choice([0.5, 20.0, 130.0, 4000.0])
    for _ in range(200):
        now[0] += pause
        reports.going_on()
        written.append(len(spent))
        assert sum(spent[1:]) <= 0.012 * now[0]
    assert written[0] == 1
    if pause > 130 * cost:
        assert len(spent) == 200
