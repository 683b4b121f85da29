"""Sections of structured answers in the report: each in its colour, tags included, whatever else a text holds."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrl.reporting.report import write_report
from mmrl.reporting.samples import write_step
from mmrl.reporting.sections import pieces, sections_of
from mmrl.sections import SECTIONS, structured
from mmrl.types import Group, Prompt, Sample, Trajectory

WHOLE = structured(dict(zip(SECTIONS, ("listen", "a bell", "bells ring", "so"))), "bell")
# Text -> (name, colour) of each piece that has one.
TEXTS = {
    "no tags": [],
    "": [],
    WHOLE: [("PLANNING", 1), ("CAPTION", 2), ("REASONING", 3), ("SUMMARY", 4), ("RESPONSE", 5)],
    "<think>a</think> b <answer>c</answer>": [("think", 6), ("answer", 5)],
    "<a>1</a><b>2</b><c>3</c><d>4</d>": [("a", 6), ("b", 7), ("c", 8), ("d", 6)],
    "<a>1</a><a>2</a>": [("a", 6), ("a", 6)],
    "<think>not closed": [],
    "<think>other</thought>": [],
    "<answer>1 < 2 and <3</answer>": [("answer", 5)],
    "<caption>small letters</caption>": [("caption", 2)],
    "write <answer> and </answer>, <answer>x</answer>": [("answer", 5), ("answer", 5)],
}


@pytest.mark.parametrize(("text", "found"), TEXTS.items(), ids=[f"text {n}" for n in range(len(TEXTS))])
def test_what_is_a_section(text, found):
    made = pieces(text)
    assert [(piece.name, piece.colour) for piece in made if piece.colour] == found
    assert "".join(piece.text for piece in made) == text


parts = st.sampled_from(
    ["<a>", "</a>", "<answer>", "</answer>", "<", ">", "x", " ", "\n", "<CAPTION>", "</CAPTION>", "<eos>"]
)


@given(st.lists(parts, max_size=12))
def test_nothing_is_lost_and_words_are_in_the_section_of_their_first_letter(words):
    text = "".join(words)
    made = pieces(text)
    assert "".join(piece.text for piece in made) == text
    letters = [piece for piece in made for _ in piece.text]
    starts = [sum(map(len, words[:n])) for n in range(len(words))]
    assert sections_of(words) == [letters[start] for start in starts]


def test_the_report_colours_words_and_texts(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n')
    words = re.findall(r"<[^>]+>|[^<]+", WHOLE)
    trajectory = Trajectory(torch.full((len(words),), -0.5), torch.ones(len(words), dtype=torch.bool))
    prompt = Prompt("p", "<answer>of the prompt</answer>")
    hostile = "<answer><script>alert(1)</script></answer> <CAPTION>&lt;</CAPTION>"
    samples = [Sample(prompt, 0, WHOLE, trajectory, words=words, reward=1.0, advantage=1.0), Sample(prompt, 1, hostile)]
    write_step(tmp_path, "step_000001", [Group(prompt, 0, samples)])
    page = write_report(tmp_path).read_text()
    coloured = re.findall(r'<span title="CAPTION, log-prob [^"]+" class="[^"]*part-2"[^>]*>([^<]*)</span>', page)
    assert coloured == ["&lt;CAPTION&gt;", "a bell", "&lt;/CAPTION&gt;"]
    assert '<span class="part-2" title="CAPTION">&lt;CAPTION&gt;&amp;lt;&lt;/CAPTION&gt;</span>' in page
    assert "<script" not in page and 'title="answer">&lt;answer&gt;of the prompt' not in page
    assert all(f".part-{n} " in page for n in range(1, 9))
