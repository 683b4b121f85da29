"""Divided weights and rollouts of servers: they get whole weights, and the run learns what one without shards does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import torch
from divided import merged
from safetensors.torch import load_file

from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.text.adapter import TextAdapter
from mmrl.modalities.text.config import ModelConfig
from mmrl.share import resolve

BASE = {
    "modality": "text",
    "device": "cpu",
    "threads": 1,
    "model": {"path": "share://assets/text-tiny", "chat": "off", "sampling": {"max_tokens": 24}},
    "data": {"prompts": "share://datasets/arithmetic/arithmetic.py:problem", "prompts_count": 40},
    "report": {"samples_every": 0},
}
SEVENS = "def letters(samples):\n    return [float(sum(map(ord, s.artifact)) % 7) for s in samples]\n"
STAGE = {"kind": "grpo", "steps": 3, "groups": 4, "samples": 6, "micro_batch": 400, "optim": {"lr": 1e-3, "eps": 1e-3}}


@pytest.fixture
def server(helpers):
    """The address of a server of text-tiny that speaks what vLLM's does (benchmarks/policy_server.py)."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    script = helpers.root / "benchmarks" / "policy_server.py"
    command = [sys.executable, str(script), str(resolve("share://assets/text-tiny")), "--port", port]
    switches = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(helpers.root), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=os.environ | switches, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/v1/models", timeout=2).close()
            break
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    assert process.poll() is None
    yield url
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("flowing", [{}, {"asynchronous": {"staleness": 1}}], ids=["in turn", "ahead"])
def test_servers_follow_divided_weights(tmp_path, helpers, server, flowing):
    engine = {"name": "vllm", "options": {"mode": "server", "options": {"url": server, "transfer": "gloo"}}}
    (tmp_path / "sevens.py").write_text(SEVENS, encoding="utf-8")
    rewards = [{"name": f"{tmp_path / 'sevens.py'}:letters"}]
    rows, weights = {}, {}
    for shards in (1, 2):
        name = f"of_{shards}"
        config = merged(
            BASE,
            {
                "name": name,
                "out": str(tmp_path),
                "model": {"engine": engine},
                "stages": [STAGE | flowing],
                "rewards": rewards,
            }
            | ({"sharding": {"shards": shards}} if shards > 1 else {}),
        )
        process = helpers.torchrun("-m", "mmrl", "train", str(helpers.written(config, tmp_path)))
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err[-3000:] + out[-1000:]
        rows[shards] = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").count("\n")
        weights[shards] = load_file(tmp_path / name / "checkpoints" / "latest" / "policy" / "model.safetensors")
    assert rows == {1: 3, 2: 3}
    start = load_file(resolve("share://assets/text-tiny") / "model.safetensors")
    moved = max(float((weights[1][k] - w).abs().max()) for k, w in start.items())
    assert moved > 1e-4
    for name, wanted in weights[1].items():
        torch.testing.assert_close(weights[2][name], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "colocated"}, "beside the trainer gets no divided"),
        ({"mode": "server", "lora": True}, "merged weights"),
    ],
)
def test_what_gets_no_divided_weights_is_refused(options, words):
    model = {**BASE["model"], "train": "lora", "engine": {"name": "vllm", "options": options}}
    with pytest.raises(Unsupported, match=words):
        TextAdapter(ModelConfig(**model)).divisible()
