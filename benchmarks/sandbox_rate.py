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


def sandboxed(sandbox: Sandbox, source: str, count: int) -> float:
    """Programs a second; raises where one is not ok."""
    programs = [(source.format(n), b"") for n in range(count)]
    start = time.perf_counter()
    outcomes = sandbox.run(programs)
    seconds = time.perf_counter() - start
    bad = [outcome for outcome in outcomes if not outcome.ok]
    if bad:
        raise SystemExit(f"{len(bad)} programs are not ok, first {bad[0].status}: {bad[0].reason}")
    return count / seconds


def fresh(source: str, count: int, workers: int) -> float:
    """Programs a second with an interpreter for each, as many at a time."""

    def one(n: int) -> None:
        code = f"import {KERNEL} as cq\n{source.format(n)}"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, range(count)))
    return count / (time.perf_counter() - start)


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
        rates = [sandboxed(plain, PLAIN, given.programs) for _ in range(given.rounds)]
        print(f"plain Python: {median(rates):.0f} programs a second ({min(rates):.0f} to {max(rates):.0f})")
    if find_spec(KERNEL) is None:
        print(f"{KERNEL} is not installed: nothing more is measured")
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rated_runner.py").write_text(RUNNER)
        with Sandbox("rated_runner", Limits(), workers=given.workers, path=[folder]) as sandbox:
            sandboxed(sandbox, BOX, given.workers)
            for name, source in (("a box", BOX), ("a box with a hole and fillets", DRILLED)):
                rounds = [
                    (sandboxed(sandbox, source, given.programs), fresh(source, 2 * given.workers, given.workers))
                    for _ in range(given.rounds)
                ]
                ours, theirs = (median(side) for side in zip(*rounds))
                ratios = [a / b for a, b in rounds]
                print(
                    f"{name}: sandbox {ours:.1f} programs a second, fresh interpreters {theirs:.2f}; "
                    f"ratio {median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f})"
                )


if __name__ == "__main__":
    main()
