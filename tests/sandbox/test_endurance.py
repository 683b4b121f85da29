"""Ten thousand programs that nobody wrote: memory stays flat, nothing is left behind, every outcome has its program."""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from mmrl.sandbox import Limits, Sandbox, Status

PROGRAMS, BATCH = 10_000, 250
STATUSES = {str(status) for status in Status}
WORDS = [
    *("x", "y", "f", "print", "(", ")", "[", "]", "{", "}", ":", "=", "+", "-", "*", "**", "/", "%", ",", ".", "if"),
    *("else", "for", "in", "while", "lambda", "def", "return", "import", "os", "sys", "range", "int", "\n", "\n ", "1"),
    *("10**9", "'a'", "input()", "\\", "\0", "é", "\ud800", "[0]", "len", "open", "__import__", "#"),
]


def program(rng: random.Random, place: int) -> tuple[str, str | None]:
    """(source, what it must print, or None where nobody knows)."""
    kind = rng.random()
    if kind < 0.4:  # a calculation that is known
        a, b = rng.randrange(10**6), rng.randrange(10**6)
        return f"print({a} * {b} + {place})", f"{a * b + place}\n"
    if kind < 0.7:  # words in any order
        return " ".join(rng.choices(WORDS, k=rng.randrange(1, 60))), None
    if kind < 0.8:  # bytes
        return bytes(rng.randrange(256) for _ in range(rng.randrange(200))).decode("latin-1"), None
    source = rng.choice(
        [
            "x = bytearray(1 << 28)",
            "import os\nos._exit({0} % 256)",
            "import os\nos.write(3, b'{0}')",
            "import os\nos.close(3)",
            "import threading\nfor n in range(9): threading.Thread(target=print, args=(n,)).start()",
            "print('x' * {0})",
            "def f(): f()\nf()",
            "raise ValueError({0})",
            "open('/tmp/{0}', 'w')",
            "import sys\nsys.exit({0})",
            "x = []\nfor n in range({0}): x = [x]\nprint(x)",
        ]
    )
    return source.format(rng.randrange(10**5)), None


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_programs():
    rng = random.Random(15)
    temporary, shared_memory = set(os.listdir(tempfile.gettempdir())), set(os.listdir("/dev/shm"))
    descriptors = len(os.listdir("/proc/self/fd"))
    counts: Counter[str] = Counter()
    lines: list[tuple[float, float]] = []
    limits = Limits(seconds=1.0, memory_mb=128, output_mb=1, printed_kb=256)
    with Sandbox("mmrl.sandbox.runners.python", limits, workers=2) as sandbox:
        sandbox.start()
        template = sandbox._template.process.pid
        for start in range(0, PROGRAMS, BATCH):
            made = [program(rng, start + n) for n in range(BATCH)]
            outcomes = sandbox.run([(source, b"") for source, _ in made])
            for (source, expected), outcome in zip(made, outcomes, strict=True):
                assert outcome.status in STATUSES, outcome
                assert outcome.ok or outcome.reason, outcome
                if expected is not None:
                    assert (outcome.status, outcome.printed.decode()) == ("ok", expected), source
                counts[outcome.status] += 1
            workers = children(template)
            assert len(workers) == 2 and sum(len(children(worker)) for worker in workers) <= 1  # the last one's, ending
            lines.append((resident_mb(os.getpid()), max(resident_mb(worker) for worker in workers)))
        assert template == sandbox._template.process.pid
    print(f"\n{dict(counts)}\nMB of this process and its workers: {lines[1]} at {2 * BATCH}, {lines[-1]} at {PROGRAMS}")
    for first, last in zip(lines[1], lines[-1]):
        assert last - first < 3.0
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not {name for name in set(os.listdir("/dev/shm")) - shared_memory if "mmrl" in name or "tmp" in name}
    assert not {name for name in set(os.listdir(tempfile.gettempdir())) - temporary if name.isdigit()}
    assert not [pid for pid in children(os.getpid()) if pid == template]
