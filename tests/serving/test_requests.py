"""Requests that are refused before a model sees them: of whatever kind, in a line, and in time."""

from __future__ import annotations

import json
import select
import socket
import threading
import time

import httpx2
import pytest
from served_models import Lengths, reward, scorer, until

ROUTES = ("/get_reward", "/score")
GOOD = {
    "/get_reward": {"query": ["abc"]},
    "/score": {"protocol_version": "1", "requests": [{"history": [{"text": "abc"}]}]},
}


def send(client, route, body: bytes, **headers):
    return client.post(route, content=body, headers={"Content-Type": "application/json", **headers})


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b'{"query": ["a"]} x', "no JSON"),
        (b"query=a", "no JSON"),
        (b"\xff\xfe", "no UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"query": [NaN]}', "NaN is no JSON"),
        (b'{"query": [-Infinity]}', "-Infinity is no JSON"),
        (b'{"query": [1e999]}', "1e999 is too large"),
        (b'{"query": [' + b"9" * 5000 + b"]}", "no JSON"),
        (json.dumps(dict.fromkeys(map(str, range(2000)), 0)).encode(), "over 1000 keys"),
    ],
)
def test_what_is_no_json(service, route, body, words):
    reply = send(service(scorer()), route, body)
    assert reply.status_code == 400
    assert words in reply.json()["error"] and "\n" not in reply.json()["error"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_type_of_content(service, route, kind):
    reply = send(service(scorer()), route, json.dumps(GOOD[route]).encode(), **{"Content-Type": kind})
    assert reply.status_code == 415 and "application/json" in reply.json()["error"]


@pytest.mark.parametrize("route", ROUTES)
def test_a_packed_body(service, route):
    assert send(service(scorer()), route, b"", **{"Content-Encoding": "gzip"}).status_code == 415


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("told", [True, False], ids=["with its length", "in chunks"])
def test_a_body_over_the_bound_whether_its_length_is_told_or_not(service, route, told):
    model = scorer()
    client = service(model, body=1000)
    big = json.dumps({"query": ["a" * 1000]}).encode()
    parts = big if told else (big[i : i + 100] for i in range(0, len(big), 100))
    reply = send(client, route, parts)
    assert reply.status_code == 413 and reply.json() == {"error": "the body is over 1000 bytes"}
    assert not model.scorer.calls
    assert send(client, route, json.dumps(GOOD[route]).encode()).status_code == 200


def test_bodies_together_are_bounded_and_count_until_they_are_answered(loopback):
    at = loopback(scorer(), body=10_000, bodies=15_000, body_seconds=5.0)
    with socket.create_connection(at.address) as one, socket.create_connection(at.address) as other:
        one.sendall(head(9000) + b" " * 8000)
        other.sendall(head(9000) + b" " * 8000)
        said = to_the_end(readable(other, one))
    assert said.startswith(b"HTTP/1.1 429") and b"retry-after: 1" in said.lower()
    until(lambda: posted(at, b'{"query": ["abc"]}')[0] == 200)


def readable(*sockets: socket.socket) -> socket.socket:
    return select.select(sockets, [], [], 10)[0][0]


def head(length: int | None, route: str = "/get_reward", *more: str) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"POST {route} HTTP/1.1", "Host: x", "Content-Type: application/json", size, *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def posted(at, body: bytes, *more: str) -> tuple[int, bytes]:
    with socket.create_connection(at.address) as link:
        link.settimeout(10)
        link.sendall(head(len(body), "/get_reward", "Connection: close", *more) + body)
        said = to_the_end(link)
    return int(said.split(b" ", 2)[1]), said


def to_the_end(link: socket.socket) -> bytes:
    said = b""
    while part := link.recv(65536):
        said += part
    return said


@pytest.mark.parametrize("length", [100, None], ids=["with its length", "in chunks"])
def test_a_body_that_never_ends_is_given_up_and_holds_up_no_other(loopback, length):
    at = loopback(scorer(), body_seconds=0.5)
    with socket.create_connection(at.address) as slow:
        slow.settimeout(10)
        slow.sendall(head(length) + (b"5\r\n{" if length is None else b"{"))
        assert posted(at, b'{"query": ["abc"]}')[0] == 200
        said = to_the_end(slow)  # where the connection is closed
        assert said.startswith(b"HTTP/1.1 408") and b"the body took over 0.5 s" in said


def test_a_sender_that_goes_away_in_its_body_is_no_error_of_the_server(loopback, caplog):
    at = loopback(scorer())
    with socket.create_connection(at.address) as gone:
        gone.sendall(head(100) + b"{")
    until(lambda: len(at.server.server_state.tasks) == 0)
    assert posted(at, b'{"query": ["abc"]}')[0] == 200
    assert not caplog.records


def test_a_head_that_never_ends_is_given_up(loopback, monkeypatch):
    monkeypatch.setattr("mmrl.serving.server._HEAD_SECONDS", 0.2)
    at = loopback(scorer())
    for begun in (b"", b"POST /get_re", head(5)[:-4]):
        with socket.create_connection(at.address) as slow:
            slow.settimeout(10)
            slow.sendall(begun)
            assert to_the_end(slow) == b""
    with socket.create_connection(at.address) as kept:  # one that had an answer before, too
        kept.settimeout(10)
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while b"}}" not in said and b"uptime_s" not in said:
            said += kept.recv(10_000)
        kept.sendall(b"GET /hea")
        assert said.startswith(b"HTTP/1.1 200") and b"HTTP" not in to_the_end(kept)


@pytest.mark.parametrize("route", [*ROUTES, "/health"])
@pytest.mark.parametrize(
    ("host", "taken"),
    [
        *(("localhost:5000", True), ("127.0.0.1", True), ("[::1]:5000", True), ("LOCALHOST", True)),
        *(("evil.example:5000", False), ("localhost.evil.example", False), ("127.0.0.1.nip.io", False), ("[", False)),
    ],
)
def test_who_calls_the_server_by_another_name_is_refused_where_there_is_no_token(service, route, host, taken):
    client = service(scorer(), hosts=("127.0.0.1", "localhost", "::1"))
    body = json.dumps(GOOD.get(route, {})).encode()
    headers = {"Host": host, "Content-Type": "application/json"}
    reply = client.request("GET" if route == "/health" else "POST", route, content=body, headers=headers)
    assert reply.status_code == (200 if taken else 421)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "key",
    [None, "", "Bearer", "Bearer wrong", "Bearer secre", "Bearer secret2", "secret", "bearer secret", "Basic secret"],
)
def test_another_token_or_none(service, route, key):
    model = scorer()
    client = service(model, token="secret")
    reply = send(client, route, json.dumps(GOOD[route]).encode(), **({} if key is None else {"Authorization": key}))
    assert reply.status_code == 401 and reply.json() == {"error": "a bearer token is needed"}
    assert not model.scorer.calls
    assert send(client, route, json.dumps(GOOD[route]).encode(), Authorization="Bearer secret").status_code == 200


