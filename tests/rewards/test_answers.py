"""Completions as models write them, each with what a careful human grader pays: answers.tsv, marked before it was run.

A row is: reward, completion, gold, deserved. In a completion ⏎ is a new line and ⍽ a space that does not break. A gold
is the column `answer`, or a JSON object of columns; its `prompt` is the prompt's text, its `options` the reward's.
Backslashes stand as they are.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from mmrl.media import Media, View
from mmrl.rewarding import load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

TABLE = Path(__file__).with_name("answers.tsv")
SHOWN = Media(View(), (1000, 1000), (1000, 1000), "original")


def rows(path: Path = TABLE) -> list[tuple[str, str, str, float]]:
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    cells = [line.split("\t") for line in lines]
    return [
        (name, text.replace("⏎", "\n").replace("⍽", "\u00a0"), gold, float(worth)) for name, text, gold, worth in cells
    ]


def columns(gold: str) -> dict:
    return json.loads(gold) if gold.startswith('{"') else {"answer": gold}


def misjudged(name: str, path: Path = TABLE) -> list[str]:
    """The rows of a reward that it pays otherwise than they deserve, in words."""
    if name == "math.verify":
        pytest.importorskip("math_verify")
    loaded, wrong = {}, []
    for reward, text, gold, deserved in rows(path):
        if reward != name:
            continue
        record = columns(gold)
        options = record.pop("options", {})
        key = json.dumps(options)
        loaded[key] = loaded.get(key) or load_reward(name, options)
        prompt = Prompt("p", record.get("prompt", "q"), record)
        group = Group(prompt, 0, [Sample(prompt, 0, text, media=[SHOWN])])
        score_groups([group], [loaded[key]])
        score = group.samples[0].scores[name]
        if (score.status, score.value) != ("ok", deserved):
            wrong.append(f"{text!r}, gold {gold!r}: {score.value} {score.reason or ''}, deserved {deserved:.0f}")
    return wrong


@pytest.mark.parametrize("name", sorted({name for name, *_ in rows()}))
def test_completions_earn_what_a_careful_reader_would_pay(name):
    assert misjudged(name) == []


def test_the_table_has_as_many_wrong_answers_as_right_ones():
    found = rows()
    first = Counter(deserved for *_, deserved in found[:300])  # those that were scored first
    assert first == {1.0: 150, 0.0: 150}
    worth = Counter(deserved for *_, deserved in found)
    assert worth[0.0] >= worth[1.0] >= 250
    assert len({(name, text, gold) for name, text, gold, _ in found}) == len(found)
