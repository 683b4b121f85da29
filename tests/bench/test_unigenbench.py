"""UniGenBench: its files, what is asked, what an answer says, and scores worked out by hand."""

from __future__ import annotations

import json
import math

import pytest

from mmrl.bench.shares import Row, Share
from mmrl.bench.unigenbench.reading import LANGUAGES, Asked, primary, read
from mmrl.bench.unigenbench.replies import marks_in
from mmrl.bench.unigenbench.scores import rows
from mmrl.bench.unigenbench.words import DEFINITIONS, TEMPLATES, wording_of
from mmrl.config import ConfigError

STYLE, COLOUR, SIZE = "Style", "Attribute - Color", "Attribute - Size"
LAYOUT = "Entity Layout - Two-Dimensional Space"


def cell(points, language="en", descriptions=None):
    columns = LANGUAGES[language]
    told = {columns.points: points, columns.descriptions: descriptions or [f"d{i}" for i in range(len(points))]}
    return json.dumps(told, ensure_ascii=False)


def write(path, rows, language="en"):
    """A CSV of (index, prompt, cell)."""
    columns = LANGUAGES[language]
    quoted = [f"index,{columns.prompt},{columns.told}"]
    quoted += [",".join('"{}"'.format(str(part).replace('"', '""')) for part in row) for row in rows]
    path.write_text("\n".join(quoted) + "\n", encoding="utf-8")
    return path


# -------------------------------------------------------------------- files


@pytest.mark.parametrize(("language", "point"), [("en", "Attribute - Color"), ("zh", "属性-颜色")])
def test_a_file_of_each_language_is_read(tmp_path, language, point):
    path = write(tmp_path / "p.csv", [(7, "a, b", cell([point], language, ["the red one"]))], language)
    found = read(path)
    assert (found.language, found.notices) == (language, [])
    assert found.items == [Asked("7", "a, b", (point,), ("the red one",))]


def test_a_comma_that_lacks_is_put_in_and_told(tmp_path):
    """As in row 509 of the published long English file."""
    broken = cell([STYLE, COLOUR, SIZE]).replace('"Style", ', '"Style" ')
    with pytest.raises(ValueError):
        json.loads(broken)
    found = read(write(tmp_path / "p.csv", [(0, "a", cell([STYLE])), (1, "b", broken)]))
    assert found.items[1].points == (STYLE, COLOUR, SIZE)
    assert len(found.notices) == 1 and "row 2: 1 comma lacked" in found.notices[0]


def test_a_description_that_is_empty_is_told(tmp_path):
    """As in row 384 of the published English file."""
    found = read(write(tmp_path / "p.csv", [(0, "a", cell([STYLE, COLOUR], descriptions=["ink", " "]))]))
    assert found.items[0].descriptions == ("ink", "") and "row 1: a test point without a desc" in found.notices[0]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ((1, "b", cell([STYLE, COLOUR], descriptions=["one"])), "2 Testpoints and 1 Testpoint Description"),
        ((1, "b", cell([])), "0 Testpoints"),
        ((1, "b", cell([STYLE, " "])), "a name in Testpoints is empty"),
        ((1, "", cell([STYLE])), "no prompt"),
        ((1, "b", '{"Testpoints": "Style", "Testpoint Description": ["x"]}'), "not a list of texts"),
        ((1, "b", "{oops"), "no JSON"),
        ((1, "b", "[1]"), "not an object"),
        (("one", "b", cell([STYLE])), "not a number"),
        ((0, "b", cell([STYLE])), "two prompts have the index 0"),
    ],
    ids=["lengths", "no points", "no name", "no prompt", "text", "no json", "list", "index", "twice"],
)
def test_a_row_that_is_not_as_published_is_refused(tmp_path, row, told):
    with pytest.raises(ConfigError, match=told):
        read(write(tmp_path / "p.csv", [(0, "a", cell([STYLE])), row]))


@pytest.mark.parametrize(
    "text", ["", "index,prompt\n0,a\n", "index,prompt_en,sub_dims_en\n"], ids=["empty", "x", "no rows"]
)
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"has no columns|holds no prompts"):
        read(tmp_path / "p.csv")


