"""Runs a script in two processes over gloo: `python forked_pair.py SCRIPT ARGUMENT ...`.

They are forked, so that torch is imported once; where one fails the other is ended, and that is the exit code.
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import sys
import time

import accelerate
import torch._dynamo
import transformers.models.auto.modeling_auto

import mmrl.training.assemble
import mmrl.training.loop  # loaded once, before the forks

IMPORTED = (accelerate, torch._dynamo, transformers.models.auto.modeling_auto, mmrl.training.assemble)


def main(script: str, words: list[str]) -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    left = {}
    for rank in range(2):
        child = os.fork()
        if child == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
            os.environ["MASTER_PORT"] = str(port)
            sys.argv = [script, *words]
            runpy.run_path(script, run_name="__main__")
            sys.exit(0)
        left[child] = rank
    worst = 0
    while left:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            time.sleep(0.02)
            continue
        del left[child]
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            worst = worst or abs(code)
            for other in left:
                os.kill(other, signal.SIGTERM)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
