"""Runs that a NaN stopped, that somebody edited, and folders of others: what can be shown is, the rest is named."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrl.cli import cli
from mmrl.reporting.metrics import MetricsWriter
from mmrl.reporting.records import readable_rows
from mmrl.reporting.report import ReportError, write_report
from mmrl.reporting.sample_records import read_step
from mmrl.reporting.samples import write_offending, write_step
from mmrl.reporting.summary import write_summary
from mmrl.types import Group, Prompt, Sample, Score, Trajectory

SECRET = "the key of somebody else"


@pytest.fixture(autouse=True)
def charts_without_lines(monkeypatch):
    """Drawing them is slow, and test_html_report.py has the numbers that they must bear."""
    monkeypatch.setattr("mmrl.reporting.curves.svg", lambda *_: "<svg></svg>")


@pytest.fixture
def any_file():
    """Makes a file of a kind that no run has, by its name."""

    def make(home, name):
        stem, _, suffix = name.rpartition(".")
        path = home / name
        if stem == "pipe":
            os.mkfifo(path)
        elif stem == "folder":
            path.mkdir()
        elif stem == "zero":
            path.symlink_to("/dev/zero")
        elif stem == "circle":
            path.symlink_to(name)
        elif stem == "bomb":  # the head of a picture of 10,000 megapixels
            head = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
            chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, b"IDAT1234")]
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
        elif stem == "large":  # 100 megapixels, which Pillow would open with a warning
            Image.new("1", (10_000, 10_000)).save(path)
        elif stem == "cut":
            buffer = io.BytesIO()
            Image.new("RGB", (30, 30)).save(buffer, "PNG")
            path.write_bytes(buffer.getvalue()[:60])
        elif stem == "noise":
            path.write_bytes((b"\x93NUMPY\x01\x00\xff\xff{" if suffix == "npy" else b"") + bytes(range(100)))
        elif stem == "objects":
            with open(path, "wb") as file:
                np.save(file, np.array([{}]), allow_pickle=True)

    return make


class Page(HTMLParser):
    """The visible text, tags and attributes."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.words = [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.words.append(" ".join(data.split()))

    @property
    def text(self):
        return " ".join(word for word in self.words if word)


def shown(run):
    return Page(write_report(run)).text


def edit(run, name, change):
    """Change a JSON file of the run in place."""
    path = run / name
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


STEP = "samples/step_000060/index.json"


# -------------------------------------------------------------------- a stop by NaN


def test_the_run_that_a_nan_stop_leaves(tmp_path):
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        metrics.write({"step": 1, "reward/mean": 0.25, "loss": 0.5, "grad_norm": 1.0})
        metrics.write({"step": 2, "reward/mean": float("nan"), "loss": float("inf"), "grad_norm": float("nan")})
    prompt = Prompt("p", "one red disc")
    trajectory = Trajectory(torch.tensor([float("nan"), -0.5]), torch.tensor([True, True]))
    scores = {"r": Score.invalid("returned nan")}
    broken = Sample(prompt, 0, "oh no", trajectory, scores=scores, words=["oh", " no"], advantage=float("nan"))
    broken.advantages = [float("nan"), float("inf")]
    write_offending(tmp_path, [Group(prompt, 0, [broken])], "loss nan")
    (tmp_path / "plan.txt").write_text("plan")
    text = shown(tmp_path)
    for words in ("not finished", "offending 1", "loss nan", "one red disc", "returned nan", "oh", "0.250"):
        assert words in text
    assert "Not shown" not in text
    assert 'title="log-prob not finite, advantage not finite"' in (tmp_path / "report.html").read_text()


def test_metrics_without_a_single_number_are_a_report_all_the_same(tmp_path):
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        metrics.write({"step": 1, "reward/mean": float("nan"), "loss": float("nan")})
    assert "steps 1" in shown(tmp_path)
    rows = readable_rows((tmp_path / "metrics.jsonl").read_bytes(), "m", [])
    assert rows == [{"step": 1, "reward/mean": None, "loss": None}]  # gaps in a curve, where a missing name is no point


