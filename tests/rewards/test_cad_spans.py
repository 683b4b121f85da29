"""What of a program has to be exact: numbers with their sign, and calls that change the solid, found by hand."""

from __future__ import annotations

import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrl.importing import import_file
from mmrl.rewarding import load_reward
from mmrl.share import share
from mmrl.types import Prompt, Sample

cad_spans = import_file(share("rewards", "cad_spans.py"))

# Below each line of an answer, a mark under each character that has to be exact.
MARKED = [
    ("r = cq.Workplane('XY').box(40, -2.5e1, 5)",
     "                       ^^^ ^^  ^^^^^^  ^ "),
    ("w.rect(60-2*3, n-4).cutBlind(-(7))",
     "  ^^^^ ^^ ^ ^    ^  ^^^^^^^^   ^  "),
    ("hole = 6; part.hole(hole).tag('hole(6)')",
     "       ^       ^^^^                     "),
    ("return -5",
     "       ^^"),
    ("x1 = y2.circle(0x1F)  # circle(9)",
     "        ^^^^^^ ^^^^              "),
]  # fmt: skip


def marks(text: str) -> str:
    found = [" "] * len(text)
    for start, end in cad_spans.spans(text):
        found[start:end] = "^" * (end - start)
    return "".join(found)


@pytest.mark.parametrize(("text", "marked"), MARKED)
def test_marks_by_hand(text, marked):
    assert marks(text) == marked


def test_only_the_program_is_read():
    """Not the thoughts, nor what stands around the last fence; lines count from where the program begins."""
    text = "<think>\n12 mm, box(3)</think>\nIn 3 steps:\n```python\na = 4\nb.box(5)\n```\nIt is 6 mm."
    begin = text.index("a = 4")
    assert [text[a:b] for a, b in cad_spans.spans(text)] == ["4", "box", "5"]
    assert cad_spans.spans(text)[0] == (begin + 4, begin + 5)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>12 and box(3", []),  # thoughts without an end: no program yet
        ("a.box(1, 2", ["box", "1", "2"]),  # cut off within a bracket
        ("```\nx.hole(6)", ["hole", "6"]),  # and within a fence
        ("", []),
        ("Größe 7 – box(8)", ["7", "box", "8"]),
    ],
)
def test_what_is_no_whole_program_is_read_as_far_as_it_goes(text, found):
    assert [text[a:b] for a, b in cad_spans.spans(text)] == found


@given(st.text(alphabet="ab1. -()[]'\"\\\n\r\t\f#:`é½\0", max_size=60))
def test_of_any_text_spans_lie_in_it_in_order(text):
    spans = cad_spans.spans(text)
    places = [place for span in spans for place in span]
    assert places == sorted(places) and all(0 <= place <= len(text) for place in places)
    assert all(any(c.isalnum() for c in text[a:b]) for a, b in spans)


B = "r = w.box(4, 3)\n"
# An answer, and its program: what runs is what has to be exact.
ANSWERS = {
    "of Windows": (f"A box:\r\n```python\r\n{B}```\r\nIt is 9 mm.", B),
    "behind another block": (f"```text\n4 mm\n```\nthen\n```python\n{B}```\n", B),
    "before another block": (f"```python\n{B}```\nIt gives\n```text\n9 mm\n```\n", B),
    "in capitals": (f"```Python\n{B}```\n8", B),
    "with more behind the name": (f"```python title=x\n{B}```\n8", B),
    "a fence in a text": (f"```python\ns = '```'\n{B}```\nfin 8", f"s = '```'\n{B}"),
    "on the line of the thought": (f"<think>a 3</think>```python\n{B}```\n", B),
    "before a last thought": (f"{B}<think>b 5</think>", B),
    "behind an end alone": (f"a 3</think>{B}", B),
    "without an end": (f"<think>1</think>```python\n{B}", B),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_program_is_the_one_that_the_reward_runs(name):
    text, program = ANSWERS[name]
    start, end = cad_spans.program_span(text)
    assert text[start:end].replace("\r", "").strip() == program.strip()
    assert [text[a:b] for a, b in cad_spans.spans(text)] == ["box", "4", "3"]
    pytest.importorskip("cadquery")
    records = importlib.import_module(load_reward("cad.executes").call.made.__module__.replace("compared", "records"))
    assert records.program_of(Sample(Prompt("", ""), 0, text)) == text[start:end].replace("\r\n", "\n")
