"""`mmrl serve-rollouts`: it serves a run's own config, to those who may ask; a whole training over two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uvicorn
import yaml
from starlette.testclient import TestClient

BUILD = {"layers": 1, "heads": 2, "head_dim": 16, "grid": 4, "corpus": ["a red circle"]}
REWARD = """
import numpy as np

def red(samples):
    return [float(np.asarray(s.artifact)[..., 0].mean()) / 255 for s in samples]
"""


@pytest.fixture
def config(tmp_path):
    """config(**stage) -> the file of a run that samples from servers at http://127.0.0.1:1."""
    (tmp_path / "prompts.txt").write_text("a red circle\ntwo circles\na square\n", encoding="utf-8")
    (tmp_path / "mine.py").write_text(REWARD, encoding="utf-8")

    def write(url="http://127.0.0.1:1", **stage):
        model = {"path": "built", "family": "sd3", "build": BUILD, "sampling": {"steps": 3, "size": 32}}
        own = {"kind": "grpo", "name": "rl", "steps": 5, "groups": 2, "samples": 3, "micro_batch": 64}
        told = {
            "name": "run",
            "out": str(tmp_path / "runs"),
            "modality": "image",
            "model": {**model, "engine": {"name": "servers", "options": {"url": url}, "tolerance": 0.001}},
            "data": {"prompts": str(tmp_path / "prompts.txt")},
            "rewards": [{"name": f"{tmp_path / 'mine.py'}:red"}],
            "stages": [{**own, "optim": {"lr": 0.001}, **stage}],
            "threads": 1,
            "device": "cpu",
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(told), encoding="utf-8")
        return path

    return write


def test_it_serves_the_config_of_a_run_to_those_who_may_ask(config, main, monkeypatch):
    apps = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: apps.append(self.config.app))
    monkeypatch.setenv("MMRL_SERVE_TOKEN", "secret")
    code, out, err = main("serve-rollouts", config(), "--port", 0)
    assert (code, err) == (0, "") and out.startswith("serving rollouts of run at http://127.0.0.1:")
    with TestClient(apps[0]) as client:
        assert client.get("/rollout_info").status_code == 401
        assert client.post("/update_weights", content=b"").status_code == 401
        told = client.get("/rollout_info", headers={"Authorization": "Bearer secret"}).json()
    assert told["model"]["family"] == "sd3" and len(told["shapes"]) > 50
    monkeypatch.delenv("MMRL_SERVE_TOKEN")
    main("serve-rollouts", config(), "--port", 0)
    with TestClient(apps[1], base_url="http://127.0.0.1") as client:
        assert client.get("/rollout_info").status_code == 200
        assert client.get("/rollout_info", headers={"Host": "rebound.example"}).status_code == 421


def test_what_is_not_served_is_refused_in_one_line(main, tmp_path):
    code, _, err = main("serve-rollouts", "text/tiny", "--port", 0)
    assert code != 0 and "sampled by vLLM" in err and len(err.splitlines()) == 1


def _started(path, folder, number):
    """A server in another process, when it has said where it listens; (process, url)."""
    log = folder / f"server_{number}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mmrl", "serve-rollouts", str(path), "--port", "0"], stdout=file, stderr=file
        )
    while " at http" not in log.read_text(encoding="utf-8"):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        time.sleep(0.05)
    return process, log.read_text(encoding="utf-8").split(" at ")[1].strip()


@pytest.mark.slow
@pytest.mark.timeout(1200)  # three processes that import everything
def test_a_training_over_other_processes_of_which_one_is_killed(config, tmp_path):
    """Through the command line. SIGKILL comes when two steps are done; all steps have their groups, none too old."""
    servers = [_started(config(), tmp_path, number) for number in range(2)]
    try:
        path = config([url for _, url in servers], asynchronous={"staleness": 1})
        training = subprocess.Popen(
            [sys.executable, "-m", "mmrl", "train", str(path), "--quiet"],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        metrics = tmp_path / "runs" / "run" / "metrics.jsonl"
        while not metrics.is_file() or len(metrics.read_text(encoding="utf-8").splitlines()) < 2:
            assert training.poll() is None, training.communicate()[0]
            time.sleep(0.02)
        servers[0][0].send_signal(signal.SIGKILL)
        said, _ = training.communicate()
        assert training.returncode == 0, said
        rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
        assert all(row["rollout/age_max"] <= 1 and row["reward/invalid"] == 0 for row in rows)
        assert rows[0]["rollout/servers"] == 2 and rows[-1]["rollout/servers"] == 1
        assert (tmp_path / "runs" / "run" / "report.html").stat().st_size > 1000
    finally:
        for process, _ in servers:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_trainings_of_one_server(config, tmp_path):
    """In processes of their own: the second is refused while the first lives, and takes over when it was killed."""
    server, url = _started(config(), tmp_path, 0)
    steps = {"steps": 500, "optim": {"lr": 1e-4}}
    words = [sys.executable, "-m", "mmrl", "train", str(config(url, **steps)), "--quiet"]
    switches = {"env": os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, "text": True}
    first = subprocess.Popen([*words, "name=first"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **switches)
    try:
        metrics = tmp_path / "runs" / "first" / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text(encoding="utf-8")):
            assert first.poll() is None
            time.sleep(0.05)
        second = [*words, "name=second", "stages.rl.steps=2"]
        refused = subprocess.run(second, capture_output=True, check=False, **switches)
        lines = [line for line in refused.stderr.splitlines() if not line.startswith("warning: ")]
        assert refused.returncode == 1 and len(lines) == 1, refused.stderr
        assert lines[0].startswith(
            f"error: model.engine: rollouts: {url} samples for another run: run 'first' (process"
        )
        assert not (tmp_path / "runs" / "second" / "metrics.jsonl").exists()
        steps_before = len(metrics.read_text(encoding="utf-8").splitlines())
        while len(metrics.read_text(encoding="utf-8").splitlines()) < steps_before + 2:  # it was not disturbed
            assert first.poll() is None
            time.sleep(0.05)
        first.kill()
        first.wait()
        taken = subprocess.run([*second, "--fresh"], capture_output=True, check=False, **switches)
        assert taken.returncode == 0, taken.stderr
    finally:
        for process in (first, server):
            process.kill()
            process.wait()
