"""What one program leaves for the next: nothing. And what ends from outside: nobody's fault, tried again."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from mmrl.sandbox import Limits, Outcome, Sandbox, Status

HERE = Path(__file__).parent
LIMITS = Limits(seconds=20.0, memory_mb=256, output_mb=1, printed_kb=64)

# Reads its own heap, page by page, and looks for Z!Z!Z!Z!..., which is nowhere in its source.
LOOKS = """
import ctypes, re
libc = ctypes.CDLL(None, use_errno=True)
libc.sbrk.restype = ctypes.c_void_p
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
mark = re.compile(rb'(?:Z!){8}')
def held(place):
    return libc.mincore(place, 4096, ctypes.create_string_buffer(1)) == 0
place, found = libc.sbrk(0) - 4096 & ~4095, 0  # the end of the heap, which is in one piece
while held(place):
    found += mark.search(ctypes.string_at(place, 4096)) is not None
    place -= 4096
result = found
"""


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox("bare", LIMITS, path=[str(HERE)]) as one:
        yield one


def test_a_program_finds_nothing_of_those_before_it(sandbox):
    """Of source, argument, result and what they printed none went through the memory of its parent."""
    mark = b"Z!" * 8
    own = sandbox.run([(LOOKS, mark * 5000)])[0]
    assert own.ok and int(own.output) > 0, own  # it would find it
    leaves = f"# {mark.decode()}\nprint('Z!' * 8, flush=True); result = 'Z!' * 4000"
    for _ in range(3):
        assert sandbox.run([(leaves, mark * 5000)])[0].ok
    assert sandbox.run([(LOOKS, b"")])[0].output == b"0"


def children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def killing(sandbox: Sandbox, times: int) -> Outcome:
    """What becomes of a program whose process is ended from outside so often."""
    found: list[Outcome] = []
    source = "import time\nprint('x', flush=True)\ntime.sleep(1.5)\nresult = 1"
    sandbox.start()
    thread = threading.Thread(target=lambda: found.extend(sandbox.run([(source, b"")])))
    thread.start()
    killed: set[int] = set()
    while thread.is_alive():
        template = sandbox._template.process.pid
        line = [program for worker in children(template) for program in children(worker)]
        for pid in line:
            if len(killed) < times and pid not in killed:
                time.sleep(0.2)  # so that it has begun
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    assert len(killed) == times
    return found[0]


def test_a_program_that_is_killed_from_outside_is_tried_again_and_then_lost():
    with Sandbox("bare", LIMITS, path=[str(HERE)]) as sandbox:
        once, twice = killing(sandbox, 1), killing(sandbox, 2)
        assert (once.status, once.output) == (Status.OK, b"1")
        assert (twice.status, twice.output) == (Status.CRASH, b"") and twice.lost
        assert sandbox.run([("result = 2", b"")])[0].output == b"2"


def test_ctrl_c_while_a_worker_answers_leaves_its_place_to_the_next():
    with Sandbox("bare", LIMITS, path=[str(HERE)]) as sandbox:
        assert sandbox.run([("result = 1", b"")])[0].ok
        (worker,) = sandbox._free

        def interrupted(most: int):
            raise KeyboardInterrupt

        worker.take = interrupted
        with pytest.raises(KeyboardInterrupt):
            sandbox.run([("result = 2", b"")])
        assert sandbox._made == 0
        assert sandbox.run([("result = 3", b"")])[0].output == b"3"
