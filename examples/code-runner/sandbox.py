"""Runs the Python program that comes on standard input, with what the kernel is told to keep from it.

Started by `code_runner.py` as `python -I sandbox.py`, with an empty environment, in an empty directory. The
process sets limits on itself that it cannot take back: of resources, and by a seccomp filter without which a
program could use the network, start processes or threads, or send signals. Linux on x86-64 or arm64 only.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import struct
import sys

CPU_SECONDS = 5
MEMORY_BYTES = 256 * 2**20
FILE_BYTES = 2**20
OPEN_FILES = 32

# name: (x86-64, arm64); 0 where an architecture has no such call
FORBIDDEN = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, 0),
    "vfork": (58, 0),
    "io_uring_setup": (425, 425),  # its rings could open sockets unseen
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "prlimit64": (302, 261),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "keyctl": (250, 219),
}
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32_BIT = 0x40000000  # the same calls under other numbers
_KILL_PROCESS, _ALLOW, _REFUSE_EPERM = 0x80000000, 0x7FFF0000, 0x00050001
_LOAD, _EQUALS, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in the kernel's struct seccomp_data
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


def limit_resources() -> None:
    for what, limit in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


def filter_program(machine: str) -> bytes:
    """The filter for the kernel: forbidden calls fail with EPERM. Raises RuntimeError for other machines."""
    if machine not in _ARCHITECTURES:
        raise RuntimeError(
            f"no system call numbers are known for {machine}: programs are not run unprotected"
        )
    architecture, column = _ARCHITECTURES[machine]
    numbers = [columns[column] for columns in FORBIDDEN.values() if columns[column]]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUALS, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, len(numbers) + 1, 0, _X32_BIT),
        *((_EQUALS, len(numbers) - at, 0, number) for at, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE_EPERM),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def filter_system_calls() -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))

    steps = filter_program(platform.machine())
    program = Program(len(steps) // 8, steps)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the kernel does not take the filter")


def main() -> None:
    code = compile(sys.stdin.read(), "<program>", "exec")
    limit_resources()
    filter_system_calls()
    exec(code, {"__name__": "__main__"})  # noqa: S102 (what this program is for)


if __name__ == "__main__":
    main()
