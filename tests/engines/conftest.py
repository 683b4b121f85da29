"""Servers: one that stands in for vLLM, and a `vllm serve` for the tests that are marked `vllm`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from standin_server import Fake

import mmrl  # noqa: F401  before transformers: it hooks the import of torchvision

SWITCHES = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """serve(folder, *arguments) -> the address of a server of the model in `folder`, once it answers."""
    log = tmp_path_factory.mktemp("serve") / "server.log"
    started: list[subprocess.Popen] = []
    environment = os.environ | SWITCHES | _with_plugin(tmp_path_factory.mktemp("plugin"))

    def start(folder: Path, *arguments: str, port: str | None = None) -> str:
        if port is None:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = str(s.getsockname()[1])
        # What `vllm serve` runs; the command itself asks for metadata that the CPU build keeps under another name.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", port]
        command += ["--dtype", "float32", "--enforce-eager", "--enable-scale-out"]
        command += ["--logprobs-mode", "processed_logprobs", *arguments]
        command += [] if torch.cuda.is_available() else ["--kv-cache-memory-bytes", str(64 << 20)]
        with log.open("a") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        started.append(process)  # threads start several at once
        url = _answering(process, f"http://127.0.0.1:{port}", log)
        processes[url] = process
        return url

    processes: dict[str, subprocess.Popen] = {}
    start.processes = processes  # type: ignore[attr-defined]
    yield start
    for process in started:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def text_server(serve: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(address, folder) of a tiny text model that is served with room for adapters, to all tests that want one."""
    from mmrl.modalities.text.adapter import TextAdapter
    from mmrl.modalities.text.config import ModelConfig

    base = tmp_path_factory.mktemp("text") / "base"
    build = {"kind": "qwen2", "hidden": 64, "layers": 2, "heads": 2, "kv_heads": 1, "context": 128, "chat": False}
    TextAdapter(ModelConfig(path="built", build=build, chat="off", sampling={"max_tokens": 16})).save(base)
    return serve(base, "--max-model-len", "96", "--enable-lora", "--max-lora-rank", "8"), base


def _with_plugin(folder: Path) -> dict[str, str]:
    """What lets a server find the plug-in for gloo, where mmrl was installed before it had one."""
    if any(point.name == "mmrl_gloo" for point in entry_points(group="vllm.general_plugins")):
        return {}
    about = folder / "mmrl_gloo-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mmrl-gloo\nVersion: 0\n", encoding="utf-8")
    point = "[vllm.general_plugins]\nmmrl_gloo = mmrl.engines.vllm_gloo:register\n"
    (about / "entry_points.txt").write_text(point, encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def _answering(process: subprocess.Popen, url: str, log: Path) -> str:
    deadline = time.monotonic() + 900
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return url
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise RuntimeError(f"the server did not come up: {log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    from transformers import Qwen2Config

    path = tmp_path_factory.mktemp("tied")
    Qwen2Config(vocab_size=32, hidden_size=64, tie_word_embeddings=True).save_pretrained(path)
    return path


@pytest.fixture
def server():
    fake = Fake()
    thread = threading.Thread(target=fake.serve_forever, args=(0.01,))
    thread.start()
    yield fake
    fake.shutdown()
    thread.join()
    fake.server_close()


@pytest.fixture
def served() -> Iterator[Callable[..., list[Any]]]:
    """served(adapter, n) -> n servers with the adapter's model; all are ended behind the test."""
    from rollout_servers import Served

    running: list[Any] = []

    def start(adapter: Any, n: int = 1, port: int = 0, **options: Any) -> list[Any]:
        running.extend(Served(adapter, port, **options) for _ in range(n))
        return running[-n:]

    yield start
    for server in running:
        if not server.dead:
            server.kill()
