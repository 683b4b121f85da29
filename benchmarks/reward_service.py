"""Load on the reward service over loopback: batches, percentiles, ten times too much, and a client that never finishes.

The model waits a fixed time for a batch and a little for each row, as an accelerator does, so that what is measured is
the service and not a model. Server and clients are processes of their own. Every part lasts a bounded time.

    python benchmarks/reward_service.py
    python benchmarks/reward_service.py --seconds 10 --clients 32
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import httpx2
import psutil

ROOT = Path(__file__).resolve().parents[1]
PER_BATCH_S, PER_ROW_S = 0.02, 0.0005
TEXT = "a" * 2000


class Model:
    """Scores a text by its length, after the time that a batch takes."""

    identity = "benchmark"

    def scores(self, items: list) -> list[float]:
        time.sleep(PER_BATCH_S + PER_ROW_S * len(items))
        return [float(len(candidate.answer)) for _, candidate in items]


def serve(max_batch: int, queue: int) -> None:
    """The server's process."""
    from mmrl.serving.limits import Limits
    from mmrl.serving.model import ServedScorer
    from mmrl.serving.server import serve as run

    limits = Limits(max_batch=max_batch, queue=queue, max_wait=0.005, body_seconds=60, bodies=64 << 20)
    run(ServedScorer(Model(), "length"), limits, port=0, say=lambda line: print(line, flush=True))


class Server:
    """A server in a process, and its memory."""

    def __init__(self, max_batch: int, queue: int) -> None:
        words = [sys.executable, __file__, "--serve", str(max_batch), str(queue)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().rstrip().rpartition(" ")[2]
        self.host, port = self.url.removeprefix("http://").split(":")
        self.port = int(port)

    def memory(self) -> float:
        """MB that it holds."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def load(server: Server, clients: int, rows: int, seconds: float) -> tuple[Counter, list[float]]:
    """(answers by status, seconds of those that were scored) of clients that ask again at once."""
    statuses: Counter[int] = Counter()
    took: list[float] = []
    end = time.monotonic() + seconds
    body = json.dumps({"query": [TEXT] * rows}).encode()

    def client() -> None:
        with httpx2.Client(base_url=server.url, timeout=60, verify=False) as link:
            while time.monotonic() < end:
                start = time.monotonic()
                reply = link.post("/get_reward", content=body, headers={"Content-Type": "application/json"})
                statuses[reply.status_code] += 1
                if reply.status_code == 200:
                    assert reply.json()["rewards"] == [float(len(TEXT))] * rows
                    took.append(time.monotonic() - start)
                else:
                    time.sleep(0.05)  # less than it is told to, so that the load stays above what fits

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses, took


def percentile(values: list[float], share: float) -> float:
    """In milliseconds; NaN without values."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def batching(clients: int, seconds: float) -> None:
    print(f"\n{clients} clients, one row a request\n")
    print("| max_batch | rows/s | p50 ms | p99 ms |\n|---|---|---|---|")
    for max_batch in (1, 8, 32):
        server = Server(max_batch, 1024)
        try:
            load(server, clients, 1, 0.5)
            statuses, took = load(server, clients, 1, seconds)
        finally:
            server.stop()
        p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
        print(f"| {max_batch} | {statuses[200] / seconds:.0f} | {p50:.0f} | {p99:.0f} |")


def overload(clients: int, seconds: float) -> None:
    """Ten times the rows that may wait are asked for at once, all the time."""
    rows = 8
    queue = clients * rows // 10
    server = Server(32, queue)
    try:
        load(server, 2, rows, 1.0)
        before, peak, done = server.memory(), [0.0], threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                peak[0] = max(peak[0], server.memory())

        watching = threading.Thread(target=watch)
        watching.start()
        halves = [load(server, clients, rows, seconds / 2) for _ in range(2)]
        middle = server.memory()
        done.set()
        watching.join()
        health = httpx2.get(server.url + "/health").json()["queue"]
    finally:
        server.stop()
    statuses = halves[0][0] + halves[1][0]
    took = halves[0][1] + halves[1][1]
    print(f"\n{clients} clients x {rows} rows at once, {queue} rows may wait\n")
    print("| 200 | 429 | other | p50 ms | p99 ms | MB before | MB peak | MB after |\n|---|---|---|---|---|---|---|---|")
    other = sum(count for status, count in statuses.items() if status not in (200, 429))
    p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
    print(
        f"| {statuses[200]} | {statuses[429]} | {other} | {p50:.0f} | {p99:.0f} | {before:.0f} | {peak[0]:.0f} "
        f"| {middle:.0f} |"
    )
    print(f"\nafter it {health['rows']} rows wait")


def slow_clients(clients: int, seconds: float, slow: int) -> None:
    """Others beside clients that send half a body and then nothing."""
    print(f"\n{clients} clients, one row a request\n")
    print("| clients that never finish | rows/s | p50 ms | p99 ms |\n|---|---|---|---|")
    for count in (0, slow):
        server = Server(32, 1024)
        links = []
        try:
            for _ in range(count):
                link = socket.create_connection((server.host, server.port))
                head = "POST /get_reward HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9000"
                link.sendall(f"{head}\r\n\r\n".encode() + b"{" * 4000)
                links.append(link)
            load(server, clients, 1, 0.5)
            statuses, took = load(server, clients, 1, seconds)
        finally:
            for link in links:
                link.close()
            server.stop()
        p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
        print(f"| {count} | {statuses[200] / seconds:.0f} | {p50:.0f} | {p99:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--slow", type=int, default=100, help="clients that never finish")
    parser.add_argument("--serve", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    names = ", ".join(f"{name} {version(name)}" for name in ("fastapi", "uvicorn"))
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {names}")
    print(f"the model takes {1000 * PER_BATCH_S:g} ms a batch and {1000 * PER_ROW_S:g} ms a row")
    batching(options.clients, options.seconds)
    overload(4 * options.clients, 2 * options.seconds)
    slow_clients(options.clients, options.seconds, options.slow)


if __name__ == "__main__":
    main()
