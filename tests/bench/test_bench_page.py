"""results.html of `mmrl bench`: dimensions with their bars, prompts with pictures and verdicts."""

from __future__ import annotations

import json
import re

import pytest
from html_page import Page
from PIL import Image

from mmrl.bench.items import Gallery, Item
from mmrl.bench.outcome import Outcome
from mmrl.bench.page import Point, write_page
from mmrl.bench.shares import Row, Share
from mmrl.bench.source import Source
from mmrl.rewarding.chat import Judge

HOSTILE = '<img src=x onerror="alert(1)"> & "red"'


def gallery(folder, prompts=1, count=2, side=8):
    folder.mkdir(exist_ok=True)
    for number in range(prompts):
        for k in range(count):
            Image.new("RGB", (side, side), (40 * k, 0, 0)).save(folder / f"{number}_{k}.png")
    return Gallery(folder, lambda item, k: [f"{item.id}_{k}.png"], count)


def page_of(folder, rows, lines, items, places, points=lambda item, line: (), **options):
    outcome = Outcome("bench", rows, options.pop("notices", ()), lines)
    path = write_page(folder, outcome, places, items, points, options.pop("facts", {}), **options)
    return Page(path.read_text())


def lines_of(items, count=2, **more):
    return [{"id": item.id, "picture": k, **more} for item in items for k in range(count)]


def test_a_bar_is_the_share_and_its_pale_end_what_no_verdict_would_take_off(tmp_path):
    """3 of 4 judged of 5 asked: 75 % by the verdicts, 60 % over all; the mean of that and 1 of 1."""
    one, other = Share(3, 4, 5), Share(1, 1, 1)
    rows = [
        Row.mean("overall", [one, other]),
        Row.of("Style", one),
        Row.of("  Style - Line", one),
        Row.of("Text", other),
    ]
    items = [Item("0", "a circle")]
    page = page_of(tmp_path, rows, lines_of(items), items, gallery(tmp_path / "p"))
    widths = [attrs["style"] for tag, attrs in page.tags if tag == "i"]
    assert widths == [
        *("width:80.0%", "width:7.5%"),  # (75 + 100) / 2 = 87.5, (60 + 100) / 2 = 80
        *["width:60.0%", "width:15.0%"] * 2,
        *("width:100.0%", "width:0.0%"),
    ]
    assert "0.875" in page.text and "3 of 4" in page.text and "mean of 2" in page.text and "over all" in page.text
    assert sum(attrs.get("class") == "inner" for tag, attrs in page.tags if tag == "tr") == 1


def test_what_has_no_verdict_has_no_bar_and_says_why(tmp_path):
    items = [Item("0", "a circle")]
    rows = [Row.mean("overall", [Share(0, 0, 2)])]
    lines = lines_of(items, reason="the judge gave no list")
    page = page_of(tmp_path, rows, lines, items, gallery(tmp_path / "p"), lambda i, line: [Point("shape", None)])
    assert not [tag for tag, _ in page.tags if tag == "i"]
    assert page.text.count("no verdict: the judge gave no list") == 2 and "–" in page.text


def test_texts_of_files_and_judges_stay_texts_and_nothing_is_requested(tmp_path):
    items = [Item("0", HOSTILE)]
    rows = [Row.of("overall", Share(1, 2, 2)), Row.of(HOSTILE, Share(1, 2, 2))]
    page = page_of(
        tmp_path,
        rows,
        lines_of(items, said=HOSTILE),
        items,
        gallery(tmp_path / "p"),
        lambda i, line: [Point(HOSTILE, True, HOSTILE), Point("other", False)],
        notices=[HOSTILE],
        facts={"judge": HOSTILE, "run": None},
        kind=lambda item: HOSTILE,
    )
    pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 2 and all(src.startswith("data:image/png;base64,") for src in pictures)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    # The notice, the fact, the row, the prompt and its kind; of each picture the point, what it is about, the words.
    assert page.text.count('onerror="alert(1)"') == 5 + 2 * 3
    assert page.text.count("1 of 2") == 2 + 2  # rows and pictures
    assert "run" not in re.findall(r"\b\w+\b", page.text)


