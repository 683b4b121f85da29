"""Solids in the report: the meshes of the store, one viewer, nothing of a run's words in a script."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re

import numpy as np
import pytest
from every import every
from html_page import Page
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.reporting.compare import write_comparison
from mmrl.reporting.curves import component_names
from mmrl.reporting.metrics import MetricsWriter
from mmrl.reporting.outcomes import MOST_STATUSES, status_charts
from mmrl.reporting.programs import bits
from mmrl.reporting.report import write_report
from mmrl.reporting.samples import write_step
from mmrl.reporting.solids import numbers_of, read_solid
from mmrl.reporting.viewer import FOLDER, LIBRARY, SCRIPTS
from mmrl.solids.shown import Solid
from mmrl.types import Group, Prompt, Sample, Score

SIDES = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4]]


def brick(height):
    """A record of a box of 10 x 10 x height (one side is open, which nobody minds)."""
    corners = [[x, y, z] for x in (0.0, 10) for y in (0.0, 10) for z in (0.0, height)]
    return Solid(np.array(corners), np.array(SIDES)).record()


def view(height):
    parts = {"answer": brick(height), "common": brick(min(height, 10)), "missing": {"status": "nothing"}}
    return {**parts, "extra": brick(height + 0.5), "way": "exact", "alignment": "absolute"}


def sample(prompt, number, height=None, reward=0.0, text="import cadquery", target=None, **details):
    """One that built a brick of a height; or nothing."""
    told = {"status": "ok" if height else "syntax", **details}
    told |= {"view": view(height), "iou": reward} if height and "view" not in details else {}
    told |= {"target": target} if target else {}
    score = Score.of(reward, **told)
    return Sample(prompt, number, text, stop="eos", scores={"cad.iou": score}, reward=reward, advantage=reward - 0.5)


@pytest.fixture
def run(tmp_path):
    """run(samples of a prompt) -> the page of a run of one step."""

    def make(samples, folder="run", **options):
        prompt = Prompt("p", "A brick.")
        write_step(tmp_path / folder, "step_000001", [Group(prompt, 0, [one(prompt) for one in samples])])
        with MetricsWriter(tmp_path / folder / "metrics.jsonl") as metrics:
            metrics.write({"step": 1, "reward/mean": 0.5})
        return write_report(tmp_path / folder, **options).read_text(encoding="utf-8")

    return make


def built(number, height=None, **more):
    return lambda prompt: sample(prompt, number, height, **more)


def meshes(page):
    """The records in the page; NaN is no JSON."""

    def refuse(constant):
        raise AssertionError(constant)

    (data,) = re.findall(r'<script type="application/json" id="solids">(.*?)</script>', page, re.DOTALL)
    return json.loads(data, parse_constant=refuse)


def scripts(page):
    return re.findall(r"<script>(.*?)</script>", page, re.DOTALL)


def drawn(page):
    """Of each pane with meshes, what it draws: {role: record}."""
    known = meshes(page)
    panes = [attrs["data-meshes"] for _, attrs in Page(page).tags if "data-meshes" in attrs]
    parts = [[part.split(":") for part in pane.split()] for pane in panes]
    return [{role: known[int(place)] for place, role in pane} for pane in parts]


def test_the_page_has_the_meshes_of_the_store_each_once(run):
    goal = brick(10)
    page = run([built(0, 8, reward=0.8, target=goal), built(1, 5, reward=0.5), built(2, 10, reward=1.0)])
    wanted = []  # best first: of each sample the target, the answer, and what they have together and apart
    for height in (10, 8, 5):
        both = view(height)
        compared = {"common": both["common"], "extra": both["extra"]}
        wanted += [{"target": goal}, {"answer": both["answer"]}, compared]
    assert drawn(page) == wanted
    assert len(meshes(page)) == len({json.dumps(one) for pane in wanted for one in pane.values()}) == 6
    again = Solid.of(drawn(page)[1]["answer"])
    assert again.vertices.max(axis=0) == pytest.approx([10, 10, 10], abs=1e-3)


def test_what_was_measured_stands_beside_it_and_the_program_is_whole(run):
    text = "```python\nimport cadquery as cq\nresult = 1  # <b>\n```"
    facts = {"volume": 800.0, "target_volume": 1000.0, "box": [[0, 0, 0], [10, 10, 8]], "way": "exact"}
    page = run([built(0, 8, reward=0.8, target=brick(10), text=text, alignment="absolute", **facts)])
    words = Page(page).text
    for told in ("status ok", "IoU 0.800 (exact, absolute)", "volume 800 of 1,000 mm³", "box 10 × 10 × 8 mm"):
        assert told in words
    (program,) = re.findall(r'<pre class="program">(.*?)</pre>', page, re.DOTALL)
    parsed = Page(program)
    assert "".join(re.split(r"<[^>]*>", program)).replace("&lt;", "<").replace("&gt;", ">") == text
    assert ("span", {"class": "code-keyword"}) in parsed.tags and ("span", {"class": "code-comment"}) in parsed.tags


def test_a_program_without_a_solid_shows_the_target_and_why(run):
    page = run([built(0, target=brick(10), why="line 1: '(' was never closed"), built(1, status="timeout")])
    assert [list(pane) for pane in drawn(page)] == [["target"], ["target"]]
    words = Page(page).text
    assert "no solid: syntax" in words and "no solid: timeout" in words and "'(' was never closed" in words


def test_there_is_one_viewer_and_the_policy_names_its_scripts_and_no_other(run):
    page = run([built(n, 2 + n, target=brick(10)) for n in range(5)])
    assert scripts(page) == [(FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS]
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts(page)]
    (policy,) = [a["content"] for t, a in Page(page).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "'unsafe-inline'" not in policy.partition("script-src")[2]
    assert policy.partition("script-src ")[2] == " ".join(f"'sha256-{one}'" for one in hashes)
    assert len([tag for tag, _ in Page(page).tags if tag == "script"]) == 3
    sources = [attrs[name] for _, attrs in Page(page).tags for name in ("src", "href") if name in attrs]
    assert sources and all(source.startswith(("data:image/png;base64,", "#")) for source in sources)


def test_a_report_without_solids_has_no_viewer(run):
    page = run([lambda prompt: Sample(prompt, 0, "text", scores={"exact": Score.of(1.0)}, reward=1.0, advantage=0.0)])
    assert "<script" not in page and "script-src" not in page and "No scripts, no requests." in page
    assert len(page) < 60_000


ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&<!--{{ 7*7 }}"


def test_no_word_of_a_run_becomes_markup_or_script(run):
    goal = {"status": ATTACK}
    parts = {name: {**brick(3), "status": ATTACK} for name in ("answer", "common", "extra")}
    solids = {**parts, "missing": {"status": ATTACK}, "problem": ATTACK, "way": ATTACK, "alignment": ATTACK}
    told = {"status": ATTACK, "why": ATTACK, "way": "mesh", "alignment": ATTACK, "chamfer": 0.5}
    page = run([built(0, 8, target=goal, text=ATTACK, view=solids, **told), built(1, text=ATTACK, **told)])
    tags = Page(page).tags
    assert len([tag for tag, _ in tags if tag == "script"]) == 3
    assert not [a for tag, a in tags if "onerror" in a or a.get("src") == "x"]
    assert all(set(one) == {"status", "low", "step", "vertices", "triangles", "wide"} for one in meshes(page))
    assert "<" not in re.search(r'id="solids">(.*?)</script>', page, re.DOTALL)[1]
    assert Page(page).text.count("alert(1)") >= 4  # shown, as it was written


HUGE = base64.b64encode(b"\0" * 6 * 200_000).decode()
WRONG = {
    "not finite": {"low": [math.nan, 0, 0]},
    "infinite": {"step": math.inf},
    "far away": {"low": [1e12, 0, 0]},
    "a step of any size": {"step": 1e300},
    "too large a number": {"low": [10**400, 0, 0]},
    "a triangle of no vertex": {"triangles": base64.b64encode(b"\xff" * 6).decode()},
    "many triangles": {"triangles": HUGE},
    "many vertices": {"vertices": HUGE * 4},
    "no text": {"vertices": [1, 2, 3]},
    "markup": {"vertices": "</script>"},
}


@every("name", WRONG)
def test_a_mesh_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="no record of a solid"):
        read_solid(brick(3) | WRONG[name])
    for other in (None, [], "text", 3):
        with pytest.raises(ValueError, match="no record of a solid"):
            read_solid(other)


def test_a_mesh_that_is_none_is_told_in_its_place(run):
    solids = view(8) | {"answer": brick(8) | {"step": "x"}, "common": 7}
    page = run([built(0, 8, target=brick(10), view=solids)])
    assert [list(pane) for pane in drawn(page)] == [["target"], ["extra"]]
    words = Page(page).text
    assert "no record of a solid: its numbers are none" in words and "common: no record of a solid" in words


def test_solids_count_against_the_size_of_the_page(run):
    samples = [built(n, 2 + n, target=brick(10), reward=0.1 * n) for n in range(12)]
    whole, cut = run(samples), run(samples, folder="small", max_bytes=6000)
    library = sum(map(len, scripts(whole)))
    assert len(whole) < library + 220_000
    assert 0 < len(meshes(cut)) < len(meshes(whole))
    assert "left out to keep this file small: a mesh of samples/step_000001, sample" in cut
    assert len(json.dumps(meshes(cut))) + sum(len(src) for src in re.findall(r'src="(data:[^"]*)"', cut)) < 6500


def test_several_runs_side_by_side_share_one_shelf(tmp_path):
    for name, height in (("a", 4), ("b", 6)):
        prompt = Prompt("p", "A brick.")
        for tag in ("eval_before", "eval_after"):
            made = sample(prompt, 0, height, 0.5, target=brick(10))
            write_step(tmp_path / name, tag, [Group(prompt, 0, [made])])
        with MetricsWriter(tmp_path / name / "metrics.jsonl") as metrics:
            metrics.write({"step": 1, "reward/mean": 0.5})
    page = write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "both.html").read_text()
    assert [pane["extra"] for pane in drawn(page)] == [brick(4.5), brick(6.5)]
    assert len(scripts(page)) == 2


# -------------------------------------------------------------------- programs, numbers, statuses, the library


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from("abc 01'\"#()\n\t`<>&\\éx=\r"), max_size=60))
def test_a_program_in_colour_has_all_its_letters(text):
    assert "".join(bit.text for bit in bits(text)).replace("\r\n", "\n").replace("\r", "\n") == text.replace(
        "\r\n", "\n"
    ).replace("\r", "\n")


@every(
    "details, line",
    [
        ({"iou": 0.25, "way": "mesh", "alignment": "bounding_box"}, ("IoU", "0.250 (mesh, bounding box)")),
        ({"chamfer": 0.5, "floor": 0.25, "alignment": "absolute"}, ("Chamfer", "0.500, noise 0.250 (absolute)")),
        ({"volume": 1234567.0, "target_volume": 8.0}, ("volume", "1,234,567 of 8 mm³")),
        ({"box": [[0, 0, 0], [1, 2, 3]], "target_box": [[1, 1, 1], [2, 3, 4]]}, ("box", "1 × 2 × 3 mm")),
        ({"box": [[0, 0, 0], [1, 2, 3]], "target_box": [[0, 0, 0], [1, 2, 4]]}, ("box", "1 × 2 × 3 of 1 × 2 × 4 mm")),
        ({"solids": 2}, ("solids", "2")),
    ],
)
def test_lines_of_what_was_measured(details, line):
    assert numbers_of({"cad": {"details": details}, "again": {"details": details}}) == [line]


@every(
    "box",
    [None, "text", [[0, 0, 0]], [[0, 0, 0], [1, 2, math.nan]], [[0, 0], [1, 2]], [1, 2], [[0, 0, 0], [1, 2, "3"]]],
)
def test_what_is_no_number_is_not_told(box):
    told = {"box": box, "iou": math.nan, "chamfer": "0.1", "volume": True, "solids": {"answer": {}}, "view": 3}
    assert numbers_of({"cad": {"details": told}}) == []


def test_shares_of_statuses_are_one_chart_of_each_reward_that_says_other_things():
    rows = [
        {"step": 1, "reward/mean": 0.0, "reward/a": 0.5, "reward/a/status/syntax": 1.0, "reward/b/status/syntax": 1.0},
        {
            "step": 2,
            **{f"reward/{n}/status/{w}": 0.5 for n in "ab" for w in ("ok", "syntax")},
            "reward/c/status/ok": 1.0,
        },
    ]
    both, other = status_charts(rows)
    assert (both.title, other.title) == ("a, b", "c")
    assert {line.name: line.points for line in both.series} == {
        "ok": ((1.0, 0.0), (2.0, 0.5)),  # absent: none of it
        "syntax": ((1.0, 1.0), (2.0, 0.5)),
    }
    assert component_names(rows) == ["reward/a"]
    assert status_charts([{"step": 1, "reward/a": 1.0}]) == []


def test_rare_statuses_are_one_line_together():
    shares = {f"reward/a/status/word{n}": (n + 1) / 100 for n in range(12)} | {"reward/a/status/ok": 0.01}
    (chart,) = status_charts([{"step": 1, **shares}])
    names = [line.name for line in chart.series]
    assert names == ["ok", *(f"word{n}" for n in range(11, 5, -1)), "others"] and len(names) == MOST_STATUSES
    assert chart.series[-1].last == pytest.approx(sum((n + 1) / 100 for n in range(6)))


def test_the_library_is_kept_with_its_version_and_licence():
    library = (FOLDER / "three.min.js").read_text(encoding="ascii")
    version = LIBRARY.removeprefix("three.js ")
    assert library.startswith(f"/* {LIBRARY}, MIT licence") and f'"{version.split(".")[1]}"' in library
    assert "SPDX-License-Identifier: MIT" in library
    assert (FOLDER / "three.LICENSE").read_text().startswith("The MIT License")
    assert f"three@{version}" in (FOLDER / "README.md").read_text()
    assert len(library) < 600_000
    for name in SCRIPTS:  # what would end its element, or ask somebody
        text = (FOLDER / name).read_text(encoding="ascii")
        assert not re.search(r"</script|<!--|\beval\(|new Function\(", text, re.IGNORECASE), name
