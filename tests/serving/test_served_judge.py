"""A judge that compares, served: over HTTP it says what it says here, and what it cannot be asked has a reason."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from served_models import Loopback

from mmrl.data.pairs import read_pairs
from mmrl.judging.asking import ask
from mmrl.judging.base import Showing, Verdict
from mmrl.judging.evaluation import evaluate
from mmrl.judging.load import open_judge
from mmrl.pictures import open_image
from mmrl.serving.model import ServedComparer


class Reads:
    """Likes the longer answer or the wider picture, the first place a little, and says what it saw."""

    identity = "reads 1"

    def compare(self, showings):
        return [self._verdict(one) for one in showings]

    def _verdict(self, one):
        sizes = [self._size(candidate) for candidate in one.pair.candidates]
        if "mute" in one.pair.prompt.text:
            return Verdict(None, "says nothing", "Hm.")
        shares = [0.8 * size / sum(sizes) for size in sizes]
        shares[one.order[0]] += 0.2
        own = len(one.pair.prompt.record.get("images", ()))
        return Verdict(tuple(shares), said=f"{one.pair.prompt.text} {own} {list(one.order)} {one.seed}")

    def _size(self, candidate):
        if candidate.images:
            return open_image(candidate.images[0], self.root, 10_000).width
        return 1 + len(candidate.answer)


@pytest.fixture
def served(tmp_path):
    judge = Reads()
    judge.root = str(tmp_path)
    at = Loopback(ServedComparer(judge, "reads"))
    yield judge, at
    at.close()


@pytest.fixture
def bench(tmp_path):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "wide.png")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "small.png")
    records = [
        {"id": "texts", "prompt": "q", "candidates": ["long one", "short"], "shares": [1, 0]},
        {"id": "three", "prompt": "q", "candidates": ["a", "bb", "ccc"], "shares": [0, 0, 1]},
        {"id": "seen", "prompt": "<image>q", "images": ["small.png"], "candidates": ["a", "bb"], "shares": [0, 1]},
        {
            "id": "drawn",
            "prompt": "q",
            "candidates": [{"images": ["wide.png"]}, {"images": ["small.png"]}],
            "shares": [1, 0],
        },
        {"id": "mute", "prompt": "mute", "candidates": ["a", "b"], "shares": [1, 0]},
    ]
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(("orders", "votes"), [("both", 1), ("random", 2)])
def test_its_verdicts_are_those_that_it_gives_here(served, bench, orders, votes):
    judge, at = served
    pairs = read_pairs(str(bench)).pairs
    there = list(ask(open_judge(at.url), pairs, orders=orders, votes=votes, seed=3))
    here = list(ask(judge, pairs, orders=orders, votes=votes, seed=3))
    assert len(there) == 5

    def told(some):
        return [(s.order, [(v.shares, v.reason, v.said) for v in s.votes]) for one in some for s in one.shown]

    assert told(there) == told(here)


def test_the_preference_and_other_columns_stay_here(served, bench, monkeypatch):
    sent = []
    _, at = served
    opened = open_judge(at.url)
    servers = opened.compare.__self__.servers
    asked = servers.ask
    monkeypatch.setattr(servers, "ask", lambda route, body=None: sent.append(body) or asked(route, body))
    list(ask(opened, read_pairs(str(bench)).pairs))
    rows = [row for body in sent for row in body["requests"]]
    assert len(rows) == 10 and not any({"metadata", "shares", "answer"} & set(row) for row in rows)


def test_what_the_protocol_has_no_place_for_has_a_reason(served, bench, tmp_path):
    _, at = served
    records = [
        {
            "id": "two",
            "prompt": "q",
            "candidates": [{"answer": "<image><image>", "images": ["wide.png", "small.png"]}, "b"],
        },
        {"id": "talk", "messages": [{"role": r, "content": "c"} for r in ("user", "assistant", "user")]},
        {"id": "fine", "prompt": "q", "candidates": ["a" * 20, "b"]},
    ]
    path = tmp_path / "odd.jsonl"
    whole = [{"candidates": ["aa", "b"], "shares": [1, 0], **record} for record in records]
    path.write_text("".join(json.dumps(record) + "\n" for record in whole))
    found = evaluate(str(path), at.url, baselines=False).judge.figures
    assert found.failed == 4 and found.accuracy_parsed.value == 1.0
    assert sorted(found.reasons) == [
        "candidate 0 has 2 pictures, and /score takes one",
        "its prompt is a conversation, for which /score has no place",
    ]


def test_a_server_that_goes_away_is_a_reason_and_no_verdict(served, bench):
    _, at = served
    opened = open_judge(at.url, attempts=1)
    at.close()
    (verdict, *_) = opened.compare(_showings(bench))
    assert verdict.shares is None and at.url in verdict.reason


def _showings(bench):
    return [Showing(pair, tuple(range(len(pair.candidates)))) for pair in read_pairs(str(bench)).pairs]
