"""Conversations in the report: what was seen, once each; boxes where they lie; who said what, and what was trained."""

from __future__ import annotations

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from PIL import Image

from mmrl.reporting.curves import conversation_charts
from mmrl.reporting.report import write_report
from mmrl.reporting.samples import write_step
from mmrl.types import Group, Prompt, Sample, Turn

SVG = "{http://www.w3.org/2000/svg}"


def html(folder) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def section(page: str, name: str) -> str:
    return re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)[1]


def gallery(page: str) -> dict[str, Image.Image]:
    found = re.findall(r'<image id="([^"]+)" href="data:image/png;base64,([^"]+)"', page)
    return {id_: Image.open(io.BytesIO(base64.b64decode(data))) for id_, data in found}


def frames(text: str) -> list[tuple[str, ElementTree.Element]]:
    """(the caption, the svg) of every figure."""
    figures = re.findall(r'<figure class="frame">\s*(<svg.*?</svg>)\s*<figcaption>(.*?)</figcaption>', text, re.DOTALL)
    return [(caption, ElementTree.fromstring(svg)) for svg, caption in figures]


def rects(svg: ElementTree.Element, kind: str) -> list[tuple[float, ...]]:
    groups = [g for g in svg.iter("g") if g.get("class") == kind]
    return [tuple(float(r.get(k)) for k in ("x", "y", "width", "height")) for g in groups for r in g.iter("rect")]


def test_every_picture_that_was_seen_is_there_once(talks):
    page = html(talks)
    pictures = gallery(page)
    # Six samples saw the scene, twice or with the crop; four times in all a file of it was stored.
    assert sorted(p.size for p in pictures.values()) == [(28, 28), (48, 32)]
    used = re.findall(r'<use href="#([^"]+)"', page)
    assert set(used) == set(pictures)
    assert len(used) > 6


def test_crops_and_boxes_lie_where_they_lie_on_the_original(talks, talking):
    left, top, right, bottom = talking.box
    cards = section(html(talks), "groups").split('<div class="cards')[1]
    views = frames(cards)
    # Of the four samples two have boxes: the scene with them, and their crop; the others a second whole view.
    marked = [svg for _, svg in views if list(svg.iter("rect"))]
    assert len(marked) == 2
    for svg in marked:
        assert [float(v) for v in svg.get("viewBox").split()] == [0, 0, *talking.size]
        assert rects(svg, "crop") == [(left, top, right - left, bottom - top)]
        assert rects(svg, "wrote") == [(5, 6, 16, 17), (4, 6, 16, 16)]  # the reward's reading, the environment's
    crops = [svg for caption, svg in views if caption.startswith("▣2 4, 6 to 20, 22")]
    assert [svg.get("viewBox") for svg in crops] == ["4.0 6.0 16.0 16.0"] * 2


def test_turns_stand_in_order_with_who_speaks(talks):
    groups = section(html(talks), "groups")
    opening, cards = groups.split('<div class="cards')
    assert re.findall(r'class="speaker">([^<]+)<', opening) == ["system", "user"]
    assert re.findall(r'class="speaker">([^<]+)<', cards) == ["policy", "user", "policy"] * 4
    assert "▣1 What is red?" in opening
    assert opening.count("Point first.") == 1  # what all begin with is said once
    assert "Point first." not in cards


def test_trained_tokens_are_marked_and_observations_are_not(talks):
    best = section(html(talks), "groups").split('<div class="cards')[1].split('<div class="sample')[1]
    own = re.findall(r'<div class="turn own.*?">(.*?)</div>\s*</div>', best, re.DOTALL)
    said = [re.findall(r'<span title="[^"]*" class="(\w*)[^"]*"[^>]*>([^<]*)</span>', turn) for turn in own]
    assert said == [[("up", "[4,6,20,22]"), ("up", "&lt;eos&gt;")], [("up", "answer 1"), ("up", "&lt;eos&gt;")]]
    assert "▣2 Zoomed." in best
    assert not re.search(r"<span[^>]*>Zoomed", best)


def test_components_and_what_the_environment_says(talks):
    best = section(html(talks), "groups").split('<div class="cards')[1].split('<div class="sample')[1]
    lines = dict(re.findall(r'<div class="line[^"]*"><span[^>]*>([^<]+)</span><span[^>]*>([^<]+)</span>', best))
    assert {k: lines[k] for k in ("exact", "iou", "crop", "box", "visual tokens", "reward")} == {
        "exact": "1.000",
        "iou": "0.500",
        "crop": "ok",
        "box": "4, 6, 20, 22",
        "visual tokens": "10",
        "reward": "1.000",
    }


def test_the_filmstrip_shows_the_picture_once_and_the_answers_beside_one_another(talks):
    strip = section(html(talks), "filmstrip")
    head, *columns = strip.split('<div class="when">')
    assert len(frames(head)) == 1
    assert [column[: column.index("<")] for column in columns] == ["before", "after"]
    assert [len([svg for _, svg in frames(column) if rects(svg, "crop")]) for column in columns] == [0, 1]


