"""The process that imports the runner's kernel once, and forks a worker for each socket that it is sent.

It is started as a program of its own, by any interpreter: never a fork of the trainer, which has threads and devices.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ..outcome import one_line
from . import frames
from .confine import LAYERS, Confinement, enter, leaks, prepared
from .serve import Worker

_TICK = 1.0  # seconds between two looks at whether our parent lives
_NOBODY = "_mmrl_no_such_module"


def main(descriptor: int, told: str) -> None:
    """descriptor: our end of the socket. told: {"runner", "path", "reads", "limits"} in JSON."""
    control = socket.socket(fileno=descriptor)
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's, which then closes us
    settings = json.loads(told)
    try:
        runner = _runner(settings["runner"], settings["path"])
        how = prepared([*settings["reads"], *getattr(runner, "READS", ())])
        processes = _processes() + int(settings["limits"]["threads"])
        layers = _tried(how, settings["limits"], processes)
    except BaseException as error:
        frames.send(control, {"error": one_line(f"{type(error).__name__}: {error}")})
        raise
    gc.collect()
    gc.freeze()  # so that collecting in a fork does not copy pages
    frames.send(control, {"layers": layers, "python": sys.version.split()[0]})
    os.dup2(1, 2)  # what a program says on standard error nobody reads
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers that end leave no zombie
    missing = {name: why for name, why in layers.items() if why}
    how = Confinement(how.rules, how.program, missing)
    while True:
        while not select.select([control], [], [], _TICK)[0]:
            if os.getppid() != parent:
                return
        _, sockets, _, _ = socket.recv_fds(control, 1, 1)
        if not sockets:
            break
        for one in sockets:
            if os.fork() == 0:
                control.close()
                _work(Worker(socket.socket(fileno=one), runner, how, settings["limits"], processes))
            os.close(one)
    control.close()
    try:
        os.waitpid(-1, 0)  # returns when the last of them is gone
    except ChildProcessError:
        return


def _work(worker: Worker) -> None:
    """In the fork: serve until the socket is closed, and end."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        worker.serve()
    finally:
        os._exit(0)


def _runner(name: str, path: list[str]) -> ModuleType:
    sys.path += path
    runner = importlib.import_module(name)
    for needed in ("prepare", "execute"):
        if not callable(getattr(runner, needed, None)):
            raise TypeError(f"the runner {name} has no function {needed}")
    runner.prepare()
    # Listings of all folders of sys.path are kept from here on: a program may import what they hold, and not list them.
    importlib.util.find_spec(_NOBODY)
    return runner


def _tried(how: Confinement, limits: dict[str, Any], processes: int) -> dict[str, str]:
    """For each layer why it is not there, "" where it is: tried in a fork, with what each must stop."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            why = enter(how, limits["seconds"], int(limits["memory_mb"]), int(limits["files"]), processes)
            found = {**{layer: why_not for layer, why_not in leaks().items() if layer not in why}, **why}
            os.write(writer, json.dumps({name: one_line(found.get(name, "")) for name in LAYERS}).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read()
    os.waitpid(pid, 0)
    if not said:
        return dict.fromkeys(LAYERS, "the fork that tried it was killed")
    return json.loads(said)


def _processes() -> int:
    """Threads that this user has, which RLIMIT_NPROC counts."""
    count = 0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if place.stat().st_uid == os.getuid():
                count += len(list((place / "task").iterdir()))
        except OSError:
            continue
    return count
