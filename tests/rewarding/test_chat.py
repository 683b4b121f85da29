"""Asking a served judge: one that is well, down, slow, over-eager, or talks nonsense."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from every import every

from mmrl.rewarding.chat import ChatError, Endpoint, Failure, Judge
from mmrl.rewarding.parts import content
from mmrl.rewarding.threads import Threads


def ask(*questions: str) -> list:
    return [[{"role": "user", "content": question}] for question in questions]


def number(answer: str) -> int | None:
    return int(answer) if answer.strip().isdigit() else None


def judge(server, timeout: float = 5.0, **options) -> Judge:
    return Judge(Endpoint(server.url, "small", timeout=timeout), **{"pause": 0.0, **options})


def test_a_verdict_and_what_was_sent(chat_server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    chat_server.answer = lambda request: "7"
    endpoint = Endpoint(chat_server.url + "/", "small", key_env="JUDGE_KEY", max_tokens=9, options={"top_p": 0.5})
    assert Judge(endpoint).verdicts(ask("How many?"), number) == [7]
    request = chat_server.requests[0]
    assert request["messages"] == [{"role": "user", "content": "How many?"}]
    assert {k: request[k] for k in ("model", "max_tokens", "top_p", "temperature")} == {
        "model": "small",
        "max_tokens": 9,
        "top_p": 0.5,
        "temperature": 0,
    }
    assert chat_server.keys == ["Bearer secret"]
    assert endpoint.complete(ask("a")[0], 0.0, 0) == "7"


def test_without_a_key_none_is_sent(chat_server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge(chat_server).verdicts(ask("a"), len)
    assert chat_server.keys == [None]


def test_nonsense_is_asked_again_warmer_with_another_seed_and_ends_as_a_failure(chat_server):
    chat_server.answer = lambda request: "perhaps"
    found = judge(chat_server, attempts=4).verdicts(ask("a"), number)[0]
    assert isinstance(found, Failure)
    assert "no verdict in the answer 'perhaps' (4 attempts)" in found.reason
    assert [r["temperature"] for r in chat_server.requests] == pytest.approx([0.0, 0.2, 0.4, 0.6])
    assert len({r["seed"] for r in chat_server.requests}) == 4


def test_a_later_attempt_may_do(chat_server):
    chat_server.answer = lambda request: "3" if request["temperature"] > 0.1 else "perhaps"
    assert judge(chat_server).verdicts(ask("a"), number) == [3]


def test_equal_requests_are_asked_once_and_known_ones_never_again(chat_server):
    chat_server.answer = lambda request: str(len(chat_server.requests))
    asked = judge(chat_server, threads=1)
    assert asked.verdicts(ask("a", "b", "a"), number) == [1, 2, 1]
    assert asked.verdicts(ask("b", "c"), number) == [2, 3]
    assert len(chat_server.requests) == 3
    # Another model's answers are not this one's.
    assert Judge(Endpoint(chat_server.url, "large")).verdicts(ask("a"), number) == [4]


@pytest.mark.parametrize("length", [10, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("last", ["a", "\ud800"])
def test_questions_that_differ_in_their_last_character_are_two(chat_server, length, last):
    chat_server.answer = lambda request: "7"
    questions = ["q" * (length - 1) + end for end in (last, "b", last)]
    asked = judge(chat_server)
    assert asked.verdicts(ask(*questions), number) == [7, 7, 7]
    assert asked.verdicts(ask(*questions), number) == [7, 7, 7]
    assert len(chat_server.requests) == 2


def test_pictures_are_sent_and_are_part_of_the_request(chat_server):
    chat_server.answer = lambda request: str(len(chat_server.requests))
    shown = [[{"role": "user", "content": content("How many?", [data])}] for data in (b"one", b"two", b"one")]
    assert judge(chat_server, threads=1).verdicts(shown, number) == [1, 2, 1]
    picture, words = chat_server.requests[0]["messages"][0]["content"]
    assert picture == {"type": "image_url", "image_url": {"url": "data:image/png;base64,b25l"}}
    assert words == {"type": "text", "text": "How many?"}


def test_failures_are_not_kept(chat_server):
    chat_server.answer = lambda request: "perhaps"
    asked = judge(chat_server, attempts=1)
    assert isinstance(asked.verdicts(ask("a"), number)[0], Failure)
    chat_server.answer = lambda request: "5"
    assert asked.verdicts(ask("a"), number) == [5]


def test_seeds_follow_from_the_request_so_that_runs_are_alike(chat_server):
    for _ in range(2):
        judge(chat_server).verdicts(ask("a", "b"), len)
    seeds = {r["messages"][0]["content"]: set() for r in chat_server.requests}
    for r in chat_server.requests:
        seeds[r["messages"][0]["content"]].add(r["seed"])
    assert {len(found) for found in seeds.values()} == {1}
    assert seeds["a"] != seeds["b"]


def test_answers_are_kept_in_a_file_that_a_killed_run_may_have_torn(chat_server, tmp_path):
    chat_server.answer = lambda request: str(len(chat_server.requests))
    cache = tmp_path / "deep" / "answers.jsonl"
    assert judge(chat_server, cache=cache, threads=1).verdicts(ask("a", "b"), number) == [1, 2]
    with cache.open("a") as file:
        file.write('{"key": "half a li')
    again = judge(chat_server, cache=cache, threads=1)
    assert again.verdicts(ask("b", "c", "a"), number) == [2, 3, 1]
    assert judge(chat_server, cache=cache).verdicts(ask("a", "b", "c"), number) == [1, 2, 3]
    assert len(chat_server.requests) == 3
    assert sum("answer" in line for line in cache.read_text().splitlines()) == 3


def test_a_server_that_is_down():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    found = Judge(Endpoint(url, "small"), pause=0.0).verdicts(ask("a"), number)[0]
    assert isinstance(found, Failure)
    assert "cannot be asked (ConnectError: [Errno 111]" in found.reason
    assert "3 attempts" in found.reason


@pytest.mark.parametrize("away", [(503, b"starting"), (502, b"no such upstream")])
def test_a_server_that_is_away_is_waited_for_as_long_as_patience_says(chat_server, away):
    """And what it says then is what it would have said at once: no warmer, with no other seed."""
    chat_server.answer = lambda request: away if len(chat_server.requests) < 5 else "7"
    with pytest.warns(UserWarning, match="trying again for up to 30 s"):
        assert judge(chat_server, attempts=2, patience=30.0).verdicts(ask("a"), number) == [7]
    assert len(chat_server.requests) == 5
    assert {(r["temperature"], r["seed"]) for r in chat_server.requests} == {(0.0, chat_server.requests[0]["seed"])}


def test_patience_has_an_end_and_is_none_for_a_server_that_talks_nonsense(chat_server):
    chat_server.answer = lambda request: (503, b"starting")
    with pytest.warns(UserWarning, match="trying again for up to 0.2 s"):
        found = judge(chat_server, attempts=2, patience=0.2, pause=0.01).verdicts(ask("a"), number)[0]
    assert isinstance(found, Failure) and "2 attempts" in found.reason
    for nonsense in ("perhaps", (500, b"out of memory"), (200, b"<html>"), " "):
        chat_server.requests.clear()
        chat_server.answer = lambda request, nonsense=nonsense: nonsense
        assert isinstance(judge(chat_server, attempts=3, patience=60.0).verdicts(ask("a"), number)[0], Failure)
        assert len(chat_server.requests) == 3
    with pytest.raises(ValueError, match="patience=-1"):
        judge(chat_server, patience=-1)


def test_two_judges_with_one_cache_ask_once(chat_server, tmp_path):
    chat_server.answer = lambda request: "7"
    first, second = (
        judge(chat_server, cache=tmp_path / name) for name in ("one.jsonl", "../" + tmp_path.name + "/one.jsonl")
    )
    assert first.verdicts(ask("a"), number) == second.verdicts(ask("a"), number) == [7]
    assert len(chat_server.requests) == 1


def _dripping(first: bytes, again: bytes):
    """A server that never stops sending, a little at a time, so that no single read takes long."""

    def answer(handler) -> None:
        handler.wfile.write(first)
        for _ in range(100):
            handler.wfile.write(again)
            handler.wfile.flush()
            time.sleep(0.05)

    return lambda request: answer


_HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda request: time.sleep(3) or "1", id="silent"),
        pytest.param(_dripping(b"HTTP/1.1 2", b"0"), id="status"),
        pytest.param(_dripping(_HEAD + b"X-Long: ", b"a"), id="header"),
        pytest.param(_dripping(_HEAD, b"X-More: a\r\n"), id="headers"),
        pytest.param(_dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="continue"),
        pytest.param(_dripping(_HEAD + b"\r\n", b" "), id="body"),
        pytest.param(_dripping(_HEAD + b"Content-Length: 1000\r\n\r\n", b" "), id="length"),
        pytest.param(_dripping(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"), id="chunks"),
        pytest.param(_dripping(b"HTTP/1.1 500 No\r\n\r\n", b" "), id="error"),
    ],
)
def test_a_time_out_is_for_the_whole_answer_however_it_comes(chat_server, answer):
    chat_server.answer = answer
    start = time.monotonic()
    found = judge(chat_server, timeout=0.15, attempts=2).verdicts(ask("a"), number)[0]
    assert "took over 0.15 s (2 attempts)" in found.reason
    assert time.monotonic() - start < 2


@every("scheme", ["http", "https"])
def test_a_server_that_takes_the_connection_and_nothing_else(scheme):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        endpoint = Endpoint(f"{scheme}://127.0.0.1:{deaf.getsockname()[1]}/v1", "small", timeout=0.3)
        start = time.monotonic()
        with pytest.raises(ChatError, match=r"took over 0.3 s"):
            endpoint.complete([{"role": "user", "content": "a" * 10_000_000}], 0.0, 0)
        assert time.monotonic() - start < 2


def test_a_slow_answer_holds_up_no_other(chat_server):
    slow = _dripping(_HEAD, b"X-More: a\r\n")
    chat_server.answer = lambda request: slow(request) if request["messages"][0]["content"] == "a" else "1"
    found = judge(chat_server, timeout=1.0, attempts=1).verdicts(ask(*"abcd"), number)
    assert isinstance(found[0], Failure)
    assert found[1:] == [1, 1, 1]


def _hang_up(handler) -> None:
    handler.connection.close()


def _reset(handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def _cut_off(handler) -> None:
    handler.wfile.write(_HEAD + b'Content-Length: 1000\r\n\r\n{"choices"')


def _no_http(handler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((200, b"<html>"), "no chat completion (JSONDecodeError"),
        ((200, b"[]"), "no chat completion (TypeError"),
        ((200, b'{"choices": []}'), "no chat completion (IndexError"),
        ((200, b'{"choices": [{"message": {"content": null}}]}'), "gave an empty answer"),
        ((200, b'{"choices": [{"message": {"content": " "}}]}'), "gave an empty answer"),
        ((200, b"[" * 100_000), "no chat completion"),
        ((200, b"9" * 5000), "no chat completion"),
        ((200, b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'), "no chat completion (UnicodeDecodeError"),
        ((200, b'{"error": {"message": "the model is overloaded"}}'), "answered an error: the model is overloaded"),
        ((200, b'{"error": "busy\\nnow"}'), "answered an error: busy now"),
        ((200, b"<p>", ("Content-Type", "text/html")), "no chat completion (JSONDecodeError"),
        ((200, b"<p>", ("Content-Type", "text/html")), "of the type text/html"),
        ((200, b"", ("Content-Encoding", "gzip")), "in the encoding 'gzip', which was not asked for"),
        ((200, b" " * (5 << 20)), "answered over 4 MiB"),
        ((500, b"out of memory"), "answered 500: out of memory"),
        (_hang_up, "cannot be asked"),
        (_reset, "cannot be asked"),
        (_cut_off, "cannot be asked"),
        (_no_http, "cannot be asked"),
    ],
)
def test_a_server_that_talks_nonsense_is_tried_again_and_told(chat_server, answer, told):
    chat_server.answer = lambda request: answer
    found = judge(chat_server, attempts=2).verdicts(ask("a"), number)[0]
    assert isinstance(found, Failure)
    assert told in found.reason
    assert len(chat_server.requests) == 2


@pytest.mark.parametrize("status", [302, 400, 401, 404])
def test_what_will_not_change_is_not_tried_again(chat_server, status):
    chat_server.answer = lambda request: (status, b"no", ("Location", "http://127.0.0.1:9/"))
    found = judge(chat_server).verdicts(ask("a"), number)[0]
    assert f"answered {status}: no" in found.reason
    assert len(chat_server.requests) == 1


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("1", 1),
        ("1.5", 1.5),
        (formatdate(4e9, usegmt=True), 5),  # no longer than one answer may take
        ("9" * 400, 5),
        (formatdate(0, usegmt=True), 0),
        ("-5", 0),
        ("nan", 0),
        ("\xb2", 0),  # a digit to Python, and no number
        ("soon", 0),
        ("", 0),
    ],
)
def test_a_server_that_asks_to_wait_is_waited_for_within_the_time_out(chat_server, monkeypatch, words, seconds):
    waited = []
    monkeypatch.setattr("mmrl.rewarding.chat.time", SimpleNamespace(sleep=waited.append))
    again = (429, b"", ("Retry-After", words))
    chat_server.answer = lambda request: again if len(chat_server.requests) < 2 else "4"
    assert judge(chat_server, timeout=5.0).verdicts(ask("a"), number) == [4]
    assert waited == [seconds]


def test_requests_go_out_together(chat_server):
    """No request is answered before all are there; one after the other they would wait in vain."""
    together = threading.Barrier(10)
    chat_server.answer = lambda request: str(together.wait(60) * 0 + 1)
    assert judge(chat_server, threads=10).verdicts(ask(*"abcdefghij"), number) == [1] * 10


@every(
    ("options", "told"),
    [
        ({"url": "ftp://host/v1"}, "expected http"),
        ({"url": "host:8000/v1"}, "expected http"),
        ({"url": "http://host/v1", "timeout": 0}, "must be above 0"),
        ({"url": "http://host/v1", "timeout": float("nan")}, "must be above 0"),
        ({"url": "http://host:99999999/v1"}, "expected http"),
        ({"url": "http://"}, "expected http"),
        ({"url": "http://user:secret@host/v1"}, "key_env"),
    ],
)
def test_wrong_options(options, told):
    with pytest.raises(ValueError, match=told):
        Endpoint(model="small", **options)


@pytest.mark.parametrize("key", ["two\nlines", "a\x1bkey", "schl\xfcssel", "a\u2028key"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(ValueError, match="JUDGE_KEY") as error:
        Endpoint("http://host/v1", "small", key_env="JUDGE_KEY")
    assert key not in str(error.value)


def test_space_around_a_key_is_none_of_it(chat_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " secret\n")
    judge(chat_server).verdicts(ask("a"), len)
    assert chat_server.keys == ["Bearer secret"]


def test_half_a_character_of_a_policy_is_sent(chat_server):
    judge(chat_server).verdicts(ask("half \ud83d"), len)
    assert chat_server.requests[0]["messages"][0]["content"] == "half \ud83d"


def test_a_key_never_shows_in_a_reason(chat_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    error_object = (200, b'{"error": {"message": "secret-key is no key"}}')
    for answer in ((401, b"bad key secret-key"), error_object, (200, b"<html>"), _hang_up):
        chat_server.answer = lambda request, answer=answer: answer
        with pytest.raises(ChatError) as error:
            Endpoint(chat_server.url, "small").complete(ask("a")[0], 0.0, 0)
        assert "secret-key" not in str(error.value)
    assert "secret-key" not in json.dumps(Endpoint(chat_server.url, "small").identity)


def test_threads_are_started_as_they_are_needed_and_used_again():
    """Four jobs at a time need four threads, however often; only who waits for nobody gets another."""
    threads, used = Threads(100, "test"), []

    def together(barrier):
        used.append(threading.get_ident())
        barrier.wait(60)

    for _ in range(3):
        threads.map(together, [threading.Barrier(4)] * 4)
        while threads._idle._value < 4:  # a thread is free a moment after its result is there
            time.sleep(0.001)
    assert len(used) == 12 and len(set(used)) == 4
    threads.close()