def test_a_file_of_both_languages_wants_to_be_told_which(tmp_path):
    english, chinese = cell([STYLE]).replace('"', '""'), cell(["风格"], "zh").replace('"', '""')
    path = tmp_path / "both.csv"
    path.write_text(f'index,prompt_en,sub_dims_en,prompt_zh,sub_dims_zh\n0,a,"{english}",甲,"{chinese}"\n')
    with pytest.raises(ConfigError, match="say which"):
        read(path)
    assert [read(path, name).items[0].text for name in ("en", "zh")] == ["a", "甲"]
    with pytest.raises(ConfigError, match="language 'fr'"):
        read(path, "fr")


# -------------------------------------------------------------------- what is asked


@pytest.mark.parametrize("language", TEMPLATES)
def test_what_is_asked_holds_all_that_the_judge_needs(language):
    point = next(iter(DEFINITIONS[language]))
    item = Asked("0", "the {prompt} text", (point, "New - Kind"), ("first thing", "second thing"))
    said = wording_of(language).request(item)
    assert "the {prompt} text" in said  # what stands in a prompt is not filled in once more
    for words in (point, "New - Kind: second thing", f"{point}: first thing", DEFINITIONS[language][point]):
        assert words in said
    assert "<score>" in said and marks_in(said, item.points) is None  # the form, said back, is no verdict


def test_both_languages_define_the_same_dimensions():
    """27 sub dimensions in 10 primary ones, and as many of each: 6 actions, 6 attributes, 4 relations ..."""
    sizes = []
    for known in DEFINITIONS.values():
        assert len(known) == 27
        found = [primary(point) for point in known]
        sizes.append(sorted(found.count(name) for name in set(found)))
    assert sizes == [[1, 1, 1, 1, 2, 2, 3, 4, 6, 6]] * 2


def test_the_users_wording_takes_the_place_of_ours(tmp_path):
    (tmp_path / "t.txt").write_text("P {prompt} T {testpoint} E {explanation} D {test_explanation} {} {not this}")
    (tmp_path / "d.json").write_text('{"Style": "their words"}')
    item = Asked("0", "cat", ("Style", "Style"), ("ink", "wash"))
    said = wording_of("en", tmp_path / "t.txt", tmp_path / "d.json").request(item)
    assert said == "P cat T ['Style', 'Style'] E Style: their words D Style: ink\nStyle: wash {} {not this}"


@pytest.mark.parametrize(
    ("template", "definitions", "told"),
    [
        ("{prompt}", None, "it lacks {test_explanation}"),
        ("{prompt} {test_explanation} {promt}", None, "{promt} is not filled in; did you mean 'prompt'"),
        ("{prompt} {test_explanation}", "{}", "has no {explanation}"),
        (None, "[1]", "expected an object of texts"),
        (None, "{", "no JSON"),
    ],
)
def test_a_wording_that_cannot_be_used_is_refused(tmp_path, template, definitions, told):
    files = {"t.txt": template, "d.json": definitions}
    for name, text in files.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    given = [tmp_path / name if text is not None else None for name, text in files.items()]
    with pytest.raises(ConfigError, match=told.replace("{", r"\{")):
        wording_of("en", *given)


# -------------------------------------------------------------------- answers


def answer(scores, points=None, head=""):
    told = f"<checkpoint>{points}</checkpoint>" if points is not None else ""
    return f"{head}<description>{told}<analysis>['it's there']</analysis><score>{scores}</score></description>"


