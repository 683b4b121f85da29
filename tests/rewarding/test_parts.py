"""Pictures in chat messages, and the log-probabilities of a first token."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from mmrl.rewarding.chat import ChatError, Endpoint, Failure, Judge
from mmrl.rewarding.first_token import FirstToken
from mmrl.rewarding.parts import content, picture_bytes, picture_part, png, text_part


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))


def test_a_picture_travels_as_a_png_without_loss_and_as_a_jpeg_with_some():
    for quality, kind in ((None, "PNG"), (95, "JPEG"), (10, "JPEG")):
        part = json.loads(json.dumps(picture_part(noise(), quality)))
        opened = Image.open(io.BytesIO(picture_bytes(part)))
        assert (opened.format, opened.size, opened.mode) == (kind, (7, 9), "RGB")
        assert (opened.tobytes() == noise().tobytes()) == (kind == "PNG")
    assert picture_bytes(text_part("a")) is None
    assert content("a") == "a"
    assert content("a", [png(noise())]) == [picture_part(noise(), None), text_part("a")]
    assert content("", [png(noise())]) == [picture_part(noise(), None)]
    assert len(picture_bytes(picture_part(noise(), 10))) < len(picture_bytes(picture_part(noise(), 95)))


@pytest.mark.parametrize(
    "url",
    ["http://localhost/a.png", "file:///etc/passwd", "data:text/plain;base64,aGk=", "", "data:image/png;base64,?"],
)
def test_a_picture_that_is_elsewhere_is_not_fetched(url):
    with pytest.raises(ValueError):
        picture_bytes({"type": "image_url", "image_url": {"url": url}})


def test_a_picture_reaches_the_server_and_another_one_is_another_request(chat_server):
    chat_server.answer = lambda request: str(len(chat_server.requests))
    judge = Judge(Endpoint(chat_server.url, "m"), threads=1)
    pictures = [noise(), Image.new("RGB", (7, 9)), noise()]
    asked = [[{"role": "user", "content": [picture_part(p, None), text_part("Which?")]}] for p in pictures]
    assert judge.verdicts(asked, int) == [1, 2, 1]
    shown, words = chat_server.requests[0]["messages"][0]["content"]
    assert words == {"type": "text", "text": "Which?"}
    assert Image.open(io.BytesIO(picture_bytes(shown))).tobytes() == noise().tobytes()


# -------------------------------------------------------------------- first tokens


def named(*tokens: tuple[str, float]) -> tuple[int, bytes]:
    top = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in tokens]
    choice = {"message": {"content": ""}, "logprobs": {"content": [{**top[0], "top_logprobs": top}] if top else []}}
    return 200, json.dumps({"choices": [choice]}).encode()


def test_the_first_token_s_log_probabilities_are_asked_for_and_read(chat_server):
    chat_server.answer = lambda request: named(("Yes", -0.5), ("No", -1.5), (" Yes", -9999.0))
    judge = Judge(FirstToken(chat_server.url, "m", top=5))
    assert judge.verdicts([[{"role": "user", "content": "?"}]], json.loads) == [
        [["Yes", -0.5], ["No", -1.5], [" Yes", -9999.0]]
    ]
    request = chat_server.requests[0]
    assert (request["max_tokens"], request["logprobs"], request["top_logprobs"]) == (1, True, 5)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda r: "Yes", "named no first tokens"),
        (lambda r: named(), "named no first tokens"),
        (lambda r: (200, json.dumps({"choices": [{"logprobs": None}]}).encode()), "named no first tokens"),
        (lambda r: (200, json.dumps({"choices": [{"logprobs": {"content": [7]}}]}).encode()), "no chat completion"),
        (lambda r: (200, b'{"choices": []}'), "no chat completion"),
    ],
    ids=["words alone", "no token", "null", "nonsense", "no choice"],
)
def test_a_server_without_log_probabilities_is_a_failure(chat_server, answer, told):
    chat_server.answer = answer
    [found] = Judge(FirstToken(chat_server.url, "m"), attempts=1).verdicts([[{"role": "user", "content": "?"}]], str)
    assert isinstance(found, Failure)
    assert told in found.reason
    with pytest.raises(ChatError):
        FirstToken(chat_server.url, "m").complete([], 0.0, 0)


def test_two_answers_must_be_able_to_be_among_the_tokens():
    with pytest.raises(ValueError, match="top=1"):
        FirstToken("http://x/v1", "m", top=1)
