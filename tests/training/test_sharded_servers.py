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


DRAWN = {
    "modality": "image",
    "device": "cpu",
    "threads": 1,
    "model": {
        "path": "built",
        "family": "sd3",
        "build": {"layers": 1, "heads": 2, "head_dim": 16, "grid": 4, "corpus": ["a red circle"]},
        "sampling": {"steps": 3, "size": 32},
    },
    "report": {"samples_every": 0},
}


@pytest.mark.parametrize("base", [BASE, pytest.param(DRAWN, marks=pytest.mark.slow)], ids=["text", "image"])
def test_servers_that_are_not_there_are_refused_by_one_line_of_all_processes(tmp_path, helpers, base):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
    (tmp_path / "prompts.txt").write_text("a red circle\n", encoding="utf-8")
    engine = {"name": "servers", "options": {"url": url}}
    if base is BASE:
        engine = {"name": "vllm", "options": {"mode": "server", "options": {"url": url}}}
    (tmp_path / "mine.py").write_text("def none(samples):\n    return [0.0] * len(samples)\n", encoding="utf-8")
    own = {"name": "run", "out": str(tmp_path), "model": {"engine": engine}, "stages": [STAGE]}
    own |= {"data": {"prompts": str(tmp_path / "prompts.txt")}, "rewards": [{"name": f"{tmp_path / 'mine.py'}:none"}]}
    path = helpers.written(merged({**base, "data": {}}, own), tmp_path)
    process = helpers.two_processes(str(helpers.root / "mmrl" / "__main__.py"), "train", str(path), "--quiet")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1 and out == ""
    assert len(err.splitlines()) == 1 and err.startswith("error: model.engine: ") and url in err, err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


BRIGHT = """
import numpy as np

def bright(samples):
    return [float(np.asarray(s.artifact, dtype=np.float64)[..., 0].mean()) / 255 for s in samples]
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", [{}, {"train": "lora", "lora": {"rank": 2, "alpha": 4}}], ids=["full", "lora"])
def test_servers_of_pictures_follow_divided_weights(tmp_path, helpers, model):
    (tmp_path / "bright.py").write_text(BRIGHT, encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("a red circle\ntwo circles\na square\n", encoding="utf-8")
    stage = {"kind": "grpo", "steps": 3, "groups": 3, "samples": 4, "micro_batch": 6}
    own = {
        "name": "served",
        "out": str(tmp_path),
        "model": model,
        "data": {"prompts": str(tmp_path / "prompts.txt")},
        "rewards": [{"name": f"{tmp_path / 'bright.py'}:bright"}],
        "stages": [stage | {"optim": {"lr": 1e-3, "eps": 1e-3}}],
    }
    config = merged(DRAWN, own)
    serving = helpers.command("-m", "mmrl", "serve-rollouts", str(helpers.written(config, tmp_path)), "--port", "0")
    try:
        url = serving.stdout.readline().split(" at ")[1].strip()
        weights = {}
        for shards in (1, 2):
            engine = {"name": "servers", "options": {"url": url}}
            own = {"name": f"of_{shards}", "model": {"engine": engine}}
            run = merged(config, own | ({"sharding": {"shards": shards}} if shards > 1 else {}))
            process = helpers.torchrun("-m", "mmrl", "train", str(helpers.written(run, tmp_path)))
            out, err = process.communicate(timeout=400)
            assert process.returncode == 0, err[-3000:] + out[-1000:]
            policy = tmp_path / f"of_{shards}" / "checkpoints" / "latest" / "policy"
            files = {str(path.relative_to(policy)): load_file(path) for path in policy.rglob("*.safetensors")}
            weights[shards] = {f"{file} {name}": w for file, held in files.items() for name, w in held.items()}
    finally:
        serving.kill()
        serving.wait()
    assert weights[1].keys() == weights[2].keys()
    for name, wanted in weights[1].items():
        torch.testing.assert_close(weights[2][name], wanted, rtol=0, atol=1e-5)
