"""What the report shows of judges: tables of who won against whom, and pairs in the order that each sample saw."""

from __future__ import annotations

import base64
import io
import re
from html import unescape

import pytest
from every import every
from PIL import Image

from mmrl.reporting.matrix import matrices
from mmrl.reporting.report import write_report
from mmrl.reporting.samples import write_step
from mmrl.rewarding import win_rate
from mmrl.types import Group, Prompt, Sample, Score, Turn


def record(index, won, name="duel"):
    return {"index": index, "scores": {name: {"details": {"won": won}}}}


def words(table):
    return [[row, *(cell.text for cell in cells)] for row, cells in table.rows]


def test_a_table_by_hand():
    [table] = matrices([record(0, [None, 0.75, 1.0]), record(1, [0.25, None, None]), record(2, [0.0, None, None])])
    assert table.columns == ("0", "1", "2")
    assert words(table) == [["0", "", "0.75", "1"], ["1", "0.25", "", ""], ["2", "0", "", ""]]
    assert [cell.shade for cell in table.rows[0][1]] == [0.0, 0.5, 1.0]


def test_anchors_are_columns_of_their_own_also_where_they_are_as_many_as_samples():
    [table] = matrices([record(0, [1.0, 0.5]), record(1, [0.0, None])])
    assert table.columns == ("anchor 1", "anchor 2")


def test_a_sample_without_a_row_stays_a_column():
    [table] = matrices([record(0, [None, None, 1.0]), {"index": 1, "scores": {}}, record(2, [0.0, None, None])])
    assert table.columns == ("0", "1", "2") and [row for row, _ in table.rows] == ["0", "2"]


@every(
    "won", [None, 3, "no", [], ["a", 1.0], [True, None], [1.5, None], [float("nan"), None], [None, -0.1], [[1.0], None]]
)
def test_what_is_no_table_is_left_out(won):
    assert matrices([record(0, won), record(1, won)]) == ()
    assert matrices([record(0, [None, 1.0]), record(1, won)]) == ()
    assert matrices([]) == matrices([{"index": 0, "scores": {"duel": {"details": {}}}}]) == ()


def test_a_table_of_rows_of_other_lengths_or_of_too_many_is_left_out():
    assert matrices([record(0, [None, 1.0]), record(1, [0.0, None, 1.0])]) == ()
    assert matrices([record(n, [0.5] * 40) for n in range(3)]) == ()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n')
    return tmp_path


def test_the_report_has_the_table_of_a_group(folder):
    prompt = Prompt("p", "say it")
    group = Group(prompt, 0, [Sample(prompt, i, text) for i, text in enumerate(["a", "bbb", "cc"])])
    scores = win_rate(lambda a, b: 0.75 if len(a.artifact) > len(b.artifact) else 0.25)(group)
    for sample, score in zip(group.samples, scores):
        sample.scores, sample.reward = {"duel": score}, score.value
    write_step(folder, "step_000001", [group])
    html = write_report(folder).read_text()
    assert "duel: what each sample won of the others" in unescape(html)
    assert html.count('<td class="up"') == html.count('<td class="down"') == 3


def test_the_table_of_a_group_of_pictures_has_them_small_at_its_rows_and_columns(folder):
    prompt = Prompt("p", "a red square")
    pictures = [Image.effect_noise((200, 100), 50 + n) for n in range(3)]
    group = Group(prompt, 0, [Sample(prompt, i, picture) for i, picture in enumerate(pictures)])
    for sample, score in zip(group.samples, win_rate(lambda a, b: float(a.index > b.index))(group)):
        sample.scores, sample.reward = {"duel": score}, score.value
    write_step(folder, "step_000001", [group])
    html = write_report(folder).read_text()
    faces = re.findall(r'<th><img src="data:image/png;base64,([^"]+)" alt="sample (\d)">\d</th>', html)
    assert [number for _, number in faces] == ["0", "1", "2"] * 2  # the columns, then the rows
    assert all(faces[n] == faces[n + 3] for n in range(3)) and len(set(faces)) == 3
    assert {Image.open(io.BytesIO(base64.b64decode(uri))).size for uri, _ in faces} == {(48, 24)}
    # Without room for them the table stands alone.
    assert 'alt="sample 0"' not in write_report(folder, max_bytes=1).read_text()


def test_a_pair_of_texts_is_shown_in_each_samples_own_order(folder):
    prompt = Prompt("p", "Which is true?")
    group = Group(prompt, 0)
    for index, order in enumerate([[0, 1], [1, 0]]):
        shown = [("the sky is blue", "the sky is green")[i] for i in order]
        turns = (
            Turn("user", f"Which is true? 1: {shown[0]} 2: {shown[1]}"),
            Turn("assistant", f"<think>look</think><answer>{1 + order.index(0)}</answer>", trained=True),
        )
        said = turns[1].text
        score = Score.of(1.0, chosen=0, place=order.index(0))
        group.samples.append(
            Sample(prompt, index, said, scores={"right": score}, reward=1.0, turns=turns, info={"order": order})
        )
    write_step(folder, "step_000001", [group])
    html = write_report(folder).read_text()
    assert "1: the sky is blue 2: the sky is green" in html and "1: the sky is green 2: the sky is blue" in html
    assert "A B</span>" in html and "B A</span>" in html
    assert html.count("candidates as shown") == html.count("prefers A") == 2
