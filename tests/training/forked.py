"""Runs a script in some processes over gloo: `python forked.py COUNT [float64] SCRIPT ARGUMENT ...`.

They are forked, so that torch is imported once; where one fails the others are ended, and that is the exit code.
float64: everything that mmrl, torch and the models' libraries ask to be float32 is float64 (all_float64.py).
"""

from __future__ import annotations

import sys

if sys.argv[2] == "float64":
    import all_float64  # noqa: F401  before what keeps torch.float32

import os
import runpy
import signal
import socket
import time

import accelerate
import torch._dynamo
import transformers.models.auto.modeling_auto

import mmrl.training.assemble
import mmrl.training.loop  # loaded once, before the forks

IMPORTED = (accelerate, torch._dynamo, transformers.models.auto.modeling_auto, mmrl.training.assemble)


def main(count: int, script: str, words: list[str]) -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    left = {}
    for rank in range(count):
        child = os.fork()
        if child == 0:
            if count > 1:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
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
    words = [word for word in sys.argv[2:3] if word != "float64"] + sys.argv[3:]
    sys.exit(main(int(sys.argv[1]), words[0], words[1:]))