@pytest.mark.parametrize(
    ("said", "marks"),
    [
        (answer("[1, 0, 1]"), (1, 0, 1)),
        (answer("[1,0,1,]"), (1, 0, 1)),
        (answer("\n[ 1, 0,\n1 ]\n"), (1, 0, 1)),
        (answer([1, 0, 1], [STYLE, COLOUR, SIZE]), (1, 0, 1)),
        (answer([1, 0, 1], [SIZE, STYLE, COLOUR]), (0, 1, 1)),  # another order: its 2nd, 3rd and 1st
        (answer([1, 0, 1], [SIZE, STYLE]), None),
        (answer([1, 0, 1], [SIZE, STYLE, "Attribute - Shape"]), None),  # a point that was not asked
        (answer([1, 0, 0], [SIZE.upper(), "attribute-color", " style "]), (0, 0, 1)),
        (answer([1, 0, 1], "Style, Color and Size"), (1, 0, 1)),  # no list: no other order can be told
        (answer([1, 0]), None),
        (answer([1, 0, 1, 1]), None),
        (answer("[1, 0, 2]"), None),
        (answer("[1, 0.5, 1]"), None),
        (answer("['1', '0', '1']"), None),
        (answer("1, 0, 1"), None),
        (answer("[1, 0, 1]") + answer("[1, 0, 1]"), (1, 0, 1)),  # twice the same
        (answer("[1, 0, 1]") + answer("[1, 1, 1]"), None),  # which of them?
        (answer("[1, 0, 1]") + answer("[1]"), None),
        (answer([1, 0, 1], [SIZE, STYLE, COLOUR]) + answer([1, 0, 1], [STYLE, COLOUR, SIZE]), None),
        (answer("[1, 0, 1]", head="<think><score>[0, 0, 0]</score></think>"), (1, 0, 1)),
        ("<think>" + answer("[1, 0, 1]"), None),  # still thinking
        (answer("[a 0 or a 1 for each point]") + answer("[1, 0, 1]"), (1, 0, 1)),  # the form said back, then an answer
        ("[1, 0, 1]", None),
        ("", None),
    ],
)
def test_what_an_answer_says(said, marks):
    points = (STYLE, COLOUR, SIZE)
    assert marks_in(said, points) == marks


def test_names_that_occur_twice_are_read_in_their_own_order_only():
    points = ("Action - State", "Style", "Action - State")
    assert marks_in(answer([1, 0, 0], list(points)), points) == (1, 0, 0)
    assert marks_in(answer([1, 0, 0], ["Style", "Action - State", "Action - State"]), points) is None


# -------------------------------------------------------------------- scores


def test_scores_by_hand():
    items = [
        Asked("0", "a", (STYLE, COLOUR), ("", "")),
        Asked("1", "b", (COLOUR, SIZE, LAYOUT), ("", "", "")),
    ]
    lines = [
        {"id": "0", "marks": [1, 0]},
        {"id": "0", "marks": [1, 1]},
        {"id": "1", "marks": [1, 0, 0]},
        {"id": "1", "reason": "no verdict in the answer"},
    ]
    found = {row.name: row for row in rows(items, lines)}
    # Style 2 of 2. Colour: 0 and 1, then 1; the fourth picture is out: 2 of 3 judged, 4 asked. Size 0 of 1, 2 asked.
    assert found["Style"].share == Share(2, 2, 2)
    assert found["  Attribute - Color"].share == Share(2, 3, 4)
    assert found["  Attribute - Size"].share == Share(0, 1, 2)
    assert found["Attribute"].share == Share(2, 4, 6)
    assert found["Entity Layout"].share == Share(0, 1, 2)  # cut at its first hyphen, not at that of Two-Dimensional
    assert found["all test points"].share == Share(4, 7, 10)
    assert found["overall"].score == pytest.approx((1 + 2 / 4 + 0) / 3)
    assert found["overall"].over_all == pytest.approx((1 + 2 / 6 + 0) / 3)
    names = ["overall", "all test points", "Attribute", "  Attribute - Color", "  Attribute - Size", "Entity Layout"]
    assert list(found) == [*names, f"  {LAYOUT}", "Style"]


def test_the_overall_score_is_that_of_the_published_table():
    """SDXL's line of the English leaderboard: ten primary dimensions, and 40.22 overall."""
    line = [87.45, 72.28, 44.66, 35.10, 46.37, 10.34, 48.48, 26.68, 30.80, 0.00]
    row = Row.mean("overall", [Share(round(value * 100), 10_000, 10_000) for value in line])
    assert row.count == 10 and row.score is not None and math.isclose(100 * row.score, 40.22, abs_tol=0.005)


def test_without_a_verdict_in_a_dimension_there_is_no_mean_of_the_others():
    found = rows([Asked("0", "a", (STYLE, COLOUR), ("", ""))], [{"id": "0", "reason": "down"}])
    assert [row.score for row in found] == [None] * len(found)
    assert [row.over_all for row in found] == [0.0] * len(found)
