"""Two processes that sample from one server: one of them sends the weights, once a rollout, and none samples early."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# All trainings in one start of the two processes; the server is told where one begins.
TRAIN = """
import os, sys, urllib.request
from pathlib import Path
import torch, mmrl
torch.set_num_threads(1)
url, *configs = sys.argv[1:]
for path in configs:
    if os.environ["RANK"] == "0":
        urllib.request.urlopen(f"{url}/begin/{Path(path).stem}").read()
    mmrl.train(path, quiet=True)
"""
PROMPTS = ["one", "two", "three", "four", "five", "six"]


class Server(ThreadingHTTPServer):
    """Stands in for vLLM. `events` is what was asked in each run, in order: "sync" and "ready" around a slow reload,
    and for each completion the ids of its prompt. The run `refused` gets no weights."""

    def __init__(self) -> None:
        self.run = ""
        self.events: dict[str, list[str]] = {}
        self.sent: dict[str, list[bytes]] = {}  # the weights of each sync
        self.models: set[str] = set()
        self.weights = "default"  # the weight version
        self.runs = Path()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        served = {"data": [{"id": "base", "max_model_len": 64, "root": "tiny"}]}
        mode = {"vllm_config": {"model_config": {"logprobs_mode": "processed_logprobs"}, "lora_config": {}}}
        held = {"weight_version": self.server.weights}
        if self.path.startswith("/begin/"):
            self.server.run = self.path.removeprefix("/begin/")
            self.server.events[self.server.run], self.server.sent[self.server.run] = [], []
        self.reply({"/v1/models": served, "/weight_info": held}.get(self.path, mode))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not body and self.path == "/inference/v1/generate":
            return self.reply({"error": "token_ids: Field required"}, 400)
        if self.path == "/inference/v1/generate":
            self.server.models.add(body["model"])
            self.server.events[self.server.run].append("-".join(map(str, body["token_ids"])))
            seed = body["sampling_params"]["seed"]
            ids = [3 + seed % 200, 3 + seed % 199]
            logprobs = {"content": [{"token_id": i, "logprob": -5.0} for i in ids]}
            spans = [{"version": self.server.weights, "start": 0, "end": 2}]
            choice = {"token_ids": ids, "logprobs": logprobs, "finish_reason": "length", "weight_versions": spans}
            return self.reply({"choices": [choice], "prompt_token_ids": body["token_ids"]})
        if self.path == "/update_weight_version":
            self.server.weights = body["new_version"]
        if self.path in ("/collective_rpc", "/v1/load_lora_adapter"):
            if self.server.run == "refused":
                return self.reply({"error": "out of blocks"}, 503)
            self.server.events[self.server.run].append("sync")
            folder = Path(body["lora_path"] if "lora_path" in body else body["kwargs"]["weights_path"])
            self.server.sent[self.server.run].append(next(folder.glob("*.safetensors")).read_bytes())
            time.sleep(0.3)  # a process that does not wait has its requests in between
            self.server.events[self.server.run].append("ready")
        return self.reply({"success": True})

    def reply(self, body: dict, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_) -> None:
        """Quiet."""


# Three prompts in chunks of one: the first process asks for two rollouts, the second for one.
CHUNKS = {"steps": 2, "groups": 3, "rollout_chunk": 1}
FLOWING = {"steps": 3, "groups": 3, "asynchronous": {"staleness": 1}}
RUNS = {
    "chunks": CHUNKS,
    "one_prompt": {"steps": 1, "groups": 1},
    "flowing": FLOWING,
    "refused": {"steps": 1, "groups": 2},
}


@pytest.fixture(scope="module")
def start(helpers, tmp_path_factory):
    """start(runs, train) -> (what the server saw, exit code, stderr) of two processes that train these, in turn."""

    def go(runs, train="full"):
        folder = tmp_path_factory.mktemp("shared")
        (folder / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
        (folder / "mine.py").write_text(
            "def odd(samples):\n    return [float(s.trajectory.tensors['ids'][0] % 2) for s in samples]\n",
            encoding="utf-8",
        )
        (folder / "train.py").write_text(TRAIN, encoding="utf-8")
        server = Server()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        paths = [helpers.written(config(name, stage, train, server, folder), folder) for name, stage in runs.items()]
        process = helpers.two_processes(str(folder / "train.py"), server.url, *map(str, paths))
        _, err = process.communicate(timeout=200)
        server.shutdown()
        thread.join()
        server.server_close()
        server.runs = folder / "runs"
        return server, process.returncode, err

    return go


def config(name, stage, train, server, folder):
    lora = {"lora": True} if train == "lora" else {}
    engine = {"mode": "server", "options": {"url": server.url, "folder": str(folder / "weights")}, **lora}
    model = {
        "path": "built",
        "build": {"kind": "qwen2", "hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "context": 64},
        "train": train,
        "chat": "off",
        "sampling": {"max_tokens": 2},
        "engine": {"name": "vllm", "options": engine, "tolerance": 1e3},  # its log-probs are made up
    }
    return {
        "name": name,
        "out": str(folder / "runs"),
        "modality": "text",
        "model": model,
        "data": {"prompts": str(folder / "prompts.txt")},
        "rewards": [{"name": f"{folder / 'mine.py'}:odd"}],
        "stages": [{"kind": "grpo", "samples": 4, "micro_batch": 64, "optim": {"lr": 0.01}, **stage}],
        "threads": 1,
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def trained(start):
    return start(RUNS)


def test_weights_are_sent_once_per_rollout_and_no_process_samples_before_they_are_there(trained):
    check_phases(trained[0], "base")


@pytest.mark.slow
def test_so_are_those_of_lora(start):
    server, code, err = start({"chunks": CHUNKS}, "lora")
    assert code == 0, err
    check_phases(server, "policy")


def check_phases(server, model):
    phases = " ".join(server.events["chunks"]).split("sync ready ")
    assert phases[0] == "" and len(phases) == 1 + 1 + 2  # one phase for the check before step 1
    assert not any(word in phase.split() for phase in phases for word in ("sync", "ready"))
    assert len(phases[1].split()) == 4 and len(set(phases[1].split())) == 1  # two samples for each of the processes
    for phase in phases[2:]:
        prompts = phase.split()
        assert len(prompts) == 12 and sorted(prompts.count(p) for p in set(prompts)) == [4, 4, 4]
    first, second, third = server.sent["chunks"]
    assert first == second != third  # there is an update after each step
    assert server.models == {model}


def test_a_process_without_prompts_waits_too(trained):
    server, _, err = trained
    assert "one_prompt" in server.events and "refused" in server.events, err
    assert server.events["one_prompt"].count("sync") == 2


def test_each_process_asks_for_its_share_in_the_background(trained):
    """One sends for both, once a step and for the check before; every group is whole, and none asked for twice."""
    server, _, err = trained
    asked = [event for event in server.events["flowing"] if event not in ("sync", "ready")]
    assert server.events["flowing"].count("sync") == 1 + 3, err
    assert len(asked) == 4 + 3 * 3 * 4 and all(asked.count(prompt) % 4 in (0, 2) for prompt in asked)
    lines = (server.runs / "flowing" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 3 and all(row["rollout/age_max"] <= 1 and row["rollout/dropped"] == 0 for row in rows)
    assert json.loads((server.runs / "flowing" / "summary.json").read_text(encoding="utf-8"))["samples"] == 36


def test_where_the_sync_fails_no_process_goes_on(trained):
    server, code, err = trained
    assert code != 0 and "out of blocks" in err
    assert not server.events["refused"]
