"""Stands in for `vllm serve`: what its endpoints answer, as vLLM 0.32 and 0.33 do."""

from __future__ import annotations

import json
import socket
import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from mmrl.engines.vllm import VllmEngine
from mmrl.engines.vllm_transfer import gloo_broadcast, gloo_group

POSTED = (
    "/inference/v1/generate",
    "/update_weight_version",
    "/reset_prefix_cache",
    "/collective_rpc",
    "/v1/load_lora_adapter",
    "/init_weight_transfer_engine",
    "/start_weight_update",
)
ASIDE = ("/pause", "/resume", "/tokenize", "/weight_checker", "/abort_requests")  # not among `posts`


class Fake(ThreadingHTTPServer):
    """Answers as a server would: each request's seed is its only token before the stop id, with log-prob -seed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0):
        self.posts: list[tuple[str, dict]] = []
        self.mode, self.refuse, self.success, self.token = "processed_logprobs", None, True, None
        self.refuse_control: tuple[str, int] | None = None  # a route beside `posts`, and the status that it answers
        self.features = 3  # of a picture, whose placeholder is 7
        self.weights = "default"  # the weight version
        self.root = ""  # the folder of its model
        self.later, self.silent = None, False  # of weight versions: another from the second token on; none is said
        self.told: dict = {}  # of its config: "dtype", "transfer", "version", "tokens", "checksums", "longest"
        self.going = threading.Event()  # it is not paused
        self.going.set()
        self.delay = 0.0  # seconds from token to token
        self.tokens = 1  # before the stop id
        self.vocabulary: int | None = None  # else tokens are of so many ids, and none is a stop id
        self.awaited: str | None = None  # the end of the mark that a second token waits for
        self.crossed: str | None = None  # the end of a mark: what begins with these weights goes on with the next ones
        self.received: dict[str, torch.Tensor] = {}
        self.lacks: set[str] = set()  # routes that are not there
        self.hangs, self.hanging = False, threading.Event()  # whether it takes questions and answers none
        self.dead = False
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def expansion(self, token: int) -> list[int]:
        return [5, *[7] * self.features, 6] if token == 7 else [token]

    def get_request(self):
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request):
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """Broken connections are what these tests are about."""

    def kill(self):
        """As SIGKILL would: nobody gets an answer any more."""
        self.dead = True
        self.hanging.set()
        self.going.set()
        self.shutdown()
        self.server_close()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    # ---------------------------------------------------------------- weights over gloo, as mmrl.engines.vllm_gloo

    def join(self, info):
        wait = timedelta(seconds=20)
        store = torch.distributed.TCPStore(info["master_address"], info["master_port"], info["world_size"], False, wait)
        self.group = gloo_group(store, info["rank_offset"], info["world_size"], wait)

    def receive(self, info):
        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"]):
            self.received[name] = torch.empty(shape, dtype=getattr(torch, dtype))
            gloo_broadcast(self.group, self.received[name])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        told = self.server.told
        config = {"model_config": {"logprobs_mode": self.server.mode}, "lora_config": {}}
        if "dtype" in told:
            config["model_config"]["dtype"] = f"torch.{told['dtype']}"
        if "transfer" in told:
            config["weight_transfer_config"] = {"backend": told["transfer"]}
        longest = told.get("longest", 16)
        answers = {
            "/v1/models": {"data": [{"id": "base", "max_model_len": longest, "root": self.server.root}]},
            "/server_info?config_format=json": {"vllm_config": config},
            "/weight_info": {"weight_version": self.server.weights},
            "/get_world_size?include_dp=true": {"world_size": 1},
        }
        if "version" in told:
            answers["/version"] = {"version": told["version"]}
        if self.server.hangs:
            self.server.hanging.wait(60)
        if self.path in answers and self.path.partition("?")[0] not in self.server.lacks:
            return self.reply(answers[self.path])
        if self.path in self.server.lacks or self.path not in (*POSTED, *ASIDE):
            return self.reply({"error": "no such route"}, 404)
        return self.reply({"error": "method not allowed"}, 405)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.partition("?")[0]
        if path == "/update_weight_version":
            self.server.weights = body["new_version"]
            return self.reply({"success": True, "new_version": self.server.weights})
        if path in ASIDE:
            return self.aside(path)
        if path == "/inference/v1/generate":
            if path in self.server.lacks:
                return self.reply({"error": {"message": "Scale-out endpoints are disabled."}}, 403)
            if not body:
                return self.reply({"error": {"message": "token_ids: Field required"}}, 400)
        self.server.posts.append((self.path, body))
        if self.path == self.server.refuse:
            return self.reply({"error": {"message": "out of blocks"}}, 503)
        if path == "/init_weight_transfer_engine":
            self.server.join(body["init_info"])
        if path == "/update_weights":
            self.server.receive(body["update_info"])
        if path == "/inference/v1/generate":
            return self.generate(body)
        return self.reply({"success": self.server.success, "results": [None]})

    def aside(self, path):
        told = self.server.told
        if self.server.refuse_control and path == self.server.refuse_control[0]:
            return self.reply({"error": "not now"}, self.server.refuse_control[1])
        if path == "/pause":
            self.server.going.clear()
        if path == "/resume":
            self.server.going.set()
        if path == "/tokenize" and "tokens" in told:
            return self.reply({"tokens": told["tokens"]})
        if path == "/weight_checker" and "checksums" in told:
            return self.reply({"checksums": told["checksums"]})
        if path in ("/tokenize", "/weight_checker"):
            return self.reply({"error": "no such route"}, 404)
        return self.reply({"status": "ok"})

    def generate(self, body):
        server, seed = self.server, body["sampling_params"]["seed"]
        sampled, marks = [], []
        for number in range(server.tokens + 1):
            time.sleep(server.delay)
            while number and server.awaited and not (server.weights.endswith(server.awaited) or server.dead):
                time.sleep(0.005)
            if number == 1 and server.crossed and marks[0].endswith(server.crossed):
                self.wait_for_others(marks[0])
            server.going.wait()
            if server.dead:
                return
            last = number == server.tokens
            if server.vocabulary:
                sampled.append((3 + (seed + 7 * number) % server.vocabulary, -5.0))
                marks.append(server.weights)
                continue
            sampled.append((9, -0.5) if last else (server.token or seed, -float(seed)))
            marks.append(server.later if server.later and number else server.weights)
        choice = {
            "token_ids": [token for token, _ in sampled],
            "logprobs": {"content": [{"token_id": token, "logprob": logp} for token, logp in sampled]},
            "finish_reason": "length" if server.vocabulary else "stop",
            "weight_versions": None if server.silent else spans(marks),
        }
        read = [i for token in body["token_ids"] for i in server.expansion(token)]
        self.reply({"choices": [choice], "prompt_token_ids": read})

    def wait_for_others(self, weights):
        """Until the server holds others, or, where nobody sends them before this request is answered, for seconds."""
        over = time.monotonic() + 20
        while self.server.weights == weights and not self.server.dead and time.monotonic() < over:
            time.sleep(0.005)

    def reply(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Quiet."""


def spans(marks):
    """As vLLM says which weights sampled which tokens."""
    found = []
    for place, mark in enumerate(marks):
        if found and found[-1]["version"] == mark:
            found[-1]["end"] = place + 1
        else:
            found.append({"version": mark, "start": place, "end": place + 1})
    return found


def started(port=0, **told):
    """A server that answers, in a thread of its own."""
    fake = Fake(port)
    for name, value in told.items():
        setattr(fake, name, value)
    threading.Thread(target=fake.serve_forever, args=(0.01,), daemon=True).start()
    return fake


def connect(folder, server, **extra):
    """An engine that samples from one stand-in, or from several."""
    servers = server if isinstance(server, list) else [server]
    for each in servers:
        each.root = each.root or str(folder)
    urls = [each.url for each in servers]
    options = {"url": urls if len(urls) > 1 else urls[0], **extra.pop("options", {})}
    tokenizer = extra.pop("tokenizer", None)
    return VllmEngine(folder, tokenizer, mode="server", dtype=extra.pop("dtype", "float32"), options=options, **extra)
