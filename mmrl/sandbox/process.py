"""The trainer's side of a template: starting it, what it told of its layers, and asking it for workers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .limits import Limits
from .outcome import Outcome
from .worker import frames, landlock, seccomp

_START = Path(__file__).parent / "worker" / "start.py"
_STARTS_IN = 180.0  # seconds; a kernel of geometry takes ten on a cold disk
_ENDS_IN = 5.0
_PASSED = ("LD_LIBRARY_PATH", "CONDA_PREFIX", "LANG")
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Reads all, writes nothing, sees no network and no other process; what a program may read is landlock's matter.
_BUBBLEWRAP = ("--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--")


class SandboxError(OSError):
    """The sandbox cannot run anything here: no layers, no interpreter, a runner that does not import."""


class Lost(Exception):
    """A worker is gone or talks nonsense."""


class TemplateLost(Lost):
    """So is the template that workers come from."""


@dataclass(frozen=True)
class Layers:
    """What keeps a program in: for each layer "" where it holds, or why it is not there."""

    why: Mapping[str, str]

    @property
    def active(self) -> list[str]:
        return [name for name, reason in self.why.items() if not reason]

    @property
    def missing(self) -> dict[str, str]:
        return {name: reason for name, reason in self.why.items() if reason}

    def __str__(self) -> str:
        missing = "; ".join(f"no {name}: {reason}" for name, reason in self.missing.items())
        return ", ".join(self.active) + (f" ({missing})" if missing else "")


class Template:
    """The process that has imported the runner. Raises SandboxError where it does not start."""

    def __init__(
        self, python: str, runner: str, path: Sequence[str], reads: Sequence[str], limits: Limits, bubblewrap: str
    ) -> None:
        told = json.dumps({"runner": runner, "path": list(path), "reads": list(reads), "limits": limits.as_json()})
        self.control, theirs = socket.socketpair()
        # As -I, without -E: the environment is ours, and says that hashes are the same in every worker.
        command = [python, "-s", "-P", str(_START), str(theirs.fileno()), told]
        wrapped = [bubblewrap, *_BUBBLEWRAP] if bubblewrap else []
        with tempfile.TemporaryFile() as errors, theirs:
            try:
                self.process = subprocess.Popen(
                    [*wrapped, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=[theirs.fileno()],
                    env=_environment(),
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                self.control.close()
                raise SandboxError(f"the sandbox's interpreter {python!r} does not start: {error.strerror}") from error
            theirs.close()
            self.control.settimeout(_STARTS_IN)
            try:
                said, _ = frames.receive(self.control, 0)
            except (EOFError, OSError, frames.Broken) as error:
                self.close()
                errors.seek(0)
                lines = errors.read()[-4000:].decode(errors="replace").strip().splitlines() or [str(error)]
                why = f"{lines[-1][:200]} (status {self.process.returncode})"
                raise SandboxError(f"the sandbox's interpreter {python!r} did not start: {why}") from error
            except BaseException:
                self.close()
                raise
        if "error" in said:
            self.close()
            raise SandboxError(f"the sandbox's runner {runner!r} does not start in {python!r}: {said['error']}")
        self.layers, self.python = said["layers"], said["python"]

    def worker(self) -> Worker:
        """A new worker, forked from the template. Raises Lost where it does not come, TemplateLost if that is gone."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self.control, [b"w"], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise TemplateLost(str(error)) from error
        return Worker(ours, self)

    def close(self) -> None:
        """End it, and wait for it; its workers end with it."""
        self.control.close()
        try:
            self.process.wait(_ENDS_IN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def forget(self) -> None:
        """In a fork of the trainer: our copies are closed, and the process is left to whom it belongs."""
        self.control.close()
        self.process.returncode = 0  # not our child: nothing to wait for


class Worker:
    """A worker as the trainer sees it. Raises Lost where it does not say hello."""

    def __init__(self, to: socket.socket, of: Template) -> None:
        self.socket, self.template = to, of
        to.settimeout(_STARTS_IN)
        try:
            hello, _ = frames.receive(to, 0)
        except (EOFError, OSError, frames.Broken) as error:
            to.close()
            raise Lost(str(error)) from error
        self.pid = int(hello["pid"])  # in its own namespace

    def fileno(self) -> int:
        return self.socket.fileno()

    def give(self, source: bytes, argument: bytes) -> None:
        """Hand it a program. Raises Lost."""
        try:
            frames.send(self.socket, {}, [source, argument])
        except OSError as error:
            raise Lost(str(error)) from error

    def take(self, most: int) -> Outcome:
        """What became of the program. Raises Lost, and SandboxError where it could not be confined."""
        try:
            said, blobs = frames.receive(self.socket, most)
        except (EOFError, OSError, frames.Broken) as error:
            raise Lost(str(error)) from error
        if "unconfined" in said:
            raise SandboxError(f"a program could not be confined, and was not run: {said['unconfined']}")
        output, printed = blobs
        return Outcome(said["status"], output, said["reason"], said["seconds"], said["peak_mb"], printed)

    def close(self) -> None:
        """It ends when it sees that; what it runs is killed."""
        self.socket.close()


def check_kernel(strict: bool) -> None:
    """Raises SandboxError where there is no Linux or, if `strict`, no landlock or seccomp; starts nothing."""
    if not sys.platform.startswith("linux"):
        raise SandboxError(f"the sandbox needs Linux (landlock and seccomp), this is {sys.platform}")
    if not strict:
        return
    try:
        landlock.abi()
        seccomp.filter_program()
    except OSError as error:
        raise lacks({"landlock or seccomp": str(error.strerror or error)}) from error


def lacks(missing: Mapping[str, str]) -> SandboxError:
    """What to say where `strict` refuses: the layers that are missing, and why."""
    reasons = "; ".join(f"{name}: {why}" for name, why in missing.items())
    return SandboxError(
        f"the sandbox lacks {' and '.join(missing)} ({reasons}): run on Linux 5.13 or newer with both, in a container "
        "whose profile allows them, or set strict: false and trust the programs"
    )


def find_bubblewrap() -> str:
    """Where bubblewrap is and works, or "" with nothing said: it is one layer more, not one that others count on."""
    place = shutil.which("bwrap")
    if place is None:
        return ""
    command = [place, *_BUBBLEWRAP, sys.executable, "-I", "-S", "-c", ""]
    try:
        tried = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return place if tried.returncode == 0 else ""


def _environment() -> dict[str, str]:
    """Nothing of the trainer's that may be secret; hashes are the same in every worker."""
    kept = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return {
        **kept,
        **dict.fromkeys(_ONE_THREAD, "1"),
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "PYTHONHASHSEED": "0",
        "MALLOC_ARENA_MAX": "1",
    }
