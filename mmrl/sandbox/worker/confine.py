"""Taking everything from a process but computing: limits, capabilities, landlock, seccomp; and trying that it holds."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import site
import socket
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import landlock, seccomp

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 38, 9
_CAPSET, _CAPABILITY_VERSION = {"x86_64": 126, "aarch64": 91}, 0x20080522
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
_SYSTEM = ["/etc/ld.so.cache", "/etc/localtime", "/etc/fonts", "/usr/share/fonts", "/usr/share/zoneinfo"]
_SYSTEM += ["/dev/null", "/dev/urandom"]
LAYERS = ("rlimits", "capabilities", "landlock", "seccomp")


@dataclass(frozen=True)
class Confinement:
    """What is made once in the worker and entered by each program.

    rules: landlock's descriptor, -1 without it. program: the filter of system calls, b"" without it.
    why: for each layer that is not there, the reason.
    """

    rules: int
    program: bytes
    why: dict[str, str]


def prepared(reads: Iterable[str]) -> Confinement:
    """Made before any program; `reads` are folders and files that programs may read beside Python's own."""
    why: dict[str, str] = {}
    rules, program = -1, b""
    try:
        rules = landlock.ruleset([*readable(), *reads])
    except OSError as error:
        why["landlock"] = f"the kernel has none for us ({error.strerror or error})"
    try:
        program = seccomp.filter_program()
    except OSError as error:
        why["seccomp"] = str(error.strerror or error)
    return Confinement(rules, program, why)


def readable() -> list[str]:
    """What Python needs to read: its library, installed packages but mmrl's own (which hold answers), and the system's.

    No folder that a .pth file adds: that is where a checkout lies, with its data sets.
    """
    standard = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    libraries = {os.path.realpath(name) for name in _LIBRARIES}
    found = [child for name in sorted(standard) for child in _children(name, but=("site-packages", "dist-packages"))]
    found += [child for name in sorted(packages) for child in _children(name) if not _is_ours(os.path.basename(child))]
    # Folders of Python are among the system's libraries, with packages in them: they are what stands above.
    found += [child for name in sorted(libraries) for child in _children(name) if "/python" not in child]
    return [*found, *_SYSTEM, *_shared_libraries(sys.base_prefix)]


def _is_ours(name: str) -> bool:
    return name == "mmrl" or name.endswith(".pth") or name.startswith("__editable__")


def _children(folder: str, but: tuple[str, ...] = ()) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name not in but]
    except OSError:
        return []


def _shared_libraries(prefix: str) -> list[str]:
    """libpython and what conda puts beside it: the files *.so* of `prefix`/lib."""
    return [name for name in _children(os.path.join(prefix, "lib")) if ".so" in os.path.basename(name)]


def limit(seconds: float, memory_mb: int, files: int, processes: int) -> None:
    """The kernel's limits of this process; memory is counted from what it has now. Raises OSError."""
    cpu = math.ceil(seconds) + 1
    with open("/proc/self/statm", "rb") as file:
        pages = int(file.read().split()[0])
    _set(resource.RLIMIT_AS, pages * resource.getpagesize() + (memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    for kind in ("FSIZE", "CORE", "MSGQUEUE", "MEMLOCK", "SIGPENDING", "NICE", "RTPRIO"):
        if hasattr(resource, f"RLIMIT_{kind}"):
            _set(getattr(resource, f"RLIMIT_{kind}"), 0)
    _set(resource.RLIMIT_NOFILE, files)
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    _set(resource.RLIMIT_NPROC, processes if hard < 0 else min(processes, hard))


def _set(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def die_with(parent: int) -> None:
    """Be killed when the parent ends; ends at once where it has already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def drop_capabilities() -> None:
    """What root may do beside reading its own files; nothing to drop for others. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    number = _CAPSET.get(os.uname().machine)
    header, nothing = struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)
    if number is None or libc.syscall(ctypes.c_long(number), header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset was refused")
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def enter(how: Confinement, seconds: float, memory_mb: int, files: int, processes: int) -> dict[str, str]:
    """Confine this process, as far as its layers go; returns for each that did not, why. After it there is no way back.

    seconds, memory_mb, files: see Limits. processes: of this user, in all.
    """
    why = dict(how.why)
    steps: list[tuple[str, Callable[[], None]]] = [
        ("rlimits", lambda: limit(seconds, memory_mb, files, processes)),
        ("capabilities", drop_capabilities),
        ("landlock", lambda: landlock.enter(how.rules)),
        ("seccomp", lambda: seccomp.install(how.program)),
    ]
    for name, step in steps:
        if name not in why:
            try:
                step()
            except (OSError, ValueError) as error:
                why[name] = str(error)
    return why


def leaks() -> dict[str, str]:
    """What a confined process can still do and must not, by the layer that should have stopped it: {} if all holds."""
    found = {}
    try:
        os.close(os.open("/proc/self/environ", os.O_RDONLY))
        found["landlock"] = "it was entered, and a file outside of its rules opens"
    except OSError:
        pass
    try:
        socket.socket(socket.AF_UNIX).close()
        found["seccomp"] = "it was installed, and a socket opens"
    except OSError:
        pass
    return found