# -------------------------------------------------------------------- edited folders

EDITS = {
    "a last line that is cut": (lambda f: f.write('{"step": 121, "lo'), "1 line cut off (line 121)"),
    "a line that is no JSON": (lambda f: f.write("oops\n"), "1 line no JSON object (line 121)"),
    "a line of another kind": (lambda f: f.write("[1, 2]\n"), "1 line no JSON object (line 121)"),
    "lines of another schema": (
        lambda f: f.write('{"epoch": 1, "loss": 2}\n{"step": 1.5}\n{"step": true}\n'),
        "3 lines without a whole number as `step` (line 121 and on)",
    ),
    "a step again": (lambda f: f.write('{"step": 120, "loss": 7}\n'), "1 line of a step that was told before"),
    "a step out of order": (lambda f: f.write('{"step": 0, "loss": 7}\n'), "1 line behind that of a later step"),
    "a step beyond all bounds": (lambda f: f.write('{"step": 1' + "0" * 400 + "}\n"), "without a whole number"),
    "a number of 5,000 digits": (lambda f: f.write('{"step": ' + "9" * 5000 + "}\n"), "no JSON object"),
    "nested without end": (lambda f: f.write("[" * 100_000 + "\n"), "no JSON object"),
}


@pytest.mark.parametrize("edit_", EDITS)
def test_lines_of_metrics_that_cannot_be_drawn_are_named_and_the_others_drawn(run, edit_):
    change, told = EDITS[edit_]
    with open(run / "metrics.jsonl", "a") as file:
        change(file)
    text = shown(run)
    assert f"metrics.jsonl: {told}" in text or (told in text and "metrics.jsonl" in text)
    assert "Not shown: 1 thing" in text
    assert "mean over the step's samples" in text
    assert "0.182 → 0.895" in text


