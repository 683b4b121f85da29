"""A sandbox runs programs and tells what became of each: statuses, workers that die, forks, threads, ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from every import every

from mmrl.sandbox import Limits, Sandbox, SandboxError, Status

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMITS = Limits(seconds=20.0, memory_mb=256, output_mb=1, printed_kb=64, source_kb=16)
QUICK = Limits(seconds=0.5, memory_mb=256, output_mb=1, printed_kb=64, source_kb=16)


def made(limits: Limits = LIMITS, **more) -> Sandbox:
    return Sandbox("bare", limits, path=[str(HERE)], **more)


@pytest.fixture(scope="module")
def sandbox():
    with made(workers=2) as one:
        yield one


def one(sandbox: Sandbox, source: str, argument: bytes = b""):
    return sandbox.run([(source, argument)])[0]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    until = time.monotonic() + 20
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


STATUSES = {
    "a value": ("result = 6 * 7", Status.OK, b"42", ""),
    "nothing": ("", Status.OK, b"", ""),
    "no grammar": ("def f(:", Status.SYNTAX, b"", "SyntaxError: invalid syntax"),
    "a null byte": ("x = 1\0", Status.SYNTAX, b"", "null bytes"),
    "half a surrogate": ("x = '\ud800'", Status.SYNTAX, b"", "surrogates not allowed"),
    "brackets without end": ("(" * 5000, Status.SYNTAX, b"", "too many nested parentheses"),
    "an exception": ("\n1 / 0", Status.EXCEPTION, b"", "line 2: ZeroDivisionError: division by zero"),
    "an exception with lines": ("raise ValueError('a\\nb\\x07')", Status.EXCEPTION, b"", "line 1: ValueError: a b?"),
    "an exit": ("raise SystemExit(3)", Status.EXCEPTION, b"", "SystemExit: 3"),
    "recursion": ("f = lambda: f()\nf()", Status.EXCEPTION, b"", "RecursionError"),
    "memory": ("x = bytearray(1 << 30)", Status.MEMORY, b"", "MemoryError"),
    "a list of memory": ("x = [0] * (1 << 28)", Status.MEMORY, b"", "MemoryError"),
    "a long result": ("result = 'a' * (2 << 20)", Status.OUTPUT, b"", "the result has 2097152 bytes"),
    "much printed": ("while True: print('a' * 999)", Status.OUTPUT, b"", "what it printed is over 64 KiB"),
    "a fault": ("import ctypes; ctypes.string_at(0)", Status.CRASH, b"", "killed by SIGSEGV"),
    "a stack that overflows": (
        "x = ()\nfor n in range(10**6): x = (x,)\nhash(x)",
        Status.CRASH,
        b"",
        "killed by SIGSEGV",
    ),
    "an end of its own": ("import os; os._exit(3)", Status.CRASH, b"", "it ended by itself with 3"),
    "a good end of its own": ("import os; os._exit(0)", Status.NO_RESULT, b"", "it ended by itself with 0"),
    "too long": ("#" * (17 << 10), Status.BLOCKED, b"", "a program of 17 KiB, 16 are allowed"),
}


@every("source, status, output, reason", STATUSES.values(), ids=STATUSES)
def test_each_end_of_a_program_has_its_status_and_a_reason_of_one_line(sandbox, source, status, output, reason):
    found = one(sandbox, source)
    assert (found.status, found.output) == (status, output)
    assert reason in found.reason and "\n" not in found.reason and bool(reason) == bool(found.reason)


WRITES = "import json, os\ndef says(h): h = json.dumps(h).encode(); os.write(3, len(h).to_bytes(4, 'big') + h)\n"
GOOD = "{'status': 'ok', 'reason': '', 'sizes': [3]}"
# What a program writes to the result's pipe by itself, and what is made of it.
PIPE = {
    "half a length": ("os.write(3, b'\\0\\0'); os._exit(0)", Status.NO_RESULT, b""),
    "half a header": ("os.write(3, b'\\0\\0\\0\\x40{'); os._exit(0)", Status.NO_RESULT, b""),
    "a header of gigabytes": ("os.write(3, b'\\xff' * 9); os._exit(0)", Status.NO_RESULT, b""),
    "a header that is no JSON": ("os.write(3, b'\\0\\0\\0\\x02[x'); os._exit(0)", Status.NO_RESULT, b""),
    "a header of brackets": ("os.write(3, b'\\0\\0\\x0f\\xa0' + b'[' * 4000); os._exit(0)", Status.NO_RESULT, b""),
    "a header without sizes": ("says({'status': 'ok'}); os._exit(0)", Status.NO_RESULT, b""),
    "sizes below nothing": ("says({'status': 'ok', 'reason': '', 'sizes': [-1]}); os._exit(0)", Status.NO_RESULT, b""),
    "sizes of terabytes": (
        "says({'status': 'ok', 'reason': '', 'sizes': [1 << 40]}); os._exit(0)",
        Status.NO_RESULT,
        b"",
    ),
    "no status": ("says({'status': 1, 'reason': '', 'sizes': [0]}); os._exit(0)", Status.NO_RESULT, b""),
    "a status in capitals": ("says({'status': 'OK!', 'reason': '', 'sizes': [0]}); os._exit(0)", Status.NO_RESULT, b""),
    "fewer bytes": (f"says({GOOD}); os.write(3, b'ab'); os._exit(0)", Status.NO_RESULT, b""),
    "more bytes": (f"says({GOOD}); os.write(3, b'abcd'); os._exit(0)", Status.NO_RESULT, b""),
    "two results": (f"says({GOOD}); os.write(3, b'abc')", Status.NO_RESULT, b""),
    "a result and a bad end": (f"says({GOOD}); os.write(3, b'abc'); os._exit(1)", Status.CRASH, b""),
    "a result and a loop": (f"says({GOOD}); os.write(3, b'abc')\nwhile True: pass", Status.TIMEOUT, b""),
    "a closed pipe": ("os.close(3)", Status.CRASH, b""),
    "another pipe in its place": ("os.dup2(1, 3)", Status.NO_RESULT, b""),
    # As good as one that the runner returns: whoever asks for it measures it.
    "a whole result": (f"says({GOOD}); os.write(3, b'abc'); os._exit(0)", Status.OK, b"abc"),
}


@every("source, status, output", PIPE.values(), ids=PIPE)
def test_what_a_program_writes_to_the_pipe_is_no_more_than_a_result(sandbox, source, status, output):
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(made(QUICK)) if status == Status.TIMEOUT else sandbox
        found = one(asked, WRITES + source)
        assert (found.status, found.output) == (status, output), found
        assert one(asked, "result = 1").output == b"1"


def test_a_program_that_takes_too_long_is_killed():
    with made(QUICK) as quick:
        closes = "import os\nos.closerange(0, 9)\nwhile True: pass"
        for source in ("while True: pass", "import time; time.sleep(99)", closes):
            found = one(quick, source)
            assert (found.status, found.reason) == (Status.TIMEOUT, "over 0.5 s")
            assert found.seconds >= 0.5


def test_what_is_printed_and_given_arrives(sandbox):
    found = one(sandbox, "print('é', argument); result = open(0, 'rb').read()", b"\0\xffdata")
    assert found.printed.decode() == "é b'\\x00\\xffdata'\n"
    assert found.output == b"\0\xffdata"


def test_outcomes_come_in_the_order_of_programs_and_share_nothing(sandbox):
    sources = [f"import sys; sys.mine = getattr(sys, 'mine', 0) + 1; result = {n}, sys.mine" for n in range(20)]
    assert [o.output.decode() for o in sandbox.run([(s, b"") for s in sources])] == [f"({n}, 1)" for n in range(20)]


def test_the_layers_are_told_and_what_is_asked_for_without_them_is_refused(tmp_path):
    with made() as sandbox:
        layers = sandbox.start()
        assert {"rlimits", "landlock", "seccomp"} <= set(layers.active)
    without = interpreter(tmp_path, WITHOUT_LANDLOCK)
    with made(python=without) as sandbox, pytest.raises(SandboxError) as told:
        sandbox.start()
    assert str(told.value).startswith("the sandbox lacks landlock (landlock: ")
    assert "strict: false" in str(told.value)
    with made(python=without, strict=False) as sandbox:
        with pytest.warns(UserWarning, match="programs run without landlock"):
            assert "landlock" in sandbox.start().missing
        assert one(sandbox, "result = open('/etc/passwd').read()").ok


@every(
    "options, message",
    [
        ({"python": "/nowhere/python"}, "'/nowhere/python' does not start: it is no program"),
        ({"python": "/bin/true"}, "'/bin/true' did not start:"),
    ],
)
def test_an_interpreter_that_is_none_is_told_in_a_line(options, message):
    with pytest.raises(SandboxError) as told:
        made(**options).run([("", b"")])
    assert message in str(told.value) and "\n" not in str(told.value)


@every("name, message", [("no_such", "No module named 'no_such'"), ("json", "the runner json has no function prepare")])
def test_a_runner_that_is_none_is_told_in_a_line(name, message):
    with pytest.raises(SandboxError) as told:
        Sandbox(name).start()
    assert message in str(told.value) and "\n" not in str(told.value)


@every("name, value", [("seconds", 0), ("memory_mb", -1), ("memory_mb", 1.5), ("output_mb", True), ("files", 3)])
def test_a_limit_that_is_none_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        Limits(**{name: value})


def test_an_interpreter_without_mmrl_or_packages_does(tmp_path):
    """-S leaves site-packages out: the worker's files need the standard library alone."""
    with made(python=interpreter(tmp_path, WITHOUT_SITE)) as sandbox:
        found = one(
            sandbox, "import sys; result = [m for m in sys.path if 'site-packages' in m], 'numpy' in sys.modules"
        )
        assert found.output == b"([], False)"


