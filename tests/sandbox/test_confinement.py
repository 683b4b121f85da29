"""The filter of system calls, run by an interpreter of BPF written here; and what landlock lets a program read."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest
from every import every

from mmrl.sandbox.worker import confine, seccomp

ROOT = Path(__file__).parents[2]
X86, ARM, I386 = 0xC000003E, 0xC00000B7, 0x40000003
ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS, ENOTTY = (0x50000 | number for number in (errno.EPERM, errno.ENOSYS, errno.ENOTTY))


def verdict(machine: str, arch: int, number: int, *arguments: int) -> int:
    """What the filter answers to a call; struct seccomp_data is number, architecture, place, six arguments."""
    given = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, arch, 0, *(argument % 2**64 for argument in given))
    program = seccomp.filter_program(machine)
    code = [struct.unpack_from("=HBBI", program, place) for place in range(0, len(program), 8)]
    assert len(code) <= 4096
    place = held = 0
    while True:
        what, true, false, operand = code[place]
        place += 1
        if what == 0x20:
            held = struct.unpack_from("<I", data, operand)[0]
        elif what == 0x54:
            held &= operand
        elif what == 0x06:
            return operand
        else:
            holds = {0x15: held == operand, 0x35: held >= operand, 0x45: bool(held & operand)}[what]
            place += true if holds else false


THREAD = 0x3D0F00  # what pthread_create asks for
FORK = 0x1200011
# A call: its numbers on x86-64 and arm64, arguments, the answer; from the tables of the kernel and the manual.
CALLS = {
    "read": (0, 63, (), ALLOW),
    "write": (1, 64, (), ALLOW),
    "openat": (257, 56, (), ALLOW),
    "mmap": (9, 222, (), ALLOW),
    "exit_group": (231, 94, (), ALLOW),
    "futex": (202, 98, (), ALLOW),
    "clock_gettime": (228, 113, (), ALLOW),
    "a thread": (56, 220, (THREAD,), ALLOW),
    "a fork": (56, 220, (FORK,), EPERM),
    "a thread in a namespace": (56, 220, (THREAD | 0x20000000,), EPERM),
    "clone3": (435, 435, (), ENOSYS),
    "execve": (59, 221, (), EPERM),
    "execveat": (322, 281, (), EPERM),
    "socket": (41, 198, (), EPERM),
    "connect": (42, 203, (), EPERM),
    "socketpair": (53, 199, (), EPERM),
    "kill": (62, 129, (), EPERM),
    "tgkill": (234, 131, (), EPERM),
    "ptrace": (101, 117, (), EPERM),
    "process_vm_readv": (310, 270, (), EPERM),
    "mount": (165, 40, (), EPERM),
    "unshare": (272, 97, (), EPERM),
    "setns": (308, 268, (), EPERM),
    "bpf": (321, 280, (), EPERM),
    "keyctl": (250, 219, (), EPERM),
    "perf_event_open": (298, 241, (), EPERM),
    "io_uring_setup": (425, 425, (), EPERM),
    "memfd_create": (319, 279, (), EPERM),
    "seccomp": (317, 277, (), EPERM),
    "setrlimit": (160, 164, (), EPERM),
    "unlinkat": (263, 35, (), EPERM),
    "renameat2": (316, 276, (), EPERM),
    "fchmodat": (268, 53, (), EPERM),
    "a call of the next kernel": (700, 700, (), EPERM),
    "ioctl": (16, 29, (0, 0x5412), ENOTTY),
    "one's own limits": (302, 261, (0, 7, 0, 0x7FFF00001000), ALLOW),
    "another's limits": (302, 261, (12, 7, 0, 0x1000), EPERM),
    "limits set": (302, 261, (0, 7, 0x1000, 0), EPERM),
    "limits set from high memory": (302, 261, (0, 7, 0x700000000000, 0), EPERM),
    "flags of a descriptor": (72, 25, (1, 3), ALLOW),
    "the owner of a descriptor": (72, 25, (1, 8, 1), EPERM),
    "a lease": (72, 25, (1, 1024, 1), EPERM),
    "a name of a thread": (157, 167, (15,), ALLOW),
    "not dying with the parent": (157, 167, (1,), EPERM),
    "memory that is not needed": (28, 233, (0, 4096, 4), ALLOW),
    "memory that is broken": (28, 233, (0, 4096, 100), EPERM),
}


@every("x86, arm, arguments, answer", CALLS.values(), ids=CALLS)
def test_the_filter_answers_on_both_architectures(x86, arm, arguments, answer):
    assert verdict("x86_64", X86, x86, *arguments) == answer
    assert verdict("aarch64", ARM, arm, *arguments) == answer


def test_calls_of_another_architecture_kill():
    assert verdict("x86_64", I386, 1) == KILL
    assert verdict("x86_64", X86, 0x40000000 | 1) == KILL
    assert verdict("aarch64", X86, 1) == KILL


def test_a_machine_without_a_table_has_no_filter():
    with pytest.raises(OSError, match="no table of system calls for riscv64"):
        seccomp.filter_program("riscv64")


def test_what_may_be_read_holds_neither_the_checkout_nor_what_is_installed_of_it():
    allowed = [Path(path) for path in confine.readable()]
    installed = next(path for path in allowed if path.parent.name == "site-packages").parent
    for secret in (ROOT / "datasets", ROOT / "tests", Path.home(), Path("/etc/passwd"), Path("/proc"), Path("/tmp")):
        assert not any(secret.is_relative_to(path) for path in allowed), secret
    elsewhere = [Path("/usr/local/lib/python3.11/site-packages"), Path("/usr/lib/python3/dist-packages")]
    for place in (installed, *elsewhere):
        assert not any((place / "mmrl/_share").is_relative_to(path) for path in allowed), place
    assert any(path.name == "numpy" for path in allowed)