@pytest.mark.parametrize(
    ("options", "pictures", "told"),
    [
        ({"max_prompts": 3}, 6, "first 3 of 20"),
        ({"max_bytes": 0}, 0, "left out to keep this file small"),
        ({}, 40, "8 more prompts"),
    ],
)
def test_a_large_benchmark_is_bounded_and_says_so(tmp_path, options, pictures, told):
    items = [Item(str(n), f"prompt {n}") for n in range(20)]
    rows = [Row.of("overall", Share(1, 1, 1))]
    page = page_of(tmp_path, rows, lines_of(items), items, gallery(tmp_path / "p", 20), **options)
    assert sum(tag == "img" for tag, _ in page.tags) == pictures and told in page.text


def test_a_picture_that_is_lost_is_named(tmp_path):
    items, places = [Item("0", "a circle")], gallery(tmp_path / "p")
    (tmp_path / "p" / "0_1.png").unlink()
    page = page_of(tmp_path, [Row.of("overall", Share(1, 1, 1))], lines_of(items), items, places)
    assert "no such file" in page.text


# -------------------------------------------------------------------- of the two benchmarks


def test_unigenbench_tells_each_test_point_of_each_picture(tmp_path):
    from mmrl.bench.unigenbench.evaluation import evaluate

    class Kind:
        identity = "kind"

        def complete(self, messages, temperature, seed):
            text = next(part["text"] for part in messages[0]["content"] if part["type"] == "text")
            points = re.search(r"in this order: (\[.*\])", text)[1]
            return f"<checkpoint>{points}</checkpoint><score>{[0, 1][-points.count(chr(39)) // 2 :]}</score> so it is"

    gallery(tmp_path / "there", 6)
    file = "share://datasets/drawn_bench/unigenbench_en.csv"
    evaluate(file, Source(folder=tmp_path / "there"), Judge(Kind()), out=tmp_path / "out", pictures=2, limit=1)
    page = Page((tmp_path / "out" / "results.html").read_text())
    # One prompt of two points, the first missed and the second met, on both pictures.
    marks = [attrs["class"] for tag, attrs in page.tags if attrs.get("class", "").startswith("point")]
    assert marks == ["point missed", "point met"] * 2
    assert page.text.count("Attribute - Color green") == 2 and page.text.count("so it is") == 2
    assert "judge kind" in page.text and "pictures of there" in page.text and page.text.count("1 of 2") == 2


def test_geneval_tells_faults_and_what_was_found(tmp_path):
    from mmrl.bench.geneval.evaluation import evaluate
    from mmrl.bench.geneval.found import Found

    class Eyes:
        identity, names_colours = "eyes", True

        def detect(self, picture):
            shapes = [("circle", "red"), ("square", "yellow")] if picture.getpixel((0, 0))[0] else []
            return [Found((0, 0, 4, 4), shape, 0.95, colour) for shape, colour in shapes]

    record = {"tag": "two_object", "include": [{"class": "circle", "count": 1}, {"class": "square", "count": 1}]}
    (tmp_path / "file.jsonl").write_text(json.dumps({**record, "prompt": "a red circle and a yellow square"}))
    for k, red in enumerate((0, 40)):
        folder = tmp_path / "there" / "00000" / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (red, 0, 0)).save(folder / f"{k:05}.png")
    source = Source(folder=tmp_path / "there")
    evaluate(tmp_path / "file.jsonl", source, Eyes(), out=tmp_path / "out", pictures=2)
    page = Page((tmp_path / "out" / "results.html").read_text())
    marks = [attrs["class"] for tag, attrs in page.tags if attrs.get("class", "").startswith("point")]
    assert marks == ["point missed", "point missed", "point met"]
    assert "0 of 1 circle" in page.text and "found: nothing" in page.text
    assert "found: red circle, yellow square" in page.text and "0 · two_object" in page.text