def test_the_later_of_two_lines_counts_name_by_name(tmp_path):
    lines = ['{"step": 2, "loss": 1, "kl": 5}', '{"step": 1, "loss": 9}', '{"step": 2, "loss": 3}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    problems = []
    rows = readable_rows((tmp_path / "metrics.jsonl").read_bytes(), "m", problems)
    assert rows == [{"step": 1, "loss": 9}, {"step": 2, "loss": 3, "kl": 5}]
    assert len(problems) == 2


def test_a_cut_index_is_named_and_the_other_steps_are_shown(run):
    path = run / STEP
    path.write_text(path.read_text()[:-200])
    text = shown(run)
    assert f"{STEP} is not JSON" in text
    assert "step 1 · 3 of 3 groups" in text
    assert "step 60" not in text


def test_a_step_without_its_pictures_shows_its_scores(run):
    for path in (run / "samples/step_000060").glob("*.png"):
        path.unlink()
    text = shown(run)
    assert text.count("is missing") == 3 * 6
    assert "step 60 · 3 of 3 groups" in text


def test_a_step_without_its_index_is_no_step(run):
    (run / STEP).unlink()
    assert "step 60 ·" not in shown(run)


@pytest.mark.parametrize("name", ["summary.json", "config.yaml", "plan.txt", "metrics.jsonl"])
def test_every_file_may_be_missing_or_be_a_folder(run, name):
    (run / name).unlink()
    assert "Not shown" not in shown(run)
    (run / name).mkdir()
    assert f"{name} is no plain file" in shown(run)


def test_fields_that_do_not_fit_are_left_out_and_named(run):
    def change(index):
        samples = index["groups"][0]["samples"]
        samples[0]["reward"] = "much"
        samples[1]["scores"] = [1]
        samples[2] = "sample"
        del samples[3]["index"]
        index["groups"][1]["prompt"] = None

    edit(run, STEP, change)
    text = shown(run)
    for words in (
        "group 0, sample 0: left out `reward`",
        "group 0, sample 1: left out `scores`",
        "group 0, sample 2: no object, left out",
        "group 0, sample 3: left out, as it has no usable `index`",
        "group 1: left out, as it has no usable `prompt`",
        "step 60 · 2 of 2 groups",
    ):
        assert words in text


def test_a_part_of_a_step_that_another_process_never_wrote_is_named(tmp_path):
    prompt = Prompt("p", "the question")
    write_step(tmp_path, "step_000001", [Group(prompt, 1, [Sample(prompt, 0, "it")])], part=1, parts=3)
    text = shown(tmp_path)
    assert "samples/step_000001: part_0000, part_0002 of another process is missing" in text
    assert "the question" in text


# -------------------------------------------------------------------- links, devices and bombs


def plant(run, name, target):
    """Put a link where a file of the run is."""
    path = run / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.fixture
def outside(tmp_path):
    """A folder beside the run, of which nothing may be shown."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text(SECRET)
    Image.new("RGB", (3, 3), (1, 2, 3)).save(folder / "secret.png")
    prompt = Prompt("x", SECRET)
    write_step(folder, "step_000060", [Group(prompt, 0, [Sample(prompt, 0, SECRET)])])
    write_summary(
        folder,
        main_metric="eval/x",
        before={},
        after={},
        steps=1,
        wall_s=1,
        samples=1,
        actions=1,
        seed=0,
        config=SECRET,
    )
    with MetricsWriter(folder / "metrics.jsonl") as metrics:
        metrics.write({"step": 1, f"reward/{SECRET}": 1.0})
    return folder


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("config.yaml", "secret.txt"),
        ("plan.txt", "secret.txt"),
        ("summary.json", "summary.json"),
        ("metrics.jsonl", "metrics.jsonl"),
        ("samples/step_000060", "samples/step_000060"),
        ("samples", "samples"),
        ("samples/step_000060/index.json", "samples/step_000060/index.json"),
        ("samples/step_000060/0000_000.png", "secret.png"),
    ],
)
def test_no_link_is_followed_out_of_the_run(run, outside, name, target, relative):
    kept = (run / "samples/step_000060/0000_000.png").read_bytes()
    place = outside / target
    plant(run, name, os.path.relpath(place, (run / name).parent) if relative else place)
    text = shown(run)
    assert SECRET not in text
    assert SECRET not in (run / "report.html").read_text()
    assert "lies outside of the run's folder and is not followed" in text
    if name.endswith(".png"):
        assert kept != (outside / "secret.png").read_bytes()
        assert "0000_000.png lies outside" in text


def test_a_link_that_stays_in_the_run_and_a_run_behind_a_link_are_read(run):
    os.rename(run / "config.yaml", run / "resolved.yaml")
    plant(run, "config.yaml", "resolved.yaml")
    alias = run.parent / "alias"
    alias.symlink_to(run)
    text = shown(alias)
    assert "path: assets/image-tiny" in text
    assert "Not shown" not in text


NAMES = [
    "../../../outside/secret.txt",
    "../../../outside/secret.png",
    "../../config.yaml",
    "/etc/passwd",
    "/dev/zero",
    "..",
    ".",
    "",
    "a\0b.png",
    "x" * 5000 + ".png",
    "\ud800.png",
    "pipe.png",
    "pipe.txt",
    "pipe.npy",
    "folder.png",
    "folder.txt",
    "folder.npy",
    "circle.png",
    "zero.png",
    "zero.txt",
    "zero.npy",
    "bomb.png",
    "large.png",
    "cut.png",
    "noise.png",
    "noise.npy",
    "objects.npy",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_an_index_opens_no_file_but_a_plain_one_beside_it(run, talks, outside, any_file, name):
    """In `file` of a sample, and of what a policy was shown."""
    for home in (run / "samples/step_000060", talks / "samples/step_000001"):
        any_file(home, name)

    def change(index):
        sample = index["groups"][0]["samples"][0]
        sample["file"] = name
        if sample["media"]:
            sample["media"][0]["file"] = name

    for home, step in ((run, STEP), (talks, "samples/step_000001/index.json")):
        edit(home, step, change)
        page = write_report(home)
        assert SECRET not in page.read_text()
        assert "root:" not in page.read_text()
        assert page.stat().st_size < 3_000_000
        if name not in ("large.png", "bomb.png"):  # what a run wrote itself may be large
            with pytest.raises((ValueError, OSError), match=r"."):  # the strict reader opens it as little
                read_step(home, step.split("/")[1])


# -------------------------------------------------------------------- folders of others

FOREIGN = {
    "nothing": {},
    "other files": {"README.md": "hello", "config.yaml": "a: 1", "data.json": "{}"},
    "metrics of another tool": {"metrics.jsonl": '{"epoch": 1}\n{"epoch": 2}\n'},
    "a list as summary": {"summary.json": "[1]"},
    "samples of another tool": {"samples/first/index.json": "[]", "samples/second.txt": "x"},
    "a step of another tool": {"samples/step_000001/index.json": '{"groups": {"a": 1}}'},
    "bytes": {"metrics.jsonl": "\x00\x01\x02", "summary.json": "\x00"},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_that_is_no_run_is_one_line_of_error(tmp_path, what):
    for name, text in FOREIGN[what].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ReportError, match="is no run's folder: it has no metrics, samples or plan") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_no_folder_and_a_file_are_one_line_of_error(tmp_path):
    (tmp_path / "file").write_text("x")
    for name in ("typo", "file"):
        with pytest.raises(ReportError, match="give the folder that holds metrics"):
            write_report(tmp_path / name)


def test_the_command_tells_it_so(tmp_path, monkeypatch, capsys):
    import sys

    from mmrl.cli import main

    monkeypatch.setattr(sys, "argv", ["mmrl", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        metrics.write({"step": 1, "loss": float("nan")})
    assert CliRunner().invoke(cli, ["report", str(tmp_path)]).output.strip() == str(tmp_path / "report.html")


# -------------------------------------------------------------------- everything is escaped

ATTACK = "</style><script>alert(1)</script>'\"><svg onload=x><img src=x onerror=y>"


def attacked(value):
    """Every text in a JSON value, names included, is the attack; what must be one of a few words stays."""
    if isinstance(value, dict):
        return {key if key in KEYS else f"{key}{ATTACK}": attacked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [attacked(item) for item in value]
    kept = isinstance(value, str) and (value in ("ok", "na", "invalid") or value.endswith((".png", ".txt")))
    return f"{value} {ATTACK}" if isinstance(value, str) and not kept else value


KEYS = {
    *("tag", "parts", "groups", "extra", "why", "prompt", "id", "text", "index", "samples", "file", "stop", "version"),
    *("reward", "advantage", "actions", "words", "logp", "trained", "scores", "value", "status", "reason", "details"),
    *(
        "turns",
        "media",
        "info",
        "role",
        "picture",
        "crop",
        "size",
        "original",
        "seen",
        "space",
        "tokens",
        "boxes",
        "box",
    ),
    *("main_metric", "eval", "before", "after", "steps", "wall_s", "peak_rss_mb", "seed", "config", "step"),
}


@pytest.mark.parametrize("which", ["run", "talks"])
def test_every_text_of_every_file_stays_text(request, which):
    run = request.getfixturevalue(which)
    write_offending(run, [Group(Prompt("p", "p"), 0, [Sample(Prompt("p", "p"), 0, "x")])], "why")
    for path in [*run.rglob("index.json"), *run.glob("summary.json")]:
        path.write_text(json.dumps(attacked(json.loads(path.read_text()))))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(attacked(line)) + "\n" for line in lines))
    for name in ("config.yaml", "plan.txt"):
        (run / name).write_text(ATTACK)
    parsed = Page(write_report(run))
    assert "script" not in parsed.tags
    assert not parsed.attributes & {"onload", "onerror"}
    assert parsed.tags.count("style") == 1
    assert parsed.text.count("alert(1)") > 20


# -------------------------------------------------------------------- any edit at all


@pytest.fixture(scope="module")
def small(tmp_path_factory, talking):
    """A run of two charts with one step of conversations and of pictures, as the text of its files."""
    folder = tmp_path_factory.mktemp("small") / "run"
    with MetricsWriter(folder / "metrics.jsonl") as metrics:
        for step in (1, 2, 3):
            metrics.write({"step": step, "stage": "grpo", "grad_norm": 0.5 * step, "env/crop/ok": 0.5, "eval/r": 0.5})
    prompt = Prompt("p", "draw")
    trajectory = Trajectory(torch.tensor([-0.5, -1.0]), torch.tensor([True, False]))
    scores = {"r": Score.of(0.5, boxes=[[1.0, 2.0, 3.0, 4.0]], why="so")}
    picture = Image.new("RGB", (2, 2))
    samples = [
        Sample(prompt, 0, picture, trajectory, scores=scores, reward=0.5, advantage=1.0, words=["a", "b"]),
        Sample(prompt, 1, "text", scores={"r": Score.invalid("late")}),
    ]
    talk = Group(prompt, 1, [talking.sample(prompt, n, True, 0.5) for n in range(2)])
    write_step(folder, "step_000001", [Group(prompt, 0, samples), talk], {"stage": "s"}, talking.look)
    for part in range(2):
        write_step(folder, "eval_before", [Group(prompt, part, samples)], {}, part=part, parts=2)
    write_step(folder, "eval_after", [Group(prompt, 0, samples)])
    write_summary(
        folder, main_metric="eval/r", before={"eval/r": 0.5}, after={"eval/r": 0.75}, steps=3, wall_s=1.5, samples=6,
        actions=12, seed=0, config="c", peak_rss_mb=100.0,
    )  # fmt: skip
    (folder / "config.yaml").write_text("a: 1\n")
    (folder / "plan.txt").write_text("plan\n")
    return folder


WILD = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([10**400, -(10**400), 2**53 + 1, 0, -1, 1e308, -1e308, 5e-324, 1e99]),
        st.floats(),
        st.text(st.characters(codec=None), max_size=8),
        st.sampled_from(["..", "/etc/passwd", "index.json", "<script>", "0000_000.png", "invalid", "ok"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """The way to every value inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def put(value, path, new):
    """The value with `new` at a place; Ellipsis takes the place away."""
    if not path:
        return None if new is ... else new
    value = copy.copy(value)
    if len(path) == 1 and new is ...:
        del value[path[0]]
    else:
        value[path[0]] = put(value[path[0]], path[1:], new)
    return value


def edited_json(data, text):
    value = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(places(value))))
        value = put(value, path, data.draw(st.just(...) | WILD))
    return json.dumps(value).encode()


