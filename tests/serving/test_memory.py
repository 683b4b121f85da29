"""What a request may make the server hold: of whatever kind it is, it ends with the request, and has a bound."""

from __future__ import annotations

import json
import select
import socket
import threading
import tracemalloc

import pytest
from served_models import comparer, png, posted_head, reward, scorer, until

from mmrl.serving import openrlhf, score
from mmrl.serving.wire import Refused, read


def body(count: int, **more) -> bytes:
    rows = [{"history": [{"text": "a" * 1000}], **more} for _ in range(count)]
    return json.dumps({"protocol_version": "1", "requests": rows}).encode()


LISTS = {
    "/score": ["requests", "history", "candidates", "order", "required_rewards"],
    "/get_reward": ["query", "prompts", "labels"],
}


@pytest.mark.parametrize(("route", "name"), [(route, name) for route, names in LISTS.items() for name in names])
def test_a_list_of_what_it_may_not_hold_is_refused_at_its_first_entry(route, name):
    # An error is kept for each entry that is looked at: of a body of 32 MB, 16 GB.
    wrong = [True] * 20_000
    if route == "/get_reward":
        kind, asked = openrlhf.RewardRequest, {"query": ["a"], name: wrong if name != "labels" else [0] * 70_000}
    else:
        row = {"history": [{"text": "a"}], name: wrong}
        asked = {"protocol_version": "1", "requests": wrong if name == "requests" else [row]}
        kind = score.ScoreRequest
    sent = json.dumps(asked).encode()
    tracemalloc.start()
    with pytest.raises(Refused) as refused:
        read(kind, sent)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.status == 422 and "more)" not in refused.value.words
    assert peak < 20 * len(sent)


# -------------------------------------------------------------------- senders that go away


@pytest.mark.parametrize("key", [None, "k"], ids=["without a key", "with a key"])
def test_what_senders_left_behind_is_not_held_without_a_bound(loopback, key):
    """Each asks, and goes away while the model is busy: rows without a key leave the line, those with one count as
    bodies in memory as long as they wait."""
    gate = threading.Event()
    at = loopback(scorer(gate=gate), max_batch=1, queue=1000, body=10_000, bodies=50_000)
    held = lambda: at.health()["queue"]["rows"]  # noqa: E731
    busy = socket.create_connection(at.address)
    busy.sendall(posted_head(body(1)) + body(1))
    until(lambda: held() == 1)
    full = 0
    for i in range(30):
        sent = body(4, **({} if key is None else {"idempotency_key": f"{key}{i}"}))
        before = held()
        with socket.create_connection(at.address) as gone:
            gone.settimeout(10)
            gone.sendall(posted_head(sent) + sent)
            until(lambda before=before, gone=gone: held() > before or readable(gone))
            full += readable(gone) and gone.recv(20).startswith(b"HTTP/1.1 429")
        if key is None:
            until(lambda: held() == 1)
    assert at.line._waiting_rows() == held() - 1
    assert (full == 0) == (key is None)
    assert held() * 1000 < 50_000
    gate.set()
    until(lambda: held() == 0)
    until(lambda: at.bodies.held == 0)
    busy.close()


def readable(link: socket.socket) -> bool:
    return bool(select.select([link], [], [], 0)[0])


# -------------------------------------------------------------------- rows that are cheap to send


def test_the_pictures_of_a_request_have_a_bound_together(service, monkeypatch):
    monkeypatch.setattr("mmrl.serving.score._PIXELS_TOGETHER", 1000)
    client = service(reward("jpeg.compressible"), max_pixels=400)
    entry = {"text": "red", "image_b64": png(20, 20)}
    rows = [{"history": [entry], "group_id": "g"}] * 4
    found = client.post("/score", json={"protocol_version": "1", "requests": rows}).json()
    assert [bool(result) for result in found["results"]] == [True, True, False, False]
    assert "over 1000 pixels" in found["errors"][2]["jpeg.compressible"]


def test_a_group_of_more_pairs_than_anybody_judges_is_refused(service):
    model = comparer()
    rows = [{"history": [{"text": "p"}, {"text": "a" * i}], "group_id": "g"} for i in range(200)]
    found = service(model).post("/score", json={"protocol_version": "1", "requests": rows}).json()
    assert not model.comparer.showings
    assert found["results"] == [{}] * 200 and "200 rows" in found["errors"][0]["longer"]


def test_json_counts_as_what_it_takes_once_it_is_read(service):
    client = service(scorer(), body=100_000, bodies=200_000)
    plain = json.dumps({"query": ["a" * 50_000]})
    small = json.dumps({"query": ["a"], "labels": [[[] for _ in range(10_000)]]})
    for sent, status in ((plain, 200), (small, 413)):
        reply = client.post("/get_reward", content=sent, headers={"Content-Type": "application/json"})
        assert reply.status_code == status, reply.text
    assert "takes" in reply.json()["error"]


@pytest.mark.parametrize("name", ["image", "images", "messages", "candidates", "prompt"])
def test_a_column_may_not_stand_for_what_history_shows(service, name):
    asked = {"history": [{"text": "a"}], "metadata": {name: "x"}}
    found = service(scorer()).post("/score", json={"protocol_version": "1", "requests": [asked]}).json()
    assert found["results"] == [{}] and f"metadata has {name}" in found["errors"][0]["lengths"]
