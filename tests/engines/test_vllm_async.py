"""The text default over two real servers that sample in the background, one of which is killed on the way.

Run with `make test-vllm`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mmrl
from mmrl.share import resolve

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(2400),  # the first import compiles and reads gigabytes
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
FLAGS = ("--weight-transfer-config", '{"backend": "gloo"}', "--max-model-len", "128")
STEPS, GROUPS, SAMPLES = 8, 4, 8


def test_the_text_default_loses_no_group_with_a_server(serve, tmp_path):
    base = resolve("share://assets/text-tiny")
    with ThreadPoolExecutor(2) as both:
        urls = list(both.map(lambda _: serve(base, *FLAGS), range(2)))
    metrics = tmp_path / "run" / "metrics.jsonl"
    over = threading.Event()

    def come_and_go():
        while not over.wait(0.1):
            if metrics.is_file() and metrics.read_text(encoding="utf-8").count("\n") >= 2:
                os.killpg(serve.processes[urls[1]].pid, signal.SIGKILL)
                serve.processes[urls[1]].wait(30)
                serve(base, *FLAGS, port=urls[1].rpartition(":")[2])
                return

    killer = threading.Thread(target=come_and_go)
    killer.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mmrl.train(
                "text/tiny",
                quiet=True,
                name="run",
                out=str(tmp_path),
                threads=1,
                device="cpu",
                model__engine__name="vllm",
                model__engine__options={"mode": "server", "options": {"url": urls, "transfer": "gloo"}},
                stages__grpo__steps=STEPS,
                stages__grpo__groups=GROUPS,
                stages__grpo__samples=SAMPLES,
                stages__grpo__asynchronous={"staleness": 1},
                eval__prompts=8,
                report__samples_every=0,
            )
    finally:
        over.set()
        killer.join()
    rows = [json.loads(line) for line in Path(metrics).read_text(encoding="utf-8").splitlines()]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    print([(row["rollout/age"], row["rollout/servers"], row["rollout/asked_again"]) for row in rows])
    assert len(rows) == STEPS and summary["samples"] == STEPS * GROUPS * SAMPLES
    assert all(row["rollout/age_max"] <= 1 for row in rows)
    assert min(row["rollout/servers"] for row in rows) == 1
