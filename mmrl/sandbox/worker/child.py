"""The fork that runs one program: it gives up everything, runs it, writes one message, and ends."""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
import sys
from types import ModuleType
from typing import NoReturn, TextIO

from ..outcome import Refused, Status, is_status, one_line
from .confine import Confinement, die_with, enter
from .frames import packed, receive

RESULT = 3  # the descriptor that the message goes to
CONFINED, UNCONFINED = b"+", b"-"  # its first byte, written before the program can write any
_RULES = 4


def become(
    program: socket.socket,
    runner: ModuleType,
    files: tuple[int, int, int],
    how: Confinement,
    limits: dict[str, float],
    processes: int,
    parent: int,
) -> NoReturn:
    """Never returns. program: where its source and argument come from. files: descriptors that become standard output,
    error, and the result's."""
    status = 70
    try:
        os.setsid()
        die_with(parent)
        _go_first()
        most = (int(limits["source_kb"]) << 10) + (int(limits["argument_mb"]) << 20)
        _, (source, argument) = receive(program, most)
        _keep_only((_holding(argument), *files), how)
        own = Confinement(_RULES if how.rules >= 0 else -1, how.program, how.why)
        why = enter(own, limits["seconds"], int(limits["memory_mb"]), int(limits["files"]), processes)
        if failed := sorted(set(why) - set(how.why)):  # what the worker could enter, a fork of it can
            _write(UNCONFINED + one_line(f"{failed[0]}: {why[failed[0]]}").encode())
        else:
            if how.rules >= 0:
                os.close(_RULES)
            _write(CONFINED)
            header, output = _run(runner, source, argument, int(limits["output_mb"]) << 20)
            _flush()
            _write(packed(header, [output]))
            status = 0
    finally:
        os._exit(status)


def _holding(data: bytes) -> int:
    """A descriptor of memory with the data, at its beginning: standard input that needs nobody to write it."""
    place = os.memfd_create("argument", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(place, view) :]
    os.lseek(place, 0, os.SEEK_SET)
    return place


def _go_first() -> None:
    """When memory runs out the kernel ends this process, and neither the worker nor the trainer."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:  # a container without a writable /proc: then the kernel chooses
        return


def _keep_only(files: tuple[int, int, int, int], how: Confinement) -> None:
    """Nothing else that the worker has open, and none of it under another number."""
    kept = [*files, how.rules] if how.rules >= 0 else [*files]
    high = [_above(descriptor, 64) for descriptor in kept]
    for place, descriptor in enumerate(high):
        os.dup2(descriptor, place)  # inheritable, which nothing here can make use of: execve is refused
    os.closerange(len(kept), 4096)
    os.chdir("/")
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and raises instead
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _above(descriptor: int, least: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, least)


def _open_standard() -> None:
    """Python's own objects for what was given and what is printed, by whichever name a program takes them."""
    given: TextIO = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    printed: TextIO = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    for name, file in (("stdin", given), ("stdout", printed)):
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)


def _same_chance() -> None:
    """Each program begins with the same random numbers, today and tomorrow: a reward is what it was."""
    random.seed(0)  # Python gives every fork others
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed(0)


def _run(runner: ModuleType, source: bytes, argument: bytes, most: int) -> tuple[dict[str, str], bytes]:
    _open_standard()
    _same_chance()
    try:
        output = runner.execute(source.decode("utf-8", "surrogatepass"), argument)
        if not isinstance(output, bytes):
            return _told(Status.NO_RESULT, f"the runner returned a {type(output).__name__}, expected bytes"), b""
        if len(output) > most:
            return _told(Status.OUTPUT, f"the result has {len(output)} bytes, {most} are allowed"), b""
        return _told(Status.OK), output
    except Refused as refused:
        if is_status(refused.status):
            return _told(refused.status, refused.reason), b""
        return _told(Status.EXCEPTION, f"the runner refused with the status {refused.status!r:.40}"), b""
    except MemoryError:
        gc.collect()
        return _told(Status.MEMORY, "MemoryError"), b""
    except (SyntaxError, UnicodeEncodeError) as error:
        return _told(Status.SYNTAX, _words(error)), b""
    except SystemExit as error:
        return _told(Status.EXCEPTION, f"SystemExit: {error.code!r:.80}"), b""
    except BaseException as error:
        return _told(Status.EXCEPTION, _words(error)), b""


def _told(status: str, reason: str = "") -> dict[str, str]:
    return {"status": str(status), "reason": one_line(reason)}


def _words(error: BaseException) -> str:
    """The exception in a line, with the line of the program that raised it."""
    try:
        said = f"{type(error).__name__}: {error}"[:400]
    except Exception:
        said = type(error).__name__
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<program>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return said if line is None else f"line {line}: {said}"


def _flush() -> None:
    try:
        sys.stdout.flush()
    except Exception:  # the program's own
        return


def _write(message: bytes) -> None:
    view = memoryview(message)
    while view:
        view = view[os.write(RESULT, view) :]
