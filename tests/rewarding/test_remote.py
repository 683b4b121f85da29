"""Rewards that a server gives: what is sent, what is read, and every way in which a server can fail."""

from __future__ import annotations

import base64
import io
import json
import math
import socket
import threading
import time

import pytest
from PIL import Image
from scripted_server import Scripted

from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.run import RewardRunner, score_groups, stop_reasons
from mmrl.types import Group, Prompt, Sample

FAST = {"patience": 0, "attempts": 2, "timeout": 5}


@pytest.fixture
def server():
    """server(answer) -> Scripted."""
    running: list[Scripted] = []

    def start(answer, port: int = 0) -> Scripted:
        running.append(Scripted(answer, port))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr("mmrl.rewarding.servers._LONGEST_PAUSE", 0.01)


def group(*artifacts, prompt: str = "how many?", root=None, **record) -> Group:
    asked = Prompt("p", prompt, {"prompt": prompt, **record}, root)
    return Group(asked, 0, [Sample(asked, i, artifact) for i, artifact in enumerate(artifacts)])


def scored(name: str, group: Group, **options) -> list:
    reward = load_reward(f"remote.{name}", {**FAST, **options})
    score_groups([group], [reward])
    return [next(iter(sample.scores.values())) for sample in group.samples]


def values(scores: list) -> list:
    return [score.value for score in scores]


def red(width: int = 4) -> Image.Image:
    return Image.new("RGB", (width, 4), "red")


def width_of(data: str) -> int:
    return Image.open(io.BytesIO(base64.b64decode(data))).width


def lengths(route: str, request):
    """A server of every protocol that scores a text by its length, and a picture by its width."""
    if route == "/health":
        return {"status": "ok", "rewards": {"lengths": ["score"]}, "scorer_version": "v1"}
    if route == "/get_reward":
        return {"rewards": [len(q) - len(p) for q, p in zip(request["query"], request["prompts"])]}
    if route == "/score" and "requests" in request:
        last = [row["history"][-1] for row in request["requests"]]
        sizes = [width_of(e["image_b64"]) if "image_b64" in e else len(e["text"]) for e in last]
        return {
            "protocol_version": "1",
            "results": [{"lengths": {"score": size}} for size in sizes],
            "errors": [{} for _ in sizes],
            "identities": [{**row, "scorer_version": "v1"} for row in request["requests"]],
        }
    if route == "/score":
        return {"data": [{"index": i, "score": len(d)} for i, d in enumerate(request["documents"])]}
    size = len(request["messages"][-1]["content"])
    if route == "/classify":
        return {"data": [{"index": 0, "probs": [0.5, size]}]}
    if route == "/pooling":
        return {"data": [{"index": 0, "data": [[9.0], [size]]}]}
    logs = [{"token": " Yes", "logprob": math.log(0.6)}, {"token": "no", "logprob": math.log(0.2)}]
    return {"choices": [{"logprobs": {"content": [{"top_logprobs": logs}]}}]}


MODEL = {"model": "m"}
PROTOCOLS = {
    "score": {},
    "openrlhf": {},
    "classify": MODEL,
    "pooling": MODEL,
    "relevance": MODEL,
    "yes_no": {**MODEL, "question": "Is $answer right?"},
}
ROUTES = {
    "score": "/score",
    "openrlhf": "/get_reward",
    "classify": "/classify",
    "pooling": "/pooling",
    "relevance": "/score",
    "yes_no": "/chat/completions",
}
every_protocol = pytest.mark.parametrize("name", PROTOCOLS)


@every_protocol
def test_scores_come_to_their_samples(server, name):
    at = server(lengths)
    found = scored(name, group("abc", "", "ab"), url=at.url + "/", **PROTOCOLS[name])
    # By hand: lengths; and for yes and no 0.6 / (0.6 + 0.2).
    assert values(found) == pytest.approx([0.75] * 3 if name == "yes_no" else [3.0, 0.0, 2.0])


