"""compare.html: runs of any length, kind and state on one page, which says what differs and shows the same prompts."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from click.testing import CliRunner
from html_page import Page

from mmrl.cli import cli
from mmrl.reporting.compare import MOST_RUNS, write_comparison
from mmrl.reporting.ending import write_ending
from mmrl.reporting.report import ReportError
from mmrl.reporting.sample_records import read_step
from mmrl.reporting.samples import write_step
from mmrl.types import Group, Prompt, Sample, Score


@pytest.fixture(autouse=True)
def charts_without_lines(monkeypatch, request):
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("mmrl.reporting.curves.svg", lambda *_: "<svg></svg>")


@pytest.fixture
def drawn():
    """With real charts, which are slow."""


def compared(tmp_path, *folders):
    page = write_comparison(folders, tmp_path / "compare.html")
    return Page(page.read_text(encoding="utf-8").replace("<wbr>", ""))


def part(page, start, end):
    return page.text[page.text.index(start) : page.text.index(end)]


@pytest.fixture
def shorter(run, tmp_path):
    """The run `discs`, and one of 40 of its 120 steps with another rate, both with a config."""
    folder = tmp_path / "shorter"
    shutil.copytree(run, folder)
    lines = (run / "metrics.jsonl").read_text().splitlines()[:40]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"steps": 40, "eval": {"before": {"eval/colour": 0.182}, "after": {"eval/colour": 0.5}}}
    (folder / "summary.json").write_text(json.dumps(summary))
    for tag in ("eval_after", "eval_000080"):
        shutil.rmtree(folder / "samples" / tag)
    (folder / "samples/eval_000040").rename(folder / "samples/eval_after")
    for place, steps, lr in ((run, 120, "1.0e-4"), (folder, 40, "3.0e-4")):
        (place / "config.yaml").write_text(
            f"name: {place.name}\nout: {place}\nmodality: image\nseed: 7\n"
            "model:\n  path: share://m\nrewards:\n- name: colour\n  weight: 1.0\n"
            f"stages:\n- kind: grpo\n  steps: {steps}\n  optim:\n    lr: {lr}\n"
        )
    return folder


def test_two_runs_of_different_length(run, shorter, tmp_path):
    page = compared(tmp_path, run, shorter)
    assert "discs image · share://m · grpo · colour colour 0.182 0.895 +0.713 120 6 min 12 s" in page.text
    assert "shorter image · share://m · grpo · colour colour 0.182 0.500 +0.318 40 6 min 12 s" in page.text
    numbers = part(page, "Every evaluation metric", "What their configs")
    assert "colour 0.182 → 0.895 0.182 → 0.500" in numbers
    assert "clip_score 0.210 → 0.283 –" in numbers
    keys = part(page, "key discs shorter", "Same prompts The first")
    told = "key discs shorter stages.grpo.steps 120 40 stages.grpo.optim.lr 1.0e-4 3.0e-4"
    assert keys.strip() == told
    prompts = part(page, "Same prompts The first", "How the update behaves Over")
    assert "The first 8 of 8 held-out prompts" in prompts
    assert "All at step 40." in prompts
    # Both cards of a drawing are those of progress 0.55, plus what sample 0 of drawing 0 adds: nothing.
    assert "drawing 0 discs 0.550 colour 0.550 shape 0.775 shorter 0.550" in prompts
    assert [tag for tag, _ in page.tags].count("img") == 8 * 2


def test_each_chart_has_a_line_of_every_run_in_its_colour(run, shorter, tmp_path, drawn):
    html = write_comparison([run, shorter], tmp_path / "compare.html").read_text(encoding="utf-8")
    (chart,) = re.findall(r"<b>reward/mean</b>.*?</figure>", html, re.DOTALL)
    assert re.findall(r"var\(--series-(\d)\)\"></i>(\w+) ", chart) == [("1", "discs"), ("2", "shorter")]
    picture = chart[chart.index("<svg") :]
    assert {n for n in "12345678" if f"var(--series-{n})" in picture} == {"1", "2"}


def test_runs_of_different_kinds_say_that_nothing_stands_side_by_side(run, shorter, talks, tmp_path):
    (talks / "config.yaml").write_text("modality: vision\n")
    page = compared(tmp_path, run, talks)
    assert "They make different things (image, vision)" in page.text
    assert "Nothing can be put side by side." in page.text
    assert "The runs were evaluated on different prompts." in page.text


def test_conversations_stand_side_by_side_and_pictures_have_ids_of_their_run(talks, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(talks, other)
    html = write_comparison([talks, other], tmp_path / "compare.html").read_text(encoding="utf-8")
    used = set(re.findall(r'href="#(run-[^"]+)"', html))
    defined = re.findall(r'<image id="([^"]+)"', html)
    assert used <= set(defined)
    assert len(defined) == len(set(defined))


@pytest.mark.parametrize("left", ["metrics.jsonl", "samples"])
def test_a_run_with_almost_nothing_is_compared_with_what_there_is(run, tmp_path, left):
    other = tmp_path / "other"
    other.mkdir()
    (shutil.copytree if (run / left).is_dir() else shutil.copy)(run / left, other / left)
    page = compared(tmp_path, run, other)
    assert "not finished" in page.text
    assert "Without a config that can be read: other." in page.text.replace("discs, other", "other")
    assert ("No stored evaluation: other." in page.text) == (left == "metrics.jsonl")


def test_a_broken_run_is_shown_as_far_as_it_goes_and_its_faults_are_named(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / "summary.json").write_text("{")
    with open(other / "metrics.jsonl", "a") as file:
        file.write("no json\n")
    (other / "config.yaml").write_text("a: {")
    (other / "samples/eval_after/index.json").write_text("[]")
    write_ending(other, "failed", 93, "NonFiniteError: the loss is NaN")
    page = compared(tmp_path, run, other)
    assert "failed at step 93" in page.text
    for fault in ("summary.json is not JSON", "metrics.jsonl: 1 line", "config.yaml cannot be read", "eval_after"):
        assert re.search(f"other: [^:]*{re.escape(fault)}", page.text), fault
    assert "All at step 80." in page.text


def test_without_a_common_step_each_run_shows_its_last_evaluation(run, shorter, tmp_path):
    shutil.rmtree(run / "samples/eval_000040")
    page = compared(tmp_path, run, shorter)
    assert "discs: at step 120. shorter: at step 40. No evaluation of all runs was made at the same step" in page.text


def test_a_prompt_that_became_another_is_not_the_same(run, shorter, tmp_path):
    groups, _ = read_step(shorter, "eval_after")
    groups[0].prompt = Prompt(groups[0].prompt.id, "something else")
    groups[0].samples = [Sample(groups[0].prompt, 0, "x", scores={"colour": Score.of(0.5)})]
    write_step(shorter, "eval_after", groups)
    assert "The first 7 of 7 held-out prompts" in compared(tmp_path, run, shorter).text


def test_a_reward_that_is_the_only_one_is_drawn_once(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = [{"step": n, "reward/mean": 0.5 * n, "reward/r": 0.25 * n} for n in range(1, 4)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = compared(tmp_path, tmp_path / "a", tmp_path / "b").text
    assert "reward/mean" in text
    assert "reward/r" not in text


def test_hostile_names_keys_and_values_stay_text_and_nothing_is_requested(run, tmp_path):
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"
    other = tmp_path / "<img src=x>"
    shutil.copytree(run, other)
    (other / "config.yaml").write_text(f"'{attack}': '{attack}'\nabout: x\nmodality: '{attack}'\n")
    prompt = Prompt("p", attack)
    for folder in (run, other):
        group = Group(prompt, 0, [Sample(prompt, 0, attack, stop=attack, scores={attack: Score.of(1.0, why=attack)})])
        write_step(folder, "eval_after", [group])
        with open(folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": 121, attack: 1.0}) + "\n")
    page = compared(tmp_path, run, other)
    assert not [tag for tag, attrs in page.tags if tag in ("script", "img", "link") or "onerror" in attrs]
    assert page.text.count(attack) >= 5
    links = [attrs[name] for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (["discs"], "1 run to compare: give 2 to 8"),
        (["discs", "discs/../discs"], "is given twice"),
        (["discs", "nowhere"], "does not exist"),
        (["discs", "empty"], "is no run's folder"),
        (["discs"] * (MOST_RUNS + 1), "9 runs to compare"),
    ],
)
def test_what_cannot_be_compared_is_refused(run, tmp_path, folders, told):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReportError, match=re.escape(told)):
        write_comparison([tmp_path / folder for folder in folders], tmp_path / "compare.html")
    assert not (tmp_path / "compare.html").exists()


def test_runs_of_one_name_are_told_apart_by_the_folders_above(run, tmp_path):
    for place in ("x", "y"):
        shutil.copytree(run, tmp_path / place / "discs")
    text = compared(tmp_path, tmp_path / "x/discs", tmp_path / "y/discs").text
    assert "x/discs" in text
    assert "y/discs" in text
    assert "Nothing: the same config." in text


def test_the_command(run, shorter, tmp_path):
    result = CliRunner().invoke(cli, ["compare", str(run), str(shorter), "--to", str(tmp_path / "deep/two.html")])
    assert result.output.strip() == str(tmp_path / "deep/two.html")
    assert "2 runs side by side" in (tmp_path / "deep/two.html").read_text(encoding="utf-8")
