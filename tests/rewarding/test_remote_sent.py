"""What a server is sent of a sample: all that its score depends on, as it is; and whose failure is whose."""

from __future__ import annotations

import base64
import io
import json
import warnings

import pytest
from PIL import Image
from scripted_server import Scripted

from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

FAST = {"patience": 0, "attempts": 1, "timeout": 5}
MODEL = {"model": "m"}
CHATS = {"classify": MODEL, "pooling": MODEL, "yes_no": {**MODEL, "question": "$prompt $answer"}}
OTHERS = {"score": {}, "openrlhf": {}, "relevance": MODEL}


class Echo:
    """A server of every protocol. version: of its scorer; health: whether /health tells it."""

    def __init__(self, version: str = "v1", health: bool = True) -> None:
        self.version, self.health = version, health
        self.at = Scripted(self.answer)

    def answer(self, route: str, request):
        if route == "/health":
            told = {"scorer_version": self.version} if self.health else {}
            return {"rewards": {"r": ["score"]}, **told}
        if "long" in json.dumps(request) and route not in ("/score", "/get_reward"):
            return 400, {"error": "too long"}
        value = float(self.version[1:])
        if route == "/get_reward":
            return {"rewards": [value] * len(request["query"])}
        if route == "/score" and "requests" in request:
            return {
                "protocol_version": "1",
                "results": [{"r": {"score": value}} for _ in request["requests"]],
                "errors": [{} for _ in request["requests"]],
                "identities": [{**row, "scorer_version": self.version} for row in request["requests"]],
            }
        if route == "/score":
            return {"data": [{"index": i, "score": value} for i in range(len(request["documents"]))]}
        logs = [{"token": "yes", "logprob": 0.0}]
        choices = [{"logprobs": {"content": [{"top_logprobs": logs}]}}]
        return {"data": [{"index": 0, "probs": [value], "data": [value]}], "choices": choices}

    def asked(self) -> list:
        return [request for route, request in self.at.requests if route != "/health"]


@pytest.fixture
def echo():
    """echo(...) -> Echo."""
    running: list[Echo] = []
    yield lambda *given, **options: running.append(Echo(*given, **options)) or running[-1]
    for each in running:
        each.at.close()


def scored(name: str, artifacts: list, prompt: Prompt, **options) -> list:
    group = Group(prompt, 0, [Sample(prompt, i, artifact) for i, artifact in enumerate(artifacts)])
    score_groups([group], [load_reward(f"remote.{name}", {**FAST, **options})])
    return [next(iter(sample.scores.values())) for sample in group.samples]


def picture(width: int) -> Image.Image:
    return Image.new("RGB", (width, 4), "red")


def prompt_of(text: str, *widths: int, **record) -> Prompt:
    return Prompt("p", text, {"prompt": text, "images": [picture(width) for width in widths], **record})


def read(content) -> list:
    """Texts, and the widths of pictures, in their order."""
    if isinstance(content, str):
        return [content]
    return [part["text"] if part["type"] == "text" else width(part["image_url"]["url"]) for part in content]


def width(url: str) -> int:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).width


@pytest.mark.parametrize(
    ("text", "widths", "expected"),
    [
        ("<image>\nWhat?", [5], [5, "\nWhat?"]),
        ("Is <image> like <image>? ", [5, 6], ["Is ", 5, " like ", 6, "? "]),
        (" What?\n", [5, 6], [5, 6, " What?\n"]),
        ("What of <image>?", [], ["What of <image>?"]),
    ],
)
@pytest.mark.parametrize("name", ["classify", "pooling"])
def test_pictures_stand_where_the_words_mark_them_and_the_words_are_kept(echo, name, text, widths, expected):
    server = echo()
    scored(name, ["a"], prompt_of(text, *widths), url=server.at.url, **CHATS[name])
    assert read(server.asked()[0]["messages"][0]["content"]) == expected


@pytest.mark.parametrize("text", ["<image>\nWhat?", "Is it <image>? ", " What?\n"])
def test_a_server_of_scores_gets_the_words_as_they_are(echo, text):
    server = echo()
    scored("score", ["a"], prompt_of(text, 5), url=server.at.url)
    assert server.asked()[0]["requests"][0]["history"][0]["text"] == text


TALK = [
    {"role": "system", "content": "Be terse."},
    {"role": "user", "content": "See <image>?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And <image>?"},
]


@pytest.mark.parametrize("name", ["classify", "pooling"])
def test_a_conversation_is_sent_as_one_to_a_chat(echo, name):
    server = echo()
    scored(name, ["a"], prompt_of("And <image>?", 5, 6, messages=TALK), url=server.at.url, **CHATS[name])
    sent = server.asked()[0]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user", "assistant"]
    said = [piece for message in sent for piece in read(message["content"])]
    assert said == ["Be terse.", "See ", 5, "?", "Yes.", "And ", 6, "?", "a"]