def test_a_token_that_is_no_ascii_is_no_token(loopback):
    at = loopback(scorer(), token="secret")
    assert posted(at, b"{}", "Authorization: Bearer secr\xe9t")[0] == 401


def test_the_token_is_asked_for_before_the_body_is_read(loopback):
    at = loopback(scorer(), token="secret", body_seconds=60)
    with socket.create_connection(at.address) as stranger:
        stranger.settimeout(10)
        stranger.sendall(head(1000))
        assert stranger.recv(1000).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(("open_health", "status"), [(True, 200), (False, 401)])
def test_health_is_open_or_not(service, open_health, status):
    assert service(scorer(), token="secret", open_health=open_health).get("/health").status_code == status


def test_health_says_what_is_served(service):
    client = service(scorer(), queue=7)
    send(client, "/get_reward", b'{"query": ["abc", "d"]}')
    told = client.get("/health").json()
    assert told["status"] == "ok" and told["rewards"] == {"lengths": ["score"]} and told["kind"] == "scorer"
    assert told["queue"]["rows"] == 0 and told["queue"]["limit"] == 7 and told["queue"]["rated"] == 2
    assert told["uptime_s"] >= 0 and told["protocol_version"] == "1"
    assert told["scorer_version"] == scorer().version != reward("exact.match").version


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/score", 405), ("POST", "/x", 404), ("GET", "/docs", 404)]
)
def test_other_routes(service, method, path, status):
    reply = service(scorer()).request(method, path)
    assert reply.status_code == status and reply.json()["error"].startswith(f"{method} {path}: ")