def test_charts_of_conversations_join_the_words_of_a_name(talks):
    charts = section(html(talks), "conversations")
    assert re.findall(r"<b>([^<]+)</b>", charts) == ["crop"]  # the others never move
    assert re.findall(r"<dt>([^<]+)</dt>", charts) == ["turns", "visual tokens"]
    assert re.findall(r"</i>(\w+) ", charts.split("<b>crop</b>")[1]) == ["no_json", "ok"]


def test_a_word_that_a_step_lacks_is_none_of_its_words():
    rows = [{"step": 1, "env/crop/ok": 0.25, "env/crop/small": 0.75}, {"step": 2, "env/crop/ok": 1.0}, {"step": 3}]
    (chart,) = conversation_charts(rows)
    assert {line.name: line.points for line in chart.series} == {
        "ok": ((1.0, 0.25), (2.0, 1.0)),
        "small": ((1.0, 0.75), (2.0, 0.0)),
    }


def test_openings_that_differ_stay_with_their_samples(tmp_path, talking):
    first, second = Prompt("a", "<image>What is red?"), Prompt("a", "<image>And now?")
    group = Group(first, 0, [talking.sample(first, 0, True, 1.0), talking.sample(second, 1, True, 0.0)])
    write_step(tmp_path, "step_000001", [group], render=talking.look)
    groups = section(html(tmp_path), "groups")
    assert 'class="opening"' not in groups
    assert re.findall(r'class="speaker">([^<]+)<', groups) == ["system", "user", "policy", "user", "policy"] * 2
    assert len([svg for _, svg in frames(groups) if rects(svg, "crop")]) == 2


def test_what_was_not_stored_is_told(talks):
    step = talks / "samples" / "step_000001"
    index = json.loads((step / "index.json").read_text())
    for sample in index["groups"][0]["samples"]:
        sample["media"][0] = {k: v for k, v in sample["media"][0].items() if k != "file"} | {"problem": "a.png is gone"}
    (step / "index.json").write_text(json.dumps(index))
    for path in step.glob("*_seen_01.png"):
        path.unlink()
    groups = section(html(talks), "groups")
    assert "a.png is gone" in groups
    assert "_seen_01.png is missing" in groups


def test_pictures_stay_below_the_bound(talks):
    page = write_report(talks, max_bytes=10).read_text(encoding="utf-8")
    assert gallery(page) == {}
    assert "left out to keep this file small" in page


class Parser(HTMLParser):
    """Names of tags and attributes, and the texts between."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.attributes, self.words = set(), set(), []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data) -> None:
        self.words.append(data)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><svg onload=x>', "{{ 1 + 1 }}"])
def test_what_a_policy_says_is_text(tmp_path, talking, text):
    prompt = Prompt("a", f"<image>{text}")
    sample = talking.sample(prompt, 0, True, 1.0)
    sample.info = {text: text}
    turns = [Turn(text, text), *sample.turns[1:]]
    sample.turns, sample.scores["iou"].details["boxes"][:] = turns, [{"bbox_2d": [1, 2, 3, 4], "label": text}]
    write_step(tmp_path, "step_000001", [Group(prompt, 0, [sample])], render=talking.look)
    parsed = Parser()
    parsed.feed(html(tmp_path))
    assert "script" not in parsed.tags
    assert "onload" not in parsed.attributes
    assert sum(text in words for words in parsed.words) >= 3  # the prompt, the role, the name of a fact ...


def test_boxes_that_are_none_are_not_drawn(tmp_path, talking):
    prompt = Prompt("a", "<image>Where?")
    sample = talking.sample(prompt, 0, True, 1.0)
    wild = [[1, 2, 3], "box", [9, 9, 1, 1], [float("nan"), 0, 1, 1], None, {"bbox_2d": 5}, [1, "2", 3, 4]]
    sample.scores["iou"].details["boxes"][:] = wild
    sample.info = {"crop": "ok", "box": float("inf")}
    write_step(tmp_path, "step_000001", [Group(prompt, 0, [sample])], render=talking.look)
    assert not [svg for _, svg in frames(html(tmp_path)) if rects(svg, "wrote")]


def test_plain_texts_look_as_before(tmp_path):
    prompt = Prompt("a", "What?")
    turns = (Turn("user", "What?"), Turn("assistant", "This.", trained=True))
    sample = Sample(prompt, 0, "This.", turns=turns, reward=1.0, advantage=0.0)
    write_step(tmp_path, "step_000001", [Group(prompt, 0, [sample])])
    groups = section(html(tmp_path), "groups")
    assert '<div class="said">This.</div>' in groups
    assert 'class="turn' not in groups
