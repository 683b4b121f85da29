"""What an engine asks of a server before it sends anything: that it is vLLM, and serves a model of this shape."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from standin_server import connect

from mmrl.engines.http_client import ServerError
from mmrl.engines.load import longest_row
from mmrl.engines.vllm import VllmEngine


@pytest.fixture
def other():
    """other(text) -> the address of a web server that answers everything with this text."""
    started = []

    def start(text: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "text",
    [
        "<html><body>It works!</body></html>",
        "",
        "ok",
        "null",
        "[]",
        "[1, 2]",
        "{}",
        '{"data": []}',
        '{"data": null}',
        '{"data": [{"id": "gpt-4"}]}',  # another server with OpenAI's endpoints
        '{"data": [{"id": "m", "max_model_len": 64, "root": "a"}]}',  # vLLM's first answer, to every question
    ],
)
def test_another_server_is_said_in_one_line(text, other, folder):
    url = other(text)
    with pytest.raises(ServerError, match="which is not what vLLM") as error:
        VllmEngine(folder, mode="server", options={"url": url})
    assert "\n" not in str(error.value) and url in str(error.value)


@pytest.fixture
def other_model(tmp_path):
    """other_model(**changes) -> a folder with the config of `folder` but for them."""

    def make(**changes):
        from transformers import AutoConfig

        told = {"vocab_size": 32, "hidden_size": 64, "tie_word_embeddings": True, **changes}
        AutoConfig.for_model(told.pop("model_type", "qwen2"), **told).save_pretrained(tmp_path / "other")
        return str(tmp_path / "other")

    return make


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 128}, "hidden_size 128 there, 64 here"),
        ({"vocab_size": 64}, "vocab_size 64 there, 32 here"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings False there, True here"),
        ({"model_type": "llama"}, "model_type llama there, qwen2 here"),
        ({"num_hidden_layers": 1}, "num_hidden_layers 1 there, 32 here"),
    ],
)
def test_a_model_of_another_shape_is_refused_before_anything_is_sent(changes, message, folder, server, other_model):
    server.root = other_model(**changes)
    with pytest.raises(ServerError, match=message):
        connect(folder, server)
    assert not server.posts and server.weights == "default"


def test_the_same_shape_passes_whatever_else_differs(folder, server, other_model):
    server.root = other_model(dtype="bfloat16", use_cache=False, eos_token_id=5)
    connect(folder, server).close()


def test_a_shape_that_cannot_be_compared_is_said(folder, server):
    server.root = "somebody/elsewhere"
    with pytest.warns(UserWarning, match="serves 'somebody/elsewhere', whose config cannot be read here"):
        connect(folder, server).close()


@pytest.mark.parametrize(
    ("section", "longest"),
    [
        ({"name": "transformers"}, None),
        ({}, None),
        ({"name": "vllm"}, None),
        ({"name": "vllm", "max_model_len": 96}, 96),
        ({"name": "vllm", "mode": "server", "max_model_len": 12}, 12),
        ({"name": "vllm", "mode": "server"}, 16),  # what the server says
        ({"name": "vllm", "mode": "server", "options": {"url": "http://127.0.0.1:1"}}, None),  # not there yet
    ],
)
def test_the_longest_row_is_known_before_the_engine(section, longest, server):
    if section.get("mode") == "server":
        section = {"options": {"url": f"http://127.0.0.1:{server.server_address[1]}"}, **section}
    assert longest_row(section) == longest


def test_a_server_with_less_room_than_the_config_says_is_refused(folder, server):
    with pytest.raises(ValueError, match="--max-model-len 16, and max_model_len is 32"):
        connect(folder, server, max_model_len=32)
    connect(folder, server, max_model_len=16).close()


def test_sleep_is_not_for_a_server(folder, server):
    with pytest.raises(ValueError, match="sleep is for mode colocated"):
        connect(folder, server, sleep=1)