# -------------------------------------------------------------------- the line


def test_more_rows_than_may_wait_are_told_to_come_again_and_none_is_lost(loopback):
    gate = threading.Event()
    model = scorer(gate=gate)
    at = loopback(model, queue=4, max_batch=2)
    replies: list[tuple[int, bytes]] = []
    threads = [threading.Thread(target=lambda: replies.append(posted(at, b'{"query": ["a", "b"]}'))) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: len(replies) == 4)  # two requests fill the line
    assert all(status == 429 and b"retry-after: 1\r\n" in said.lower() for status, said in replies)
    gate.set()
    for thread in threads:
        thread.join()
    assert sorted(status for status, _ in replies) == [200, 200, 429, 429, 429, 429]
    assert [len(call) for call in model.scorer.calls] == [2, 2]


def test_a_request_that_never_fits_is_told_so(service):
    reply = send(service(scorer(), queue=2), "/get_reward", b'{"query": ["a", "b", "c"]}')
    assert reply.status_code == 413 and "3 rows are over the 2 that may wait" in reply.json()["error"]


def test_rows_of_several_requests_are_one_batch(loopback):
    model = scorer()
    at = loopback(model, max_batch=3, max_wait=10.0)
    threads = [threading.Thread(target=posted, args=(at, b'{"query": ["%d"]}' % i)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sorted(call) for call in model.scorer.calls] == [["0", "1", "2"]]


def test_a_batch_is_cut_at_its_size_and_goes_alone_when_nothing_follows(service):
    model = scorer()
    send(service(model, max_batch=2, max_wait=0.05), "/get_reward", b'{"query": ["a", "b", "c"]}')
    assert model.scorer.calls == [["a", "b"], ["c"]]


def test_what_a_sender_that_went_away_had_in_line_is_not_rated(loopback):
    gate = threading.Event()
    model = scorer(gate=gate)
    at = loopback(model, max_batch=1)

    def rows() -> int:
        return httpx2.get(at.url + "/health").json()["queue"]["rows"]

    first = threading.Thread(target=posted, args=(at, b'{"query": ["first"]}'))
    first.start()
    until(lambda: model.scorer.calls)
    with socket.create_connection(at.address) as gone:
        body = b'{"query": ["gone"]}'
        gone.sendall(head(len(body)) + body)
        until(lambda: rows() == 2)
    until(lambda: rows() == 1)
    gate.set()
    first.join()
    assert posted(at, b'{"query": ["last"]}')[0] == 200
    assert model.scorer.calls == [["first"], ["last"]]


def test_a_stop_finishes_what_is_under_way(loopback):
    gate = threading.Event()
    model = scorer(gate=gate)
    at = loopback(model)
    found: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: found.append(posted(at, b'{"query": ["abc"]}')))
    asking.start()
    until(lambda: model.scorer.calls)
    at.server.should_exit = True
    until(lambda: refused(at))
    gate.set()
    asking.join()
    assert found[0][0] == 200 and b'"rewards":[3.0]' in found[0][1]


def refused(at) -> bool:
    try:
        socket.create_connection(at.address).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_model_is_called_by_as_many_threads_as_it_allows(service):
    """A scorer by one at a time: it may be one model on one device."""
    model = Lengths()
    inside: list[int] = []
    most: list[int] = []

    def scores(items):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return [1.0] * len(items)

    model.scores = scores
    served = scorer()
    served.scorer = model
    send(service(served, max_batch=1), "/get_reward", b'{"query": ["a", "b", "c"]}')
    assert most == [1, 1, 1]
