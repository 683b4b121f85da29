"""A training whose reward is served: it learns what it learns without the server, and outlives the server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest

from mmrl.training.rollouts.sampling import RewardFailure

ROOT = Path(__file__).parents[2]
# A reward that kills its own process, once, in the middle of the second step.
DEADLY = """
import os, pathlib, signal
import numpy as np

HERE = pathlib.Path(__file__).parent

def brightness(samples):
    calls = HERE / "calls"
    count = len(calls.read_text()) if calls.exists() else 0
    calls.write_text("x" * (count + 1))
    if count == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(np.asarray(s.artifact, dtype=np.float64).mean()) / 255 for s in samples]
"""


class Service:
    """`mmrl serve-reward` in a process of its own, at one port however often it is started."""

    def __init__(self, reward: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.reward, self.url = reward, f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        words = [sys.executable, "-m", "mmrl", "serve-reward", self.reward, "--port", str(self.port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture
def service(tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY, encoding="utf-8")
    running = Service(f"{tmp_path / 'deadly.py'}:brightness")
    yield running
    running.process.kill()
    running.process.wait()


def served(service: Service, **options) -> list[dict]:
    return [{"name": "remote.score", "options": {"url": service.url, "attempts": 1, **options}}]


def weights(config: dict) -> bytes:
    folder = Path(config["out"]) / config["name"] / "checkpoints" / "latest" / "policy"
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*.safetensors")))


@pytest.mark.slow
def test_a_server_that_is_killed_is_waited_for_and_the_weights_are_those_of_a_local_reward(service, tiny, helpers):
    def bring_back() -> None:
        service.process.wait()
        time.sleep(0.3)
        service.start()

    back = threading.Thread(target=bring_back, daemon=True)
    back.start()
    config = tiny(name="served", rewards=served(service, patience=60))
    with pytest.warns(UserWarning, match="trying again for up to 60 s"):
        helpers.train(config)
    back.join(30)
    rows = [json.loads(line) for line in (Path(config["out"]) / "served" / "metrics.jsonl").read_text().splitlines()]
    assert [row["reward/invalid"] for row in rows if "reward/invalid" in row] == [0.0, 0.0]
    local = tiny(name="local")
    helpers.train(local)
    assert weights(config) == weights(local) != b""
    told = httpx2.get(service.url + "/health").json()
    assert told["rewards"] == {"deadly.brightness": ["score"]} and told["queue"]["rated"] > 0
    assert service.said.startswith("serving deadly.brightness (reward, version ")
    assert service.stop() == 0


@pytest.mark.slow
def test_or_the_run_stops_with_one_message_and_goes_on_later(service, tiny, helpers):
    config = tiny(name="served", rewards=served(service, patience=0, when_down="stop"))
    with pytest.raises(RewardFailure, match=r"^remote.score: .*cannot be asked.*; go on with --resume$") as stopped:
        helpers.train(config)
    assert str(stopped.value).count("http://") == 1
    service.process.wait()
    service.start()
    helpers.train(config, resume=True)
    local = tiny(name="local")
    helpers.train(local)
    assert weights(config) == weights(local) != b""


def test_a_server_that_is_down_stops_the_run_with_one_message_whatever_may_be_invalid(tiny, helpers):
    down = {"url": "http://127.0.0.1:9", "attempts": 1, "patience": 0, "when_down": "stop"}
    config = tiny(name="down", rewards=[{"name": "remote.score", "options": down}])
    config["stages"][0]["max_invalid"] = 1.0
    with pytest.raises(RewardFailure, match=r"^remote.score: .*cannot be asked.*; go on with --resume$"):
        helpers.train(config)


def test_a_monitor_that_is_down_is_counted_and_stops_nothing(tiny, helpers):
    down = {"url": "http://127.0.0.1:9", "attempts": 1, "when_down": "stop"}
    monitor = {"name": "remote.score", "weight": 0.0, "options": down}
    config = tiny(name="watched")
    config["rewards"] = [*config["rewards"], monitor]
    helpers.train(config)
    rows = [json.loads(line) for line in (Path(config["out"]) / "watched" / "metrics.jsonl").read_text().splitlines()]
    assert [row["reward/remote.score/invalid"] for row in rows if row.get("reward/invalid") == 0.0] == [1.0, 1.0]
