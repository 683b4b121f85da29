"""Landlock by its three system calls: a process that may read what Python needs, and touch no other file.

The rules are made once, in the worker; each program only enters them. See the kernel's
Documentation/userspace-api/landlock.rst for the rights of each ABI.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # of every architecture
_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILES = {1: 13, 2: 14, 3: 15, 5: 16}  # rights that each ABI knows, as a number of bits
_ABI_OF_NETWORK, _ABI_OF_SCOPES = 4, 6
_PR_SET_NO_NEW_PRIVS = 38


def abi() -> int:
    """The kernel's ABI of landlock, 1 at least. Raises OSError where there is none."""
    return _syscall(_CREATE, None, 0, _VERSION)


def ruleset(paths: Iterable[str]) -> int:
    """A descriptor of rules: reading below `paths` (files or folders; those that are not there are left out).

    All else is refused: writing, making, running, TCP, and (where the kernel knows them) signals to, and abstract
    sockets of, processes outside. Raises OSError.
    """
    version = abi()
    bits = max(count for known, count in _FILES.items() if known <= version)
    handled = [(1 << bits) - 1]
    if version >= _ABI_OF_NETWORK:
        handled.append(0b11)
    if version >= _ABI_OF_SCOPES:
        handled.append(0b11)
    packed = struct.pack(f"={len(handled)}Q", *handled)
    rules = _syscall(_CREATE, packed, len(packed), 0)
    for path in paths:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            rights = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)
            _syscall(_ADD, rules, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
        finally:
            os.close(place)
    return rules


def enter(rules: int) -> None:
    """Confine the calling thread, and all that it starts, for ever. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")
    _syscall(_RESTRICT, rules, 0)


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    found = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found
