"""Does a policy learn as well from servers that sample in the background, and what becomes of a server that is killed?

A small language model learns to say even ids, over two servers that get its weights over gloo: step by step (`sync`),
in the background one and four steps behind, and in the background with a server that is killed and started anew on the
way. Same seeds on all sides; a table of rewards, ages, what was asked again, and seconds.

    python benchmarks/async_rollouts.py                 # servers of benchmarks/policy_server.py
    python benchmarks/async_rollouts.py --vllm          # two vLLM servers, where vLLM is installed
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

import mmrl
from mmrl.modalities.load import adapter_class

ROOT = Path(__file__).resolve().parents[1]
BUILD = {"kind": "qwen2", "hidden": 64, "layers": 2, "heads": 2, "kv_heads": 1, "context": 128, "chat": False}
REWARD = """
def even(samples):
    return [float((s.trajectory.tensors["ids"] % 2 == 0).float().mean()) for s in samples]
"""
ARMS: dict[str, dict[str, Any]] = {
    "sync": {},
    "async 1": {"asynchronous": {"staleness": 1}},
    "async 1, corrected": {"asynchronous": {"staleness": 1}, "algorithm": {"preset": "grpo", "correction": "truncate"}},
    "stale 1": {"staleness": 1},
    "async 4": {"asynchronous": {"staleness": 4}},
    "async 4, corrected": {"asynchronous": {"staleness": 4}, "algorithm": {"preset": "grpo", "correction": "truncate"}},
    "async 1, killed": {"asynchronous": {"staleness": 1}},
}


class Servers:
    """Two of them, each in a process of its own."""

    def __init__(self, base: Path, vllm: bool) -> None:
        self.base, self.vllm = base, vllm
        self.ports = [free_port() for _ in range(2)]
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self.processes = [self.start(place) for place in range(2)]
        for place in range(2):
            self.wait(place)

    def start(self, place: int) -> subprocess.Popen[bytes]:
        port = str(self.ports[place])
        command = [sys.executable, str(ROOT / "benchmarks" / "policy_server.py"), str(self.base), "--port", port]
        if self.vllm:
            command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.base)]
            command += ["--port", port, "--dtype", "float32", "--enforce-eager", "--enable-scale-out"]
            command += ["--logprobs-mode", "processed_logprobs", "--max-model-len", "96"]
            command += ["--weight-transfer-config", '{"backend": "gloo"}', "--kv-cache-memory-bytes", str(64 << 20)]
        switches = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
        switches |= {"VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=os.environ | switches, start_new_session=True, **quiet)

    def wait(self, place: int) -> None:
        until = time.monotonic() + 1200
        while time.monotonic() < until and self.processes[place].poll() is None:
            try:
                urllib.request.urlopen(f"{self.urls[place]}/v1/models", timeout=2).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.2)
        raise RuntimeError(f"server {place} did not come up")

    def kill(self, place: int) -> None:
        os.killpg(self.processes[place].pid, signal.SIGKILL)
        self.processes[place].wait()

    def again(self, place: int) -> None:
        self.processes[place] = self.start(place)

    def close(self) -> None:
        for place in range(2):
            self.kill(place)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def trained(folder: Path, base: Path, servers: Servers, arm: str, seed: int, steps: int) -> list[dict[str, Any]]:
    """The rows of a training."""
    name = f"{arm.replace(' ', '_').replace(',', '')}_{seed}"
    options = {"url": servers.urls, "transfer": "gloo"}
    stage = {"kind": "grpo", "name": "rl", "steps": steps, "groups": 4, "samples": 8, "micro_batch": 1024}
    config = {
        "name": name,
        "seed": seed,
        "out": str(folder / "runs"),
        "modality": "text",
        "model": {
            "path": str(base),
            "chat": "off",
            "sampling": {"max_tokens": 16},
            "engine": {"name": "vllm", "options": {"mode": "server", "options": options}},
        },
        "data": {"prompts": str(folder / "prompts.txt")},
        "rewards": [{"name": f"{folder / 'mine.py'}:even"}],
        "stages": [{**stage, "optim": {"lr": 0.003}, **ARMS[arm]}],
        "threads": 1,
        "device": "cpu",
    }
    over = threading.Event()
    killer = threading.Thread(target=come_and_go, args=(servers, over, folder / "runs" / name / "metrics.jsonl", steps))
    if "killed" in arm:
        killer.start()
    try:
        mmrl.train(config, quiet=True)
    finally:
        over.set()
        if "killed" in arm:
            killer.join()
            for place in range(2):
                servers.wait(place)
    lines = (folder / "runs" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def come_and_go(servers: Servers, over: threading.Event, metrics: Path, steps: int) -> None:
    """A server is killed when a third of the steps are done, and started anew at once."""
    while not over.wait(0.1):
        if metrics.is_file() and len(metrics.read_text(encoding="utf-8").splitlines()) >= steps // 3:
            servers.kill(1)
            servers.again(1)
            return


def table(rows: dict[str, list[list[dict[str, Any]]]]) -> str:
    """Markdown: means over seeds, and their spread."""
    head = "| | reward, first 3 steps | last 5 | age, mean / most | dropped | asked again | waited / step, s |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for arm, runs in rows.items():
        first = mean(mean(row["reward/mean"] for row in run[:3]) for run in runs)
        last = [mean(row["reward/mean"] for row in run[-5:]) for run in runs]
        spread = f" ± {stdev(last):.3f}" if len(last) > 1 else ""
        age = mean(row.get("rollout/age", 0.0) for run in runs for row in run)
        most = max(row.get("rollout/age_max", 0.0) for run in runs for row in run)
        dropped = sum(row.get("rollout/dropped", 0.0) for run in runs for row in run)
        again = sum(run[-1].get("rollout/asked_again", 0.0) for run in runs)
        waited = mean(row.get("time/rollout", 0.0) for run in runs for row in run[1:])
        step = mean(row["time/step"] for run in runs for row in run[1:])
        cells = [arm, f"{first:.3f}", f"{mean(last):.3f}{spread}", f"{age:.2f} / {most:.0f}", f"{dropped:.0f}"]
        cells += [f"{again:.0f}", f"{waited:.2f} / {step:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def paired(rows: dict[str, list[list[dict[str, Any]]]], width: int = 5) -> str:
    """Markdown: each arm's reward less that of `sync` with the same seed, the mean and its standard error over seeds.

    After the same number of updates; and against `sync` a step before, as what is learned from in the background was
    sampled a step before: the curve that is the same but for that has 0 there.
    """
    curves = {arm: [[row["reward/mean"] for row in run] for run in runs] for arm, runs in rows.items()}
    steps = min(len(curve) for some in curves.values() for curve in some)
    starts = range(width, steps - width + 1, 2 * width)
    lines = ["| steps | " + " | ".join(f"{start + 1} to {start + width}" for start in starts) + " |"]
    lines.append("|---" * (len(starts) + 1) + "|")
    for arm, some in curves.items():
        levels = [[mean(curve[start : start + width]) for curve in some] for start in starts]
        told = [f"{mean(level):.3f} ± {stdev(level):.3f}" for level in levels]
        lines.append(f"| {arm} | {' | '.join(told)} |")
        for behind in (0, 1) if arm != "sync" else ():
            gaps = [
                [
                    mean(c[at : at + width]) - mean(s[at - behind : at - behind + width])
                    for c, s in zip(some, curves["sync"])
                ]
                for at in starts
            ]
            told = [f"{mean(gap):+.3f} ± {stdev(gap) / len(gap) ** 0.5:.3f}" for gap in gaps]
            lines.append(f"| less sync{', a step before' if behind else ''} | {' | '.join(told)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rows", type=Path, help="A file for every run's rewards, step by step, as JSON.")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    told = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "mine.py").write_text(REWARD, encoding="utf-8")
        words = ["one", "two", "three", "four", "five"]
        (folder / "prompts.txt").write_text(
            "\n".join(f"say {a} and {b}" for a in words for b in words), encoding="utf-8"
        )
        kind = adapter_class("text")
        kind(kind.Config(path="built", build=BUILD, chat="off", sampling={"max_tokens": 16})).save(folder / "base")
        servers = Servers(folder / "base", told.vllm)
        rows: dict[str, list[list[dict[str, Any]]]] = {arm: [] for arm in told.arms}
        try:
            for seed in range(told.seeds):
                for arm in told.arms:
                    start = time.monotonic()
                    rows[arm].append(trained(folder, folder / "base", servers, arm, seed, told.steps))
                    if told.rows:
                        rewards = {a: [[row["reward/mean"] for row in run] for run in some] for a, some in rows.items()}
                        told.rows.write_text(json.dumps(rewards), encoding="utf-8")
                    last = mean(row["reward/mean"] for row in rows[arm][-1][-5:])
                    print(f"{arm}, seed {seed}: {last:.3f} at the end, {time.monotonic() - start:.0f} s", flush=True)
                print(table(rows), flush=True)
            if told.seeds > 1 and "sync" in rows:
                print(paired(rows))
        finally:
            servers.close()


if __name__ == "__main__":
    main()
