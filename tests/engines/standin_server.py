"""Stands in for `vllm serve`: what its endpoints answer, as vLLM 0.32 and 0.33 do."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mmrl.engines.vllm import VllmEngine


class Fake(ThreadingHTTPServer):
    """Answers as a server would: each request's seed is its only token before the stop id, with log-prob -seed."""

    def __init__(self):
        self.posts: list[tuple[str, dict]] = []
        self.mode, self.refuse, self.success, self.token = "processed_logprobs", None, True, None
        self.features = 3  # of a picture, whose placeholder is 7
        self.weights = "default"  # the weight version
        self.root = ""  # the folder of its model
        self.later, self.silent = None, False  # of weight versions: another from the second token on; none is said
        super().__init__(("127.0.0.1", 0), Handler)

    def expansion(self, token: int) -> list[int]:
        return [5, *[7] * self.features, 6] if token == 7 else [token]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        model = {"logprobs_mode": self.server.mode}
        answers = {
            "/v1/models": {"data": [{"id": "base", "max_model_len": 16, "root": self.server.root}]},
            "/server_info?config_format=json": {"vllm_config": {"model_config": model, "lora_config": {}}},
            "/weight_info": {"weight_version": self.server.weights},
        }
        self.reply(answers[self.path])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/update_weight_version":
            self.server.weights = body["new_version"]
            return self.reply({"success": True, "new_version": self.server.weights})
        self.server.posts.append((self.path, body))
        if self.path == self.server.refuse:
            return self.reply({"error": {"message": "out of blocks"}}, 503)
        if self.path == "/inference/v1/generate":
            seed = body["sampling_params"]["seed"]
            sampled = [(self.server.token or seed, -float(seed)), (9, -0.5)]
            choice = {
                "token_ids": [token for token, _ in sampled],
                "logprobs": {"content": [{"token_id": token, "logprob": logp} for token, logp in sampled]},
                "finish_reason": "stop",
                "weight_versions": None if self.server.silent else self.spans(),
            }
            read = [i for token in body["token_ids"] for i in self.server.expansion(token)]
            return self.reply({"choices": [choice], "prompt_token_ids": read})
        return self.reply({"success": self.server.success, "results": [None]})

    def spans(self):
        later = [{"version": self.server.later, "start": 1, "end": 2}] if self.server.later else []
        return [{"version": self.server.weights, "start": 0, "end": 2 - len(later)}, *later]

    def reply(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Quiet."""


def connect(folder, server, **extra):
    server.root = server.root or str(folder)
    options = {"url": f"http://127.0.0.1:{server.server_address[1]}", **extra.pop("options", {})}
    return VllmEngine(folder, mode="server", dtype=extra.pop("dtype", "float32"), options=options, **extra)