@every_protocol
def test_the_key_is_sent_and_never_told(server, name, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    at = server(lambda route, request: (401, {"error": "no such key as secret"}))
    found = scored(name, group("abc"), url=at.url, key_env="MY_KEY", **PROTOCOLS[name])
    assert set(at.keys) == {"Bearer secret"} and len(at.requests) == 1
    assert "answered 401" in found[0].reason and "secret" not in found[0].reason


@every_protocol
def test_what_is_known_is_not_asked_again_and_a_file_keeps_it(server, name, tmp_path):
    at = server(lengths)
    options = {"url": at.url, "cache": str(tmp_path / "known.jsonl"), **PROTOCOLS[name]}
    if name != "score":  # which is told the version
        with pytest.raises(RewardError, match="cache: this server tells no version"):
            load_reward(f"remote.{name}", {**FAST, **options})
        options["version"] = "first"
    reward = load_reward(f"remote.{name}", {**FAST, **options})
    first, again = group("abc", "d"), group("abc", "d")
    score_groups([first], [reward])
    asked = [route for route, _ in at.requests if route != "/health"]
    score_groups([again], [reward])
    kept = scored(name, group("abc", "d"), **options)
    assert [route for route, _ in at.requests if route != "/health"] == asked
    known = [next(iter(sample.scores.values())).value for sample in first.samples]
    assert known == [next(iter(sample.scores.values())).value for sample in again.samples] == values(kept)
    scored(name, group("abc", "e"), **options)
    assert len(at.requests) > len(asked) + 2 * (name == "score")
    if name != "score":
        before = len(at.requests)
        scored(name, group("abc", "d"), **{**options, "version": "second"})
        assert len(at.requests) > before


def test_a_file_keeps_nothing_of_a_scorer_that_tells_no_version(server, tmp_path):
    """As UniRL's: what stands behind the URL may be another model the next time."""

    def silent(route: str, request):
        reply = lengths(route, request)
        reply.pop("scorer_version", None)
        for echo in reply.get("identities", ()):
            del echo["scorer_version"]
        return reply

    cache = tmp_path / "known.jsonl"
    options = {"url": server(silent).url, "cache": str(cache)}
    asked = group("abc")
    [score] = scored("score", asked, **options)
    assert score.status == "invalid" and "cache: the server tells no version" in score.reason
    assert stop_reasons([asked], {"remote.score": 1.0})
    assert not cache.exists() or not cache.read_text()
    assert values(scored("score", group("abc"), url=options["url"])) == [3.0]


def test_get_reward_of_another_version_than_the_first_gives_no_number(server):
    told = iter(["one", "one", "two", None])
    at = server(lambda route, request: {"rewards": [1.0] * len(request["query"]), "scorer_version": next(told)})
    reward = load_reward("remote.openrlhf", {**FAST, "url": at.url})
    found = []
    for word in "abcd":
        asked = group(word)
        score_groups([asked], [reward])
        found.append(next(iter(asked.samples[0].scores.values())))
    assert values(found) == [1.0, 1.0, None, None]
    assert "the scorer's version is 'two', and was 'one'" in found[2].reason


# -------------------------------------------------------------------- replies that are none


def changed(name: str, change):
    """A server of lengths whose replies to a protocol are changed."""

    def answer(route: str, request):
        reply = lengths(route, request)
        return reply if route == "/health" else change(reply)

    return answer


def list_of(name: str) -> str:
    return {"score": "results", "openrlhf": "rewards"}.get(name, "choices" if name == "yes_no" else "data")


@every_protocol
@pytest.mark.parametrize(
    "reply",
    [
        *([], {}, None, "0.5", 0.5, {"rewards": 0.5}, {"data": {}}, {"results": None}, {"choices": []}),
        *({"data": [None]}, {"protocol_version": "2"}),
        {"protocol_version": "1", "results": [[]], "errors": [{}], "identities": [{}]},
    ],
    ids=str,
)
def test_a_reply_of_another_shape_gives_no_number(server, name, reply):
    at = server(changed(name, lambda _: reply))
    [score] = scored(name, group("abc"), url=at.url, **PROTOCOLS[name])
    assert score.status == "invalid" and score.value is None and score.reason


@every_protocol
@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"\xff\xfe", b"9" * 5000], ids=[*"abcde"])
def test_a_reply_that_is_no_json_gives_no_number(server, name, body):
    at = server(lambda route, request: (200, body))
    [score] = scored(name, group("abc"), url=at.url, **PROTOCOLS[name])
    assert score.status == "invalid" and "answered no JSON" in score.reason and "(2 attempts)" in score.reason


