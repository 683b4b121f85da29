"""A server that samples from a small language model and speaks the routes of `vllm serve` that mmrl asks for.

For measurements where vLLM is not installed: the policy is transformers' own, weights come over gloo as vLLM's protocol
has it, and all that waits is sampled together. Not fast, and no more than that. Ctrl-C ends it.

    python benchmarks/policy_server.py FOLDER --port 8001
"""

from __future__ import annotations

import argparse
import json
import threading
from concurrent.futures import Future
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from typing import Any

import torch

import mmrl  # noqa: F401  before transformers
from mmrl.engines.base import Completion, Sampling
from mmrl.engines.load import load_engine
from mmrl.engines.vllm_transfer import gloo_broadcast, gloo_group


class PolicyServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: str, port: int, context: int) -> None:
        from transformers import AutoModelForCausalLM

        self.folder, self.context = folder, context
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.engine = load_engine({}, self.model, None, None)
        self.mark = "default"
        self.going = threading.Event()
        self.going.set()
        self.still = threading.Lock()  # held while something is sampled
        self.waiting: SimpleQueue[tuple[list[int], dict[str, Any], Future[Any]]] = SimpleQueue()
        self.group: Any = None
        super().__init__(("127.0.0.1", port), Handler)
        threading.Thread(target=self.sample, daemon=True).start()

    def sample(self) -> None:
        """All that wait, together, again and again; one sampling for all, as one training asks."""
        while True:
            some = [self.waiting.get()]
            try:
                while len(some) < 128:
                    some.append(self.waiting.get_nowait())
            except Empty:
                pass
            self.going.wait()
            with self.still, torch.no_grad():
                params, mark = some[0][1], self.mark
                sampling = Sampling(
                    params["temperature"],
                    max_tokens=params["max_tokens"],
                    stop_ids=tuple(params["stop_token_ids"]),
                    banned=tuple(int(i) for i in params["logit_bias"] or ()),
                )
                rows = self.engine.generate(
                    [torch.tensor(ids) for ids, _, _ in some], 1, sampling, [[told["seed"]] for _, told, _ in some]
                )
            for (_, _, future), (made,) in zip(some, rows):
                future.set_result((made, mark))

    def join(self, info: dict[str, Any]) -> None:
        wait = timedelta(seconds=60)
        store = torch.distributed.TCPStore(info["master_address"], info["master_port"], info["world_size"], False, wait)
        self.group = gloo_group(store, info["rank_offset"], info["world_size"], wait)

    def receive(self, info: dict[str, Any]) -> None:
        own = self.model.state_dict()
        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"]):
            weight = torch.empty(shape, dtype=getattr(torch, dtype))
            gloo_broadcast(self.group, weight)
            own[name].copy_(weight)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PolicyServer

    def do_GET(self) -> None:
        server = self.server
        config = {"model_config": {"logprobs_mode": "processed_logprobs", "dtype": "torch.float32"}}
        config["weight_transfer_config"] = {"backend": "gloo"}
        self.reply(
            {
                "/v1/models": {"data": [{"id": "policy", "max_model_len": server.context, "root": server.folder}]},
                "/server_info": {"vllm_config": config},
                "/get_world_size": {"world_size": 1},
            }.get(self.path.partition("?")[0], {"weight_version": server.mark})
        )

    def do_POST(self) -> None:
        body, server = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}"), self.server
        match self.path.partition("?")[0]:
            case "/inference/v1/generate" if not body:
                return self.reply({"error": "token_ids: Field required"}, 400)
            case "/inference/v1/generate":
                return self.generate(body)
            case "/pause":
                server.going.clear()
                with server.still:
                    pass
            case "/resume":
                server.going.set()
            case "/update_weight_version":
                server.mark = body["new_version"]
            case "/init_weight_transfer_engine":
                server.join(body["init_info"])
            case "/update_weights":
                with server.still:
                    server.receive(body["update_info"])
        return self.reply({"success": True})

    def generate(self, body: dict[str, Any]) -> None:
        future: Future[tuple[Completion, str]] = Future()
        self.server.waiting.put((body["token_ids"], body["sampling_params"], future))
        made, mark = future.result()
        choice = {
            "token_ids": made.ids.tolist(),
            "logprobs": {"content": [{"logprob": value} for value in made.logp.tolist()]},
            "finish_reason": "stop" if made.stop == "eos" else "length",
            "weight_versions": [{"version": mark, "start": 0, "end": len(made.ids)}],
        }
        self.reply({"choices": [choice], "prompt_token_ids": body["token_ids"]})

    def reply(self, body: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--context", type=int, default=96)
    told = parser.parse_args()
    torch.set_num_threads(1)
    PolicyServer(told.folder, told.port, told.context).serve_forever()