def edited_bytes(data, raw):
    at = data.draw(st.integers(0, len(raw)))
    how = data.draw(st.sampled_from(["cut", "insert", "change", "twice"]))
    new = data.draw(st.binary(min_size=1, max_size=8))
    return {
        "cut": raw[:at],
        "insert": raw[:at] + new + raw[at:],
        "change": raw[:at] + new + raw[at + len(new) :],
        "twice": raw + raw[at:],
    }[how]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_edit_of_a_run_makes_the_report_fail(small, tmp_path_factory, data):
    run = tmp_path_factory.mktemp("edited") / "run"
    shutil.copytree(small, run)
    files = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    for name in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=3, unique=True)):
        path = run / name
        how = data.draw(st.sampled_from(["json", "bytes", "gone"]))
        if how == "gone":
            path.unlink()
        elif how == "json" and name.endswith(".json"):
            path.write_bytes(edited_json(data, path.read_text()))
        elif how == "json" and name.endswith(".jsonl"):
            lines = path.read_text().splitlines()
            at = data.draw(st.integers(0, len(lines) - 1))
            lines[at] = edited_json(data, lines[at]).decode()
            path.write_text("\n".join(lines) + "\n")
        else:
            path.write_bytes(edited_bytes(data, path.read_bytes()))
    try:
        parsed = Page(write_report(run))
    except ReportError:
        return
    finally:
        shutil.rmtree(run.parent)
    assert "script" not in parsed.tags
    assert "root:" not in parsed.text