@pytest.mark.parametrize("name", ["score", "openrlhf", "relevance"])
@pytest.mark.parametrize("change", [lambda rows: rows[:-1], lambda rows: [*rows, rows[0]], lambda rows: []])
def test_a_reply_that_is_shorter_or_longer_gives_no_number(server, name, change):
    key = list_of(name)
    at = server(changed(name, lambda reply: {**reply, key: change(reply[key])}))
    found = scored(name, group("abc", "d"), url=at.url, **PROTOCOLS[name])
    assert [score.status for score in found] == ["invalid"] * 2
    assert f"{key} for 2 samples" in found[0].reason


BAD_NUMBERS = ["NaN", "Infinity", "-Infinity", '"3"', "true", "null", "[1]", "{}", "1e999"]


@pytest.mark.parametrize("name", ["score", "openrlhf", "classify", "pooling", "relevance"])
@pytest.mark.parametrize("bad", BAD_NUMBERS)
def test_what_is_no_finite_number_is_invalid_for_its_sample_alone(server, name, bad):
    def answer(route: str, request):
        written = json.dumps(lengths(route, request))
        return (200, written.replace("777", bad).encode())

    at = server(answer)
    long = "x" * 777
    found = scored(name, group("abc", long), url=at.url, **PROTOCOLS[name])
    assert found[0].value == 3.0
    assert found[1].status == "invalid" and found[1].reason


@pytest.mark.parametrize("logs", [[], [{"token": "maybe", "logprob": -1.0}], [{"token": "yes", "logprob": "high"}]])
def test_a_model_that_says_neither_yes_nor_no(server, logs):
    at = server(lambda *_: {"choices": [{"logprobs": {"content": [{"top_logprobs": logs}]}}]})
    [score] = scored("yes_no", group("a"), url=at.url, **PROTOCOLS["yes_no"])
    assert score.status == "invalid" and ("yes" in score.reason or "log-prob" in score.reason)


def test_all_spellings_of_yes_and_no_count(server):
    logs = [("Yes", 0.3), (" yes", 0.2), ("NO", 0.1), ("yesterday", 0.4)]
    said = [{"token": token, "logprob": math.log(p)} for token, p in logs]
    at = server(lambda *_: {"choices": [{"logprobs": {"content": [{"top_logprobs": said}]}}]})
    [score] = scored("yes_no", group("a"), url=at.url, **PROTOCOLS["yes_no"])
    assert score.value == pytest.approx(0.5 / 0.6)


# -------------------------------------------------------------------- /score


ECHOED = ["request_id", "sample_id", "group_id", "source_rank", "policy_version", "idempotency_key"]


def rows_changed(**change):
    def answer(reply):
        return {**reply, "identities": [{**each, **change} for each in reply["identities"]]}

    return answer


@pytest.mark.parametrize("key", ECHOED)
def test_an_echo_of_another_request_gives_no_number(server, key):
    at = server(changed("score", rows_changed(**{key: "other"})))
    found = scored("score", group("abc", "d"), url=at.url)
    assert [score.status for score in found] == ["invalid"] * 2
    assert f"its {key} is 'other'" in found[0].reason


def test_a_reply_in_another_order_gives_no_number(server):
    turned = lambda reply: {**reply, **{k: reply[k][::-1] for k in ("results", "errors", "identities")}}  # noqa: E731
    found = scored("score", group("abc", "d"), url=server(changed("score", turned)).url)
    assert [score.status for score in found] == ["invalid"] * 2
    assert "another request" in found[0].reason


def test_another_version_of_the_scorer_gives_no_number(server):
    at = server(lengths)
    [score] = scored("score", group("abc"), url=at.url, version="v0")
    assert "version is 'v1', and was 'v0'" in score.reason
    reward = load_reward("remote.score", {**FAST, "url": at.url})
    score_groups([group("abc")], [reward])
    at.answer = changed("score", rows_changed(scorer_version="v2"))
    later = group("d")
    score_groups([later], [reward])
    assert "version is 'v2', and was 'v1'" in later.samples[0].scores["remote.score"].reason


def test_errors_of_rows_are_told_and_what_does_not_apply_does_not(server):
    def some(reply):
        results = [{}, {"lengths": {"score": None}}, {"lengths": {"score": 1.0}}, {}]
        errors = [{"lengths": "no\nsuch"}, {"lengths": "not applicable: why"}, {}, {}]
        return {**reply, "results": results, "errors": errors}

    found = scored("score", group(*"abcd"), url=server(changed("score", some)).url)
    assert [score.status for score in found] == ["invalid", "na", "ok", "invalid"]
    assert "no such" in found[0].reason and "why" in found[1].reason and "no score and no reason" in found[3].reason


