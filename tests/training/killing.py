"""Trains in two processes, one of which is killed at the N-th time that it meets the other or the disk.

    python tests/training/killing.py FOLDER MOMENTS [saving]

FOLDER holds config.yaml. saving: only at moments at which something is written. They are forked, so that torch is
imported once. Prints what happened, one object a line.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import torch
import torch._dynamo
import torch.distributed as dist
import transformers.models.auto.modeling_auto

import mmrl.training.assemble
import mmrl.training.loop
from mmrl.cli import main
from mmrl.training import pieces
from mmrl.training.processes import Processes

IMPORTED = (accelerate, torch._dynamo, mmrl.training.assemble, mmrl.training.loop, transformers.models.auto)
HUNG = 300.0  # seconds behind which a process that does not end is ended by the test


def train(place: Path, name: str, rank: int, port: int, words: list[str], at: int, saving: bool) -> None:
    """In a child: `mmrl train`, and what it passed is left in NAME.RANK.passed. at: where it is killed; 0: nowhere."""
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(place / f"{name}.{rank}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    passed = [0]

    def counting(function: Callable[..., Any], spoil: Callable[..., Any] = lambda *_: None) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            passed[0] += 1
            if passed[0] == at:
                spoil(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    if not saving:
        Processes.reduce = counting(Processes.reduce)  # type: ignore[method-assign]
        dist.all_gather_into_tensor = counting(dist.all_gather_into_tensor)  # of FSDP, in the middle of a model
        dist.reduce_scatter_tensor = counting(dist.reduce_scatter_tensor)
    os.replace, os.rename, os.fsync = counting(os.replace), counting(os.rename), counting(os.fsync)
    pieces.save_file = counting(pieces.save_file, lambda _, path: Path(path).write_bytes(b"half of a file"))
    sys.argv = ["mmrl", "train", str(place / "config.yaml"), f"name={name}", "--quiet", *words]
    try:
        main()
    finally:
        (place / f"{name}.{rank}.passed").write_text(str(passed[0]), encoding="utf-8")
        sys.stdout.flush()
        sys.stderr.flush()


def both(
    place: Path, name: str, words: list[str], rank: int = 0, at: int = 0, saving: bool = False
) -> tuple[list[int | None], float]:
    """(exit codes of both, None for one that hung; seconds from the first that ended to the second)."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    pids = {}
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                train(place, name, number, port, words, at if number == rank else 0, saving)
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            finally:
                os._exit(code)
        pids[pid] = number
    codes: list[int | None] = [None, None]
    ends: list[float] = []
    while pids and (not ends or time.monotonic() - ends[0] < HUNG):
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[pids.pop(pid)] = os.waitstatus_to_exitcode(status)
            ends.append(time.monotonic())
        time.sleep(0.01)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return codes, ends[-1] - ends[0] if len(ends) == 2 else HUNG


def run(place: Path, moments: int, saving: bool) -> None:
    torch.set_num_threads(1)
    whole, _ = both(place, "whole", [], saving=saving)
    print(json.dumps({"whole": whole}), flush=True)
    counts = [int((place / f"whole.{rank}.passed").read_text(encoding="utf-8")) for rank in range(2)]
    for moment in range(moments):
        rank, name = moment % 2, f"killed_{moment}"
        at = 1 + int((moment + 0.5) * counts[rank] / moments)
        codes, lag = both(place, name, [], rank, at, saving)
        said = (place / f"{name}.{1 - rank}.err").read_text(encoding="utf-8")
        saved = (place / "runs" / name / "checkpoints" / "latest").exists()
        after, _ = both(place, name, ["--resume"] if saved else ["--fresh"])
        told = {"moment": at, "of": counts[rank], "rank": rank, "codes": codes, "lag": lag, "saved": saved}
        line = json.dumps({**told, "said": said, "after": after, "name": name})
        print(line, flush=True)
        with (place / "told.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), "saving" in sys.argv[3:])