@pytest.mark.parametrize(("name", "options"), [*OTHERS.items(), ("yes_no", CHATS["yes_no"])])
def test_of_a_conversation_others_get_the_last_words_and_say_so(echo, name, options):
    asked = Prompt(
        "p", "And?", {"messages": [{"role": "system", "content": "Be terse."}, TALK[3] | {"content": "And?"}]}
    )
    with pytest.warns(UserWarning, match="conversations"):
        scored(name, ["a"], asked, url=echo().at.url, **options)
    alone = Prompt("p", "And?", {"messages": [{"role": "user", "content": "And?"}]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored(name, ["a"], alone, url=echo().at.url, **options)


def test_two_conversations_with_the_same_last_words_are_two(echo):
    server = echo()
    reward = load_reward("remote.classify", {**FAST, **MODEL, "url": server.at.url})
    for system in ("Be terse.", "Be long-winded."):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "And?"}]
        prompt = Prompt("p", "And?", {"messages": messages})
        score_groups([Group(prompt, 0, [Sample(prompt, 0, "a")])], [reward])
    assert len(server.asked()) == 2


def test_a_picture_beside_the_prompt_is_told_of(echo):
    server = echo()
    with pytest.warns(UserWarning, match="'image'"):
        scored("score", ["a"], Prompt("p", "a cat", {"prompt": "a cat", "image": "cat.png"}), url=server.at.url)
    assert server.asked()[0]["requests"][0]["metadata"] is None


def test_candidates_that_are_compared_elsewhere_are_told_of(echo):
    server = echo()
    record = {"prompt": "q", "candidates": [{"answer": "a"}, {"answer": "b"}], "shares": [1, 0]}
    with pytest.warns(UserWarning, match="candidates"):
        scored("score", ["a"], Prompt("p", "q", record), url=server.at.url)
    assert server.asked()[0]["requests"][0]["metadata"] is None


def test_a_column_whose_keys_json_cannot_order_is_told_of(echo):
    with pytest.warns(UserWarning, match="'odd'"):
        [score] = scored("score", ["a"], Prompt("p", "q", {"odd": {1: 2, "a": 3}}), url=echo().at.url)
    assert score.ok


# -------------------------------------------------------------------- whose failure it is


@pytest.mark.parametrize("name", CHATS)
def test_a_sample_that_the_server_refuses_fails_alone(echo, name):
    found = scored(name, ["a", "long", "b"], Prompt("p", "q", {}), url=echo().at.url, **CHATS[name])
    assert [score.status for score in found] == ["ok", "invalid", "ok"]
    assert "too long" in found[1].reason


@pytest.mark.parametrize("name", ["score", *CHATS])
def test_a_sample_that_is_no_picture_fails_alone(echo, name):
    options = {**OTHERS, **CHATS}[name]
    found = scored(name, [picture(5), None, picture(6)], Prompt("p", "q", {}), url=echo().at.url, **options)
    assert [score.status for score in found] == ["ok", "invalid", "ok"]


# -------------------------------------------------------------------- what is known


@pytest.mark.parametrize("health", [True, False])
def test_what_another_version_said_in_another_run_is_not_known(echo, tmp_path, health):
    known = str(tmp_path / "known.jsonl")
    server = echo(health=health)
    for version in ("v1", "v2"):
        server.version = version
        for text in ("a", "b"):
            [score] = scored("score", [text], Prompt("p", "q", {}), url=server.at.url, cache=known)
            assert score.value == float(version[1:])


# -------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"yes": "Yes", "no": "yes"}, "must differ"),
        ({"yes": " "}, "must differ"),
        ({"top": 1}, "top"),
    ],
)
def test_options_of_yes_no_that_cannot_be(options, words):
    with pytest.raises(RewardError, match=words):
        load_reward("remote.yes_no", {**MODEL, "url": "http://a", "question": "$answer?", **options})


def test_a_question_that_leaves_the_answer_out_scores_no_text(echo):
    [score] = scored("yes_no", ["a"], Prompt("p", "q", {}), url=echo().at.url, **MODEL, question="Is $prompt good?")
    assert score.status == "invalid" and "$answer" in score.reason
    [score] = scored("yes_no", [picture(4)], Prompt("p", "q", {}), url=echo().at.url, **MODEL, question="Is it?")
    assert score.ok


def test_words_that_are_filled_in_are_not_filled_in_again(echo):
    server = echo()
    scored("yes_no", ["$prompt"], Prompt("p", "$answer", {}), url=server.at.url, **MODEL, question="$prompt: $answer?")
    assert server.asked()[0]["messages"][0]["content"] == "$answer: $prompt?"


def test_a_label_that_no_record_has_is_told_before_training(echo):
    reward = load_reward("remote.openrlhf", {**FAST, "url": "http://a", "label": "anser"})
    assert reward.check_prompt is not None
    assert "'anser'" in (reward.check_prompt(Prompt("p", "q", {"answer": "a"})) or "")
    assert reward.check_prompt(Prompt("p", "q", {"anser": "a"})) is None