@pytest.mark.parametrize(
    ("rewards", "options", "words"),
    [
        ({"a": [], "b": []}, {}, "set `reward`"),
        ({"a": []}, {"reward": "b"}, "and not 'b'"),
        (None, {}, "set `reward`"),
    ],
)
def test_a_server_of_several_rewards_or_another_one(server, rewards, options, words):
    [score] = scored("score", group("a"), url=server(lambda *_: {"rewards": rewards}).url, **options)
    assert score.status == "invalid" and words in score.reason


def test_a_reward_of_several_numbers_wants_one_named(server):
    several = lambda reply: {**reply, "results": [{"lengths": {"a": 1.0, "b": 2.0}}]}  # noqa: E731
    at = server(changed("score", several))
    [score] = scored("score", group("x"), url=at.url)
    assert score.status == "invalid" and "set `sub`" in score.reason
    assert values(scored("score", group("x"), url=at.url, sub="b")) == [2.0]


def test_what_is_sent_of_texts_and_pictures(server, tmp_path):
    red(7).save(tmp_path / "a.png")
    at = server(lengths)
    shown = {"prompt": "<image> how many?", "images": ["a.png"], "root": str(tmp_path)}
    assert values(scored("score", group("abc", **shown, answer="two"), url=at.url)) == [3.0]
    assert values(scored("score", group(red(5), prompt="a cat"), url=at.url)) == [5.0]
    assert values(scored("score", group(red(5), **shown), url=at.url)) == [5.0]
    text, made, edited = (request["requests"][0] for route, request in at.requests if route == "/score")
    assert [entry.get("text") for entry in text["history"]] == ["<image> how many?", "abc"]
    assert width_of(text["history"][0]["image_b64"]) == 7 and text["metadata"] == {"answer": "two"}
    assert [entry["text"] for entry in made["history"]] == ["a cat"] and made["metadata"] is None
    assert [entry["text"] for entry in edited["history"]] == ["<image> how many?"] * 2
    assert [width_of(entry["image_b64"]) for entry in edited["history"]] == [7, 5]


def test_a_column_that_is_no_json_is_told_of(server):
    at = server(lengths)
    with pytest.warns(UserWarning, match="'mask' is no JSON"):
        scored("score", group("a", mask=red(), answer="b"), url=at.url)
    assert at.requests[-1][1]["requests"][0]["metadata"] == {"answer": "b"}


def test_pictures_go_to_chats_as_data_and_not_to_openrlhf(server):
    at = server(lengths)
    scored("yes_no", group(red(6)), url=at.url, **PROTOCOLS["yes_no"])
    [picture, words] = at.requests[0][1]["messages"][0]["content"]
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64" and width_of(data) == 6 and words == {"type": "text", "text": "Is  right?"}
    [score] = scored("openrlhf", group(red()), url=at.url)
    assert score.status == "invalid" and "takes no pictures" in score.reason


# -------------------------------------------------------------------- servers that fail


@every_protocol
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_what_may_pass_is_tried_again(server, name, status):
    at = server(lambda route, request: (status, b"later") if len(at.requests) < 2 else lengths(route, request))
    found = scored(name, group("abc"), url=at.url, **PROTOCOLS[name])
    assert found[0].status == "ok"
    assert at.requests[0] == at.requests[1]


@every_protocol
@pytest.mark.parametrize("status", [301, 400, 401, 404, 413, 422])
def test_what_will_not_pass_is_not(server, name, status):
    at = server(lambda route, request: (status, b"no", ("Location", "/x")))
    found = scored(name, group("abc"), url=at.url, when_down="stop", **PROTOCOLS[name])
    assert f"answered {status}: no" in found[0].reason and len(at.requests) == 1
    assert found[0].status == "invalid" and "stop" not in found[0].details