def test_a_program_that_is_run_again_does_the_same():
    source = "import random; result = hash('a'), random.random(), list({'a', 'b', 'c', 'd'})"
    found = set()
    for _ in range(2):
        with made() as sandbox:
            found |= {outcome.output for outcome in sandbox.run([(source, b"")] * 2)}
    assert len(found) == 1


# ------------------------------------------------------------------------------ workers


def test_a_worker_that_dies_loses_no_program_and_invents_none():
    """Workers are killed all the time; every program has its own outcome in the end, or is told as lost."""
    with made(workers=2) as sandbox:
        sandbox.start()
        template, stop = sandbox._template.process.pid, threading.Event()

        def kill() -> None:
            while not stop.wait(0.1):
                for pid in Path(f"/proc/{template}/task/{template}/children").read_text().split()[:1]:
                    os.kill(int(pid), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            outcomes = sandbox.run([(f"import time; time.sleep(.02); result = {n}", b"") for n in range(40)])
        finally:
            stop.set()
            killer.join()
        assert len(outcomes) == 40
        for n, outcome in enumerate(outcomes):
            lost = (Status.CRASH, b"", "its worker ended 2 times", True)
            found = (outcome.status, outcome.output, outcome.reason, outcome.lost)
            assert found in ((Status.OK, str(n).encode(), "", False), lost)
        assert [o.output for o in sandbox.run([("result = 1", b"")] * 4)] == [b"1"] * 4


def test_a_program_dies_with_its_worker():
    with made() as sandbox:
        sandbox.start()
        found: list = []
        source = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
        thread = threading.Thread(target=lambda: found.extend(sandbox.run([(source, b"")])))
        thread.start()
        template = sandbox._template.process.pid
        for _ in range(2):
            worker = wait_for(lambda: children(template))[0]
            child = wait_for(lambda worker=worker: children(worker))[0]
            os.kill(worker, signal.SIGKILL)
            assert gone(child) and gone(worker)
        thread.join()
        assert found[0].status == Status.CRASH and found[0].lost


def test_a_template_that_dies_is_started_anew():
    with made() as sandbox:
        assert one(sandbox, "result = 1").ok
        old = sandbox._template.process.pid
        os.kill(old, signal.SIGKILL)
        assert gone(old)
        assert [o.output for o in sandbox.run([("result = 2", b"")] * 3)] == [b"2"] * 3
        assert sandbox.run([("result = 3", b"")])[0].ok


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(what, seconds: float = 20.0):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


# ------------------------------------------------------------------------------ the process around it


def test_nothing_stays_open_and_nobody_stays_behind():
    descriptors = set(os.listdir("/proc/self/fd"))
    before = set(children(os.getpid()))
    sandbox = made(workers=2)
    for source in ("result = 1", "import os; os._exit(1)", "while True: print(1)", "1/0"):
        one(sandbox, source)
    template = sandbox._template.process.pid
    workers = children(template)
    assert len(workers) == 1  # a second is made when it is needed
    wait_for(lambda: not any(map(children, workers)))
    held = Path(f"/proc/{workers[0]}/fd")  # what it has open of a program it closes when it has answered
    time.sleep(0.2)
    opened = len(os.listdir(held))
    for _ in range(20):
        one(sandbox, "result = 1")
    wait_for(lambda: len(os.listdir(held)) == opened)
    sandbox.close()
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert set(children(os.getpid())) == before
    assert not any(alive(pid) for pid in (template, *workers))
    assert one(sandbox, "result = 5").output == b"5"  # and anew
    sandbox.close()


def test_closing_it_while_others_run_loses_nothing_of_theirs():
    with made(workers=2) as sandbox:
        found: list = []
        programs = [("import time; time.sleep(.3); result = 1", b"")] * 4
        thread = threading.Thread(target=lambda: found.extend(sandbox.run(programs)))
        thread.start()
        wait_for(lambda: sandbox._made == 2)
        sandbox.close()
        thread.join(60)
        assert [o.output for o in found] == [b"1"] * 4
        sandbox.close()
        assert sandbox._made == 0


def test_many_threads_share_it(sandbox):
    """Daemon threads too, more than it has workers."""
    found: dict[int, list[bytes]] = {}

    def ask(n: int) -> None:
        found[n] = [o.output for o in sandbox.run([(f"result = {n}, {k}", b"") for k in range(4)])]

    threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {n: [f"({n}, {k})".encode() for k in range(4)] for n in range(6)}


def test_a_template_outlives_the_thread_that_started_it():
    with made() as sandbox:
        thread = threading.Thread(target=sandbox.start, daemon=True)
        thread.start()
        thread.join()
        time.sleep(0.1)
        pid = sandbox._template.process.pid
        assert one(sandbox, "result = 1").ok
        assert sandbox._template.process.pid == pid


WITHOUT_SITE = """
import os, sys
os.execv(sys.executable, [sys.executable, "-S", *sys.argv[1:]])
"""

# A filter of our own that answers to landlock's system calls as a kernel without it does.
WITHOUT_LANDLOCK = f"""
import errno, os, struct, sys
sys.path.insert(0, {str(ROOT)!r})
from mmrl.sandbox.worker import seccomp
says_no = (0x06, 0, 0, 0x50000 | errno.ENOSYS)
code = [(0x20, 0, 0, 0), (0x35, 0, 2, 444), (0x35, 1, 0, 447), says_no, (0x06, 0, 0, 0x7FFF0000)]
seccomp.install(b"".join(struct.pack("=HBBI", *one) for one in code))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def interpreter(folder: Path, code: str) -> str:
    """A program that does something, and then is this interpreter."""
    place = folder / "python"
    place.write_text(f"#!{sys.executable}\n{code}")
    place.chmod(0o755)
    return str(place)


SCRIPT = """
import os, sys, time
from mmrl.sandbox import Sandbox, Limits
s = Sandbox("bare", Limits(), path=[{here!r}])
assert s.run([("result = 1", b"")])[0].output == b"1"
"""


def script(rest: str, **more) -> subprocess.Popen:
    code = SCRIPT.format(here=str(HERE)) + textwrap.dedent(rest)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, **more)


def test_a_fork_of_the_process_has_a_sandbox_of_its_own():
    process = script(
        """
        mine = s._template.process.pid
        pid = os.fork()
        if pid == 0:
            assert s._template is None
            good = s.run([("result = 2", b"")])[0].output == b"2" and s._template.process.pid != mine
            s.close()
            os._exit(0 if good else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert s.run([("result = 3", b"")])[0].output == b"3" and s._template.process.pid == mine
        print(mine, *open(f"/proc/{mine}/task/{mine}/children").read().split())
        """
    )
    pids = [int(n) for n in process.communicate(timeout=120)[0].split()]
    assert process.returncode == 0 and len(pids) == 2
    assert all(gone(pid) for pid in pids)  # it ended with the process, which did not close it


def test_it_ends_when_its_process_is_killed():
    process = script(
        """
        import threading
        threading.Thread(target=s.run, args=([("import time; time.sleep(100)", b"")],), daemon=True).start()
        time.sleep(0.5)
        p = s._template.process.pid
        w = int(open(f"/proc/{p}/task/{p}/children").read())
        print(p, w, open(f"/proc/{w}/task/{w}/children").read(), flush=True)
        time.sleep(100)
        """
    )
    pids = [int(n) for n in process.stdout.readline().split()]
    process.kill()
    process.communicate()
    assert len(pids) == 3
    assert all(gone(pid) for pid in pids)
