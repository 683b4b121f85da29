"""Every attack of attacks.py succeeds where a program is run by fork and exec, and none succeeds in the sandbox."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from attacks import ATTACKS, PRELUDE
from every import every

from mmrl.sandbox import Limits, Sandbox, Status

HERE = Path(__file__).parent
LIMITS = Limits(seconds=0.5, memory_mb=192, output_mb=1, printed_kb=256)
ENDLESS = [name for name in ATTACKS if name.startswith("endless: ")]
# What this machine's kernel or its settings do not offer to anybody, by the error that says so.
NOT_OFFERED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENODEV, errno.ENOENT)


@dataclass
class Seen:
    """What is left of a program that ran: its words, and whether the process that started it is gone or still waits."""

    said: bytes
    parent_gone: bool = False
    runs_on: bool = False


class World:
    """What an attack may harm."""

    def __init__(self, folder: Path) -> None:
        self.token = f"TOKEN{secrets.token_hex(8)}"
        self.folder = folder / "folder"
        self.secret, self.kept, self.link = folder / "secret.txt", folder / "kept", folder / "link"
        self.folder.mkdir()
        self.secret.write_text(self.token)
        self.link.symlink_to(self.secret)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.unix, self.abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.unix.bind(str(folder / "socket"))
        self.abstract.bind(f"\0{self.token}")
        for server in (self.tcp, self.unix, self.abstract):
            server.listen()
            server.setblocking(False)
        self.open = os.open(self.secret, os.O_RDONLY)
        self.victim: subprocess.Popen | None = None
        self.made_anew()

    def made_anew(self) -> None:
        for path in self.folder.iterdir():
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        self.kept.unlink(missing_ok=True)
        self.kept.write_text("keep this")
        if self.victim is None or self.victim.poll() is not None:
            self.victim = subprocess.Popen(["sleep", "600"])

    def facts(self, trainer: int) -> str:
        assert self.victim is not None
        return json.dumps(
            {
                "folder": str(self.folder),
                "secret": str(self.secret),
                "kept": str(self.kept),
                "link": str(self.link),
                "port": self.tcp.getsockname()[1],
                "unix": self.unix.getsockname(),
                "abstract": self.token,
                "victim": self.victim.pid,
                "trainer": trainer,
                "open": self.open,
                "name": f"mmrl_{os.getpid()}_file",
            }
        )

    def harm(self, seen: Seen) -> list[str]:
        """What has been done to it since it was made anew."""
        assert self.victim is not None
        connected = []
        for server in (self.tcp, self.unix, self.abstract):
            with contextlib.suppress(BlockingIOError):
                server.accept()[0].close()
                connected.append("a connection")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.victim.wait(0.05 if "victim" in seen.said.decode(errors="replace") else 0)
        found = {
            "the secret": self.token.encode() in seen.said,
            "the mark": b"PWNED" in seen.said,
            "a file": any(self.folder.iterdir()),
            "the kept file": not self.kept.exists() or self.kept.read_text() != "keep this",
            "the victim": self.victim.poll() is not None,
            "the parent": seen.parent_gone,
            "no end": seen.runs_on,
            "a flood": len(seen.said) > 2 << 20,
        }
        return [name for name, is_so in found.items() if is_so] + connected

    def close(self) -> None:
        assert self.victim is not None
        self.victim.kill()
        self.victim.wait()
        for server in (self.tcp, self.unix, self.abstract):
            server.close()
        os.close(self.open)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    one = World(tmp_path_factory.mktemp("w"))
    os.environ["MMRL_TEST_SECRET"] = one.token
    yield one
    del os.environ["MMRL_TEST_SECRET"]
    one.close()


def plain(world: World, source: str, seconds: float) -> Seen:
    """Run by fork and exec, in a process group that is ended in the end."""
    job = json.dumps({"source": PRELUDE + source, "argument": world.facts(os.getpid()), "secret": str(world.secret)})
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(HERE / "plain.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(job.encode(), seconds)
        return Seen(said, parent_gone=process.returncode == -signal.SIGKILL)
    except subprocess.TimeoutExpired:
        return Seen(b"", runs_on=True)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls")
@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ENDLESS])
def test_it_succeeds_with_fork_and_exec(world, name):
    world.made_anew()
    seen = plain(world, ATTACKS[name], 10.0)
    harm = world.harm(seen)
    if not harm:
        lacking = [number for number in NOT_OFFERED if f"[Errno {number}]".encode() in seen.said]
        refused = b"[Errno 1]" in seen.said or b"[Errno 13]" in seen.said
        if lacking or (refused and os.geteuid() != 0):
            pytest.skip(f"not offered here: {seen.said[-100:]!r}")
    assert harm, seen.said[-300:]
    world.made_anew()


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_it_has_no_end_with_fork_and_exec(world, name):
    assert world.harm(plain(world, ATTACKS[name], 5.0)) == ["no end"]


@pytest.fixture(scope="module")
def sandbox(world):
    """Started by a process that has a secret in its environment, and a file of it open."""
    with Sandbox("bare", LIMITS, path=[str(HERE)]) as one:
        assert {"rlimits", "landlock", "seccomp"} <= set(one.start().active)
        yield one


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls")
@every("name", ATTACKS)
def test_it_fails_in_the_sandbox(world, sandbox, name):
    world.made_anew()
    assert sandbox.run([("result = 1", b"")])[0].ok
    workers = [worker.pid for worker in sandbox._free]
    before = time.monotonic()
    outcome = sandbox.run([(PRELUDE + ATTACKS[name], world.facts(os.getpid()).encode())])[0]
    seen = Seen(outcome.output + outcome.printed + outcome.reason.encode())
    seen.parent_gone = workers != [worker.pid for worker in sandbox._free]
    seen.runs_on = time.monotonic() - before > LIMITS.seconds + 20
    time.sleep(0.05 if "demon" in name else 0)
    assert world.harm(seen) == [], outcome
    if name in ENDLESS:
        assert outcome.status in (Status.TIMEOUT, Status.MEMORY), outcome
    assert sandbox.run([("result = 1", b"")])[0].output == b"1"


def test_there_are_enough_of_them():
    assert len(ATTACKS) >= 60
