"""Programs a second in the sandbox, and how many times a fresh interpreter for each program that is.

Both import CadQuery: the sandbox once, the interpreter each time. The two are measured in turns, so that other work on
the machine weighs on both. Without CadQuery the plain runner is measured alone.

    python benchmarks/sandbox_rate.py --rounds 3 --workers 2
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from mmrl.sandbox import Limits, Sandbox

KERNEL = "cadquery"
RUNNER = f"""
import os
def prepare():
    import {KERNEL}
def execute(source, argument):
    import {KERNEL} as cq
    names = {{"cq": cq}}
    exec(compile(source, "<program>", "exec"), names)
    return str(names["result"]).encode()
"""
BOX = "result = cq.Workplane().box({0} + 1, 2, 3).val().Volume()"
DRILLED = "result = cq.Workplane().box({0} + 9, 20, 30).faces('>Z').hole(4).edges('|Z').fillet(1).val().Volume()"
PLAIN = "print(sum(n * n for n in range({0})))"


def processor_seconds() -> float:
    """Of this process, of all below it, and of those that they have waited for."""
    found, waiting = 0.0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found += sum(int(number) for number in numbers[11:15]) / os.sysconf("SC_CLK_TCK")
        waiting += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found


def sandboxed(sandbox: Sandbox, source: str, count: int) -> tuple[float, float]:
    """Seconds a program: of the clock, and of the processor. Raises where a program is not ok."""
    programs = [(source.format(n), b"") for n in range(count)]
    start, used = time.perf_counter(), processor_seconds()
    outcomes = sandbox.run(programs)
    seconds, used = time.perf_counter() - start, processor_seconds() - used
    bad = [outcome for outcome in outcomes if not outcome.ok]
    if bad:
        raise SystemExit(f"{len(bad)} programs are not ok, first {bad[0].status}: {bad[0].reason}")
    return seconds / count, used / count


def fresh(source: str, count: int, workers: int) -> tuple[float, float]:
    """The same with an interpreter for each program, as many at a time."""

    def one(n: int) -> None:
        code = f"import {KERNEL} as cq\n{source.format(n)}"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    start, used = time.perf_counter(), processor_seconds()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, range(count)))
    return (time.perf_counter() - start) / count, (processor_seconds() - used) / count


def told(name: str, rounds: list[tuple[float, float]], workers: int) -> None:
    clock, processor = (median(side) for side in zip(*rounds))
    rate = workers / processor
    print(f"{name}: {1 / clock:.1f} a second by the clock, {rate:.1f} by processor time on {workers} processors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--programs", type=int, default=100, help="in the sandbox, a round")
    given = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}, Python {platform.python_version()}")
    with Sandbox("mmrl.sandbox.runners.python", Limits(), workers=given.workers) as plain:
        print(f"layers: {plain.start()}")
        sandboxed(plain, PLAIN, given.workers)
        told("plain Python", [sandboxed(plain, PLAIN, given.programs) for _ in range(given.rounds)], given.workers)
    if find_spec(KERNEL) is None:
        print(f"{KERNEL} is not installed: nothing more is measured")
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rated_runner.py").write_text(RUNNER)
        with Sandbox("rated_runner", Limits(), workers=given.workers, path=[folder]) as sandbox:
            sandboxed(sandbox, BOX, given.workers)
            for name, source in (("a box", BOX), ("a box with a hole and fillets", DRILLED)):
                ours, theirs = [], []
                for _ in range(given.rounds):
                    ours.append(sandboxed(sandbox, source, given.programs))
                    theirs.append(fresh(source, 2 * given.workers, given.workers))
                told(f"{name}, sandbox", ours, given.workers)
                told(f"{name}, fresh interpreters", theirs, given.workers)
                for which, what in enumerate(("the clock", "processor time")):
                    ratios = [b[which] / a[which] for a, b in zip(ours, theirs)]
                    print(f"  by {what} {median(ratios):.0f} times as many ({min(ratios):.0f} to {max(ratios):.0f})")


if __name__ == "__main__":
    main()
