"""The filter of system calls, as classic BPF that we write ourselves: no package, no shared library, any interpreter.

Everything outside of the list is refused with EPERM; a call of another architecture (i386, x32) kills the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

from . import syscalls

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH_*
_X32 = 0x40000000
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCH = 0, 4  # places in struct seccomp_data
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2

_THREAD = 0x00010000
_NEW_NAMESPACES = 0x7E020000 | 0x80  # CLONE_NEW*: cgroup, uts, ipc, user, pid, net; ns; time
_FCNTL = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; no F_SETOWN: it signals
_PRCTL = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA
_POISON = 100  # MADV_HWPOISON and above

Instruction = tuple[int, int, int, int]


def filter_program(machine: str = "") -> bytes:
    """The filter for this machine. Raises OSError for one whose numbers are not in the tables."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(f"no table of system calls for {machine}")
    column, arch = ARCHITECTURES[machine]
    code: list[Instruction] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), _ends(_KILL), (_LOAD, 0, 0, _NUMBER)]
    code += [(_ABOVE, 0, 1, _X32), _ends(_KILL)]
    for numbers in syscalls.ALLOWED.values():
        if numbers[column] is not None:
            code += [(_EQUAL, 0, 1, numbers[column] or 0), _ends(_ALLOW)]
    code += _only(syscalls.FCNTL[column], _words(1, _FCNTL))
    code += _only(syscalls.PRCTL[column], _words(0, _PRCTL))
    code += _only(syscalls.MADVISE[column], [_low(2), (_ABOVE, 1, 0, _POISON), _ends(_ALLOW)])
    code += _only(syscalls.CLONE[column], _thread())
    code += _only(syscalls.PRLIMIT[column], _own_limits_read())
    code += [(_EQUAL, 0, 1, syscalls.CLONE3[column]), _ends(_ERRNO | errno.ENOSYS)]
    code += [(_EQUAL, 0, 1, syscalls.IOCTL[column]), _ends(_ERRNO | errno.ENOTTY)]
    code += [_ends(_ERRNO | errno.EPERM)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def install(program: bytes) -> None:
    """Confine the calling thread, and all that it starts, for ever. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc, _PR_SET_NO_NEW_PRIVS, 1, 0)
    buffer = ctypes.create_string_buffer(program, len(program))
    pointer = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    _call(libc, _PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(pointer))


def _call(libc: ctypes.CDLL, option: int, first: int, second: object) -> None:
    if libc.prctl(option, first, second, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ends(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)


def _low(argument: int) -> Instruction:
    """Load the lower 32 bits of an argument; both architectures are little-endian."""
    return (_LOAD, 0, 0, 16 + 8 * argument)


def _high(argument: int) -> Instruction:
    return (_LOAD, 0, 0, 20 + 8 * argument)


def _only(number: int, rule: list[Instruction]) -> list[Instruction]:
    """Run `rule` for one call, and refuse it where the rule does not end; the number stays loaded for others."""
    body = [*rule, _ends(_ERRNO | errno.EPERM)]
    return [(_EQUAL, 0, len(body), number), *body]


def _words(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    return [_low(argument), *(step for value in values for step in ((_EQUAL, 0, 1, value), _ends(_ALLOW)))]


def _thread() -> list[Instruction]:
    """clone() that makes a thread: no process, no namespace."""
    return [_low(0), (_ANY_BIT, 3, 0, _NEW_NAMESPACES), (_AND, 0, 0, _THREAD), (_EQUAL, 0, 1, _THREAD), _ends(_ALLOW)]


def _own_limits_read() -> list[Instruction]:
    """prlimit64(0, ..., NULL, ...): reading one's own limits; setting any, and other processes', is refused."""
    zero = [_low(0), _low(2), _high(2)]
    code: list[Instruction] = []
    for place, load in enumerate(zero):
        left = 2 * (len(zero) - place - 1) + 1  # what is jumped over to the refusal
        code += [load, (_EQUAL, 0, left, 0)]
    return [*code, _ends(_ALLOW)]
