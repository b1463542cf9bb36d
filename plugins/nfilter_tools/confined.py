"""Script that ``sandbox`` starts: it confines its own process, checks the confinement, and then runs an untrusted program.

It is run by path as ``python -I -S confined.py``, with the job as JSON on standard input, and imports only the standard
library. The Linux kernel confines the process, so code in Python cannot undo it:

- seccomp admits only the system calls for computing and reading: no socket, no process, no signal, no change of a file's
  name, owner or mode, no limit of another process.
- Landlock admits reading Python's standard library, and no other file access.
- Resource limits bound memory, processor time, open files and the size of written files (0).
- The process enters a network namespace without devices if the system allows it.

If one of the first three cannot be set up, or a check shows that it has no effect, the program is not run.
"""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import platform
import resource
import struct
import sys
import sysconfig
from typing import Any, NoReturn

# x86-64 and aarch64 (asm-generic) numbers of the system calls that a computing Python process needs.
_CALLS: dict[str, dict[str, int]] = {
    "x86_64": {
        "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8,
        "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
        "rt_sigreturn": 15, "pread64": 17, "readv": 19, "writev": 20, "access": 21, "select": 23, "sched_yield": 24,
        "mremap": 25, "madvise": 28, "dup": 32, "nanosleep": 35, "getpid": 39, "exit": 60, "uname": 63,
        "getcwd": 79, "readlink": 89, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99,
        "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "sigaltstack": 131,
        "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204, "getdents64": 217,
        "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
        "exit_group": 231, "openat": 257, "newfstatat": 262, "readlinkat": 267, "faccessat": 269, "pselect6": 270,
        "ppoll": 271, "getrandom": 318, "statx": 332, "faccessat2": 439,
    },
    "aarch64": {
        "getcwd": 17, "dup": 23, "faccessat": 48, "openat": 56, "close": 57, "getdents64": 61, "lseek": 62,
        "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pselect6": 72, "ppoll": 73,
        "readlinkat": 78, "newfstatat": 79, "fstat": 80, "exit": 93, "exit_group": 94, "futex": 98,
        "nanosleep": 101, "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "restart_syscall": 128,
        "sched_getaffinity": 123, "sched_yield": 124, "sigaltstack": 132, "rt_sigaction": 134,
        "rt_sigprocmask": 135, "rt_sigreturn": 139, "times": 153, "uname": 160, "getrlimit": 163, "getrusage": 165,
        "gettimeofday": 169, "getpid": 172, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177,
        "gettid": 178, "sysinfo": 179, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222, "mprotect": 226,
        "madvise": 233, "getrandom": 278, "statx": 291, "faccessat2": 439,
    },
}  # fmt: skip
# System calls that are admitted only with these values of the second argument.
_ARGUMENTS: dict[str, tuple[dict[str, int], tuple[int, ...]]] = {
    "fcntl": ({"x86_64": 72, "aarch64": 25}, (0, 1, 2, 3, 1030)),  # dup, descriptor flags, dup
    "ioctl": (
        {"x86_64": 16, "aarch64": 29},
        (0x5401, 0x5413, 0x5450, 0x5451),
    ),  # terminal? close on exec
}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_LANDLOCK = (
    444,
    445,
    446,
)  # create a ruleset, add a rule, restrict self: the same numbers everywhere
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_REFUSED = (errno.EPERM, errno.EACCES)

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Read the job, confine the process, check the confinement, and run the steps of the job."""
    job = json.loads(sys.stdin.read())
    out = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.closerange(max(out, nothing) + 1, 256)
    try:
        _load_modules()
        network = _leave_network()
        _limit(job["limits"])
        _landlock()
        _seccomp()
        _check()
    except (OSError, ValueError, KeyError) as error:
        _say(out, {"refused": str(error)})
        return
    _say(out, {"confined": True, "network_namespace": network})
    _run(job, out)


def _load_modules() -> None:
    """Load modules whose extensions need libraries that cannot be opened later."""
    for name in ("bisect", "bz2", "cmath", "collections", "dataclasses", "datetime", "decimal", "fractions", "functools",
                 "hashlib", "heapq", "itertools", "lzma", "math", "operator", "random", "re", "statistics", "string", "traceback",
                 "typing", "zlib"):  # fmt: skip
        try:
            __import__(name)
        except ImportError:  # some builds of Python lack some of them
            continue


def _limit(limits: dict[str, int]) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_CPU, limits["seconds"]),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _leave_network() -> bool:
    """Enter namespaces without a network device if the system allows it; seccomp refuses sockets in any case."""
    return bool(_libc.unshare(_NEW_USER | _NEW_NET | _NEW_IPC) == 0)


def _landlock() -> None:
    """Admit reading the standard library, and no other access to files; this cannot be undone."""
    create, add, restrict = _LANDLOCK
    version = _libc.syscall(create, None, 0, 1)
    if version < 1:
        raise OSError(
            "the kernel has no Landlock (Linux 5.13 or newer, among its security modules)"
        )
    handled = _RIGHTS[min(version, max(_RIGHTS))]
    rules = _libc.syscall(create, ctypes.byref(ctypes.c_uint64(handled)), 8, 0)
    if rules < 0:
        raise OSError("Landlock takes no rules")
    for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        beneath = ctypes.create_string_buffer(
            struct.pack("=Qi", _READ_FILE | _READ_DIR, descriptor)
        )
        if _libc.syscall(add, rules, 1, beneath, 0) != 0:
            raise OSError("Landlock takes no rule for the standard library")
        os.close(descriptor)
    if _libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or _libc.syscall(restrict, rules, 0) != 0:
        raise OSError("Landlock cannot be put into force")
    os.close(rules)


def _seccomp() -> None:
    """Admit the system calls of ``_CALLS`` and ``_ARGUMENTS``; every other one fails with EPERM."""
    machine = platform.machine()
    if machine not in _CALLS:
        raise OSError(f"no list of system calls for the processor {machine}")
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _AUDIT_ARCH[machine]), (_RETURN, 0, 0, _KILL)]
    program.append((_LOAD, 0, 0, 0))
    for numbers, values in _ARGUMENTS.values():
        # offset 24: the low half of the second argument, on little-endian processors
        block = [(_LOAD, 0, 0, 24)]
        for value in values:
            block += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
        block.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
        program += [(_EQUAL, 0, len(block), numbers[machine]), *block]
    for number in _CALLS[machine].values():
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    program.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    code = b"".join(struct.pack("=HBBI", *each) for each in program)
    held = ctypes.create_string_buffer(code)
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(held)))
    if _libc.prctl(_SET_SECCOMP, _FILTER, head, 0, 0) != 0:
        raise OSError("the kernel takes no seccomp filter")


def _check() -> None:
    """Try what must fail. A protection without a visible effect counts as missing."""
    for what, attempt in (
        ("a file can be read", lambda: os.open("/etc/passwd", os.O_RDONLY)),
        ("a folder can be listed", lambda: os.listdir("/")),  # noqa: PTH208
        ("a file can be written", lambda: os.open("written", os.O_WRONLY | os.O_CREAT, 0o600)),
        ("a folder can be made", lambda: os.mkdir("made")),  # noqa: PTH102
        ("a process can be started", os.fork),
        ("a program can be started", lambda: os.execv(sys.executable, [sys.executable, "-V"])),  # noqa: S606
        ("a signal can be sent", lambda: os.kill(os.getpid(), 0)),
        ("a file's mode can be changed", lambda: os.chmod(".", 0o700)),  # noqa: PTH101
    ):
        _must_fail(what, attempt)
    ctypes.set_errno(0)
    if _libc.socket(2, 1, 0) >= 0 or ctypes.get_errno() not in _REFUSED:
        raise OSError("a socket can be opened")


def _must_fail(what: str, attempt: Any) -> None:
    try:
        done = attempt()
    except OSError as error:
        if error.errno in _REFUSED:
            return
        raise OSError(f"a check failed in an unexpected way: {what}: {error}") from error
    if what == "a process can be started" and done == 0:
        os._exit(1)
    raise OSError(what)


def _run(job: dict[str, Any], out: int) -> NoReturn:
    """Run the steps in order, print one line per step, and end the process."""
    scope: dict[str, Any] = {"__name__": "candidate", "__builtins__": __builtins__}
    for step in job["steps"]:
        try:
            line = _step(step, job["program"], scope)
        except BaseException as error:  # noqa: BLE001 - a program may raise anything, also SystemExit
            line = {"error": _error_text(error)}
        _say(out, line)
        if "error" in line and step["kind"] == "program":
            break
    os._exit(0)


def _step(step: dict[str, Any], program: str, scope: dict[str, Any]) -> dict[str, Any]:
    kind = step["kind"]
    if kind == "program":
        exec(compile(program, "program", "exec"), scope)  # noqa: S102 - what this process is for
        return {"done": True}
    if kind == "setup":
        exec(compile(step["code"], "test", "exec"), scope)  # noqa: S102
        return {"done": True}
    if kind == "value":
        value = eval(compile(step["code"], "test", "eval"), scope)  # noqa: S307
        return {"value": _written(value, 0)}
    sys.stdin, sys.stdout = io.StringIO(step["input"]), io.StringIO()
    try:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})  # noqa: S102
    except SystemExit as ended:  # a program may exit
        if ended.code not in (None, 0):
            return {"error": f"SystemExit: {str(ended.code)[:200]}"}
    return {"value": _written(sys.stdout.getvalue(), 0)}


def _written(value: Any, depth: int) -> Any:  # noqa: PLR0911 - a kind per line
    """Return a value as JSON with its kind; ``row_tests`` compares it."""
    if depth > 20:
        raise ValueError("the value is nested more than 20 deep")
    if value is None or isinstance(value, bool):
        return [None if value is None else bool(value)]
    if isinstance(value, str):
        return ["str", str.__str__(value)]
    if isinstance(value, int):
        return ["int", hex(int.__index__(value))]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, complex):
        return ["complex", [float.hex(value.real), float.hex(value.imag)]]
    if isinstance(value, bytes | bytearray):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, list | tuple | set | frozenset):
        kind: Any = next(kind for kind in (list, tuple, set, frozenset) if isinstance(value, kind))
        return [kind.__name__, [_written(each, depth + 1) for each in kind.__iter__(value)]]
    if isinstance(value, dict):
        items = dict.items(value)
        return [
            "dict",
            [[_written(key, depth + 1), _written(each, depth + 1)] for key, each in items],
        ]
    return ["other", type(value).__name__]


def _error_text(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:300]
    except BaseException:  # noqa: BLE001 - the error's own code may fail too
        return "an error that cannot be shown"


def _say(out: int, line: dict[str, Any]) -> None:
    data = json.dumps(line).encode() + b"\n"
    while data:
        data = data[os.write(out, data) :]


if __name__ == "__main__":
    main()