def nowhere() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@every_protocol
def test_a_server_that_is_down_gives_invalid_samples_or_stops_the_run(name):
    options = {"url": nowhere(), **PROTOCOLS[name]}
    asked = group("abc", "d")
    found = scored(name, asked, **options)
    assert [score.status for score in found] == ["invalid"] * 2 and "cannot be asked" in found[0].reason
    assert stop_reasons([asked], {f"remote.{name}": 1.0}) == []
    found = scored(name, asked, when_down="stop", **options)
    assert [score.status for score in found] == ["invalid"] * 2
    [reason] = stop_reasons([asked], {f"remote.{name}": 1.0})
    assert "cannot be asked" in reason and reason.count("http://") == 1
    assert stop_reasons([asked], {f"remote.{name}": 0.0}) == []


def test_a_monitor_neither_waits_nor_stops():
    options = {"url": nowhere(), "patience": 1000, "when_down": "stop", "attempts": 1}
    reward = load_reward("remote.score", options, monitor=True)
    asked = group("abc")
    start = time.monotonic()
    score_groups([asked], [reward])
    assert time.monotonic() - start < 100
    [score] = asked.samples[0].scores.values()
    assert score.status == "invalid" and "stop" not in score.details


def test_a_server_that_comes_back_is_waited_for(server):
    url = nowhere()
    port = int(url.rpartition(":")[2])
    threading.Timer(0.5, server, (lengths, port)).start()
    with pytest.warns(UserWarning, match="trying again for up to 60 s"):
        found = scored("score", group("abc"), url=url, patience=60, attempts=1)
    assert values(found) == [3.0]


def test_servers_are_asked_in_turn_and_a_dead_one_is_left_alone(server):
    one, other = server(lengths), server(lengths)
    dead = nowhere()
    reward = load_reward("remote.openrlhf", {**FAST, "url": [one.url, dead, other.url], "groups_at_once": 1})
    groups = [group(f"{i}") for i in range(8)]
    score_groups(groups, [reward])
    assert all(g.samples[0].scores["remote.openrlhf"].value == 1.0 for g in groups)
    assert len(one.requests) + len(other.requests) == 8 and min(len(one.requests), len(other.requests)) >= 3
    assert len(reward.call.servers._resting) == 1


def test_a_time_out_is_for_the_whole_answer_of_a_server(server):
    at = server(lambda route, request: time.sleep(2) or lengths(route, request))
    found = scored("openrlhf", group("abc"), url=at.url, timeout=0.2, attempts=1)
    assert "took over 0.2 s" in found[0].reason


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "ftp://a"}, "expected http"),
        ({"url": "http://user:pass@a"}, "a user name or a password"),
        ({"url": []}, "url: one or more"),
        ({"url": "http://a", "attempts": 0}, "attempts: 1 or more"),
        ({"url": "http://a", "timeout": 0}, "timeout: above 0"),
        ({"url": "http://a", "patience": -1}, "patience and rest: 0 or more"),
        ({"url": "http://a", "when_down": "zero"}, "expected invalid or stop"),
        ({"url": "http://a", "groups_at_once": 0}, "must be 1 or more"),
        ({"url": "http://a", "patients": 1}, "no option 'patients'; did you mean 'patience'"),
        ({}, "needs the option 'url'"),
    ],
)
@every_protocol
def test_options_that_cannot_be(name, options, words):
    with pytest.raises(RewardError, match="remote") as error:
        load_reward(f"remote.{name}", {**PROTOCOLS[name], **options})
    assert words in str(error.value)


def test_several_groups_are_asked_at_once(server):
    together = threading.Barrier(8, timeout=20)  # of the server's threads: nobody is answered before all are there

    def answer(route: str, request):
        if route != "/health":
            together.wait()
        return lengths(route, request)

    groups = [group(f"{i}") for i in range(8)]
    reward = load_reward("remote.score", {**FAST, "url": server(answer).url, "groups_at_once": 8})
    score_groups(groups, [reward])
    assert all(g.samples[0].scores["remote.score"].ok for g in groups)


def test_a_slow_server_is_at_work_while_the_next_groups_are_sampled(server):
    answered = threading.Event()
    at = server(lambda route, request: answered.wait(20) and lengths(route, request))
    reward = load_reward("remote.openrlhf", {**FAST, "timeout": 30, "url": at.url})
    with RewardRunner([reward]) as runner:
        runner.submit([group("abc")])
        while not at.requests:
            time.sleep(0.005)
        runner.submit([group("d")])  # this thread is free: here it would sample
        answered.set()
        found = [runner.gather()[0] for _ in range(2)]
    assert [g.samples[0].scores["remote.openrlhf"].value for g in found] == [3.0, 1.0]
