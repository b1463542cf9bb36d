"""Programs that try to leave the sandbox of ``unit_test``. Each is refused, and nothing happens outside of it."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nfilter_tools.row_tests import checks_of, fault_of
from nfilter_tools.sandbox import Limits, Outcome, missing, run_confined

LIMITS = Limits(3, 256)
CONFINED = missing(LIMITS)
pytestmark = pytest.mark.skipif(CONFINED is not None, reason=str(CONFINED))
C = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"


def run(program: str, limits: Limits = LIMITS) -> Outcome:
    return run_confined(program, [{"kind": "program"}, {"kind": "value", "code": "got"}], limits)


def got(program: str) -> Any:
    """What the program put into ``got``, or its error."""
    lines = run(program).lines
    if not lines or "error" in lines[0]:
        return lines[0]["error"] if lines else "ended"
    return lines[1].get("value") if len(lines) > 1 else "ended"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret.txt"
    file.write_text("the secret")
    file.chmod(0o666)
    tmp_path.chmod(0o777)
    return file


READS = {
    "open": "got = open({path!r}).read()",
    "os.open": "import os\ngot = os.read(os.open({path!r}, os.O_RDONLY), 99)",
    "io through a class": "got = [c for c in object.__subclasses__() if c.__name__ == '_IOBase'] and __import__('io').FileIO({path!r}).read()",
    "another user's file": "got = open('/etc/passwd').read()",
    "the environment of the parent": "got = open('/proc/{parent}/environ').read()",
    "memory of the process": "got = open('/proc/self/mem', 'rb').read(1)",
    "a list of files": "import os\ngot = os.listdir({folder!r})",
    "libc": C + "got = libc.open({path!r}.encode(), 0)",
    "a mapped device": "got = open('/dev/zero', 'rb').read(1)",
    "a link": "import os\nos.symlink({path!r}, 'link')\ngot = open('link').read()",
    "open_by_handle": C + "got = libc.syscall(304, -100, 0, 0)",
    "io_uring": C + "got = libc.syscall(425, 8, 0)",
}  # fmt: skip


@pytest.mark.parametrize("name", READS)
def test_no_file_is_read(name: str, secret: Path) -> None:
    result = str(
        got(READS[name].format(path=str(secret), folder=str(secret.parent), parent=os.getpid()))
    )
    assert "secret" not in result.replace(str(secret), "").replace(str(secret.parent), "")
    assert "root:" not in result
    assert any(word in result for word in ("PermissionError", "ended", "'-0x1'")), result


WRITES = {
    "open": "open({path!r}, 'w').write('x')",
    "append": "open({path!r}, 'a').write('x')",
    "a new file beside it": "open({folder!r} + '/new', 'w').write('x')",
    "a file where it stands": "open('here', 'w').write('x')",
    "unlink": "import os\nos.unlink({path!r})",
    "rename": "import os\nos.rename({path!r}, {path!r} + '2')",
    "truncate": "import os\nos.truncate({path!r}, 0)",
    "mode": "import os\nos.chmod({path!r}, 0)",
    "times": "import os\nos.utime({path!r}, (0, 0))",
    "a folder": "import os\nos.mkdir({folder!r} + '/new')",
    "a hard link": "import os\nos.link({path!r}, {folder!r} + '/new')",
    "a pipe": "import os\nos.mkfifo({folder!r} + '/new')",
    "an attribute": "import os\nos.setxattr({path!r}, 'user.x', b'1')",
    "chroot": "import os\nos.chroot({folder!r})",
    "mount": C + "assert libc.mount(b'none', {folder!r}.encode(), b'tmpfs', 0, 0) == 0",
    "a file in memory": "import os\nos.memfd_create('x')",
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_no_file_is_changed(name: str, secret: Path) -> None:
    before = secret.stat()
    program = WRITES[name].format(path=str(secret), folder=str(secret.parent)) + "\ngot = 'done'"
    result = str(got(program))
    assert "done" not in result
    assert any(word in result for word in ("PermissionError", "AssertionError")), result
    after = secret.stat()
    assert secret.read_text() == "the secret"
    assert [path.name for path in secret.parent.iterdir()] == ["secret.txt"]
    assert (before.st_mode, before.st_mtime_ns, before.st_nlink) == (after.st_mode, after.st_mtime_ns, after.st_nlink)  # fmt: skip


NETWORK = {
    "socket": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1).send(b'x')",
    "datagram": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "a local socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('/run/x')",
    "a pair": "import socket\nsocket.socketpair()",
    "the module below": "import _socket\n_socket.socket(2, 1)",
    "libc": C + "assert libc.socket(2, 1, 0) >= 0",
    "urllib": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/', timeout=1)",
    "another descriptor": C
    + "for n in range(3, 16):\n    assert libc.connect(n, b'\\x02\\x00' + ({port}).to_bytes(2, 'big') + bytes([127, 0, 0, 1]) + bytes(8), 16) == 0",
}


@pytest.mark.parametrize("name", NETWORK)
def test_nothing_is_sent(name: str) -> None:
    reached: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        waiting = threading.Event()

        def listen() -> None:
            while not waiting.is_set():
                try:
                    reached.append(server.accept()[1])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        port = server.getsockname()[1]
        result = str(got(NETWORK[name].format(port=port) + "\ngot = 'done'"))
        waiting.set()
        thread.join()
    assert reached == []
    assert "done" not in result
    assert any(word in result for word in ("PermissionError", "AssertionError", "URLError")), result


PROCESSES = {
    "fork": "import os\nos.fork()",
    "a bomb": "import os\nfor n in range(4):\n    os.fork()",
    "subprocess": "import subprocess\nsubprocess.run(['touch', {path!r}])",
    "os.system": "import os\nassert os.system('touch ' + {path!r}) == 0",
    "exec": "import os\nos.execv('/bin/sh', ['sh', '-c', 'touch ' + {path!r}])",
    "spawn": "import os\nos.posix_spawn('/bin/touch', ['touch', {path!r}], {{}})",
    "a thread": "import threading\nthreading.Thread(target=print).start()",
    "multiprocessing": "import multiprocessing as m\nm.get_context('fork').Process(target=print).start()",
    "libc": C + "assert libc.fork() >= 0",
    "clone": C + "assert libc.syscall(56, 17, 0, 0, 0, 0) >= 0",
    "a new session": "import os\nos.setsid()",
    "ptrace": C + "assert libc.ptrace(16, {parent}, 0, 0) == 0",
    "a signal to the parent": "import os\nos.kill({parent}, 0)",
    "a signal by a descriptor": "import fcntl\nfcntl.fcntl(3, fcntl.F_SETOWN, {parent})",
    "limits of the parent": "import resource\nresource.prlimit({parent}, resource.RLIMIT_CPU)",
    "its own limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSES)
def test_no_process_is_started_or_touched(name: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    before = _children()
    result = str(
        got(
            PROCESSES[name].format(path=str(tmp_path / "made"), parent=os.getpid())
            + "\ngot = 'done'"
        )
    )
    assert "done" not in result
    refusals = (
        "PermissionError",
        "AssertionError",
        "RuntimeError: can't start",
        "ValueError",
        "OSError",
        "BlockingIOError",
    )
    assert any(word in result for word in refusals), result
    assert list(tmp_path.iterdir()) == []
    assert _children() == before


def _children() -> set[str]:
    tasks = Path("/proc/self/task").glob("*/children")
    return {child for task in tasks for child in task.read_text().split()}


EXHAUSTING = {
    "at once": "x = bytearray(2 ** 30)",
    "in steps": "x = []\nwhile True:\n    x.append(bytearray(2 ** 20))",
}


@pytest.mark.parametrize("name", EXHAUSTING)
def test_memory_is_bounded(name: str) -> None:
    # So many seconds that memory is the limit that is reached, also on a busy machine.
    outcome = run(EXHAUSTING[name] + "\ngot = 'done'", Limits(120, 256))
    assert outcome.ended == "done"
    assert "done" not in str(outcome.lines)
    assert "MemoryError" in str(outcome.lines)


GROWING = {
    "a large number": "x = 10 ** 10 ** 9",
    "deep recursion": "def f():\n    f()\nimport sys\nsys.setrecursionlimit(10 ** 9)\nf()",
}


@pytest.mark.parametrize("name", GROWING)
def test_work_that_grows_is_bounded(name: str) -> None:
    start = time.monotonic()
    outcome = run(GROWING[name] + "\ngot = 'done'")
    assert "done" not in str(outcome.lines)
    assert time.monotonic() - start < 20


ENDLESS = {
    "a loop": "while True: pass",
    "sleep": "import time\ntime.sleep(1000)",
    "signals ignored": "import signal\nfor n in range(1, 32):\n    try:\n        signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\nwhile True: pass",
    "one long operation": "'a' * 2 ** 24 in 'a' * 2 ** 25; 9 ** 9 ** 8",
    "reading what never comes": "import os\nwhile True:\n    os.read(0, 1)",
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_time_is_bounded(name: str) -> None:
    start = time.monotonic()
    outcome = run(ENDLESS[name], Limits(0.5, 256))
    assert outcome.ended == "time"
    assert time.monotonic() - start < 15


def test_output_is_bounded() -> None:
    flood = "import os\nwhile True:\n    for n in range(3, 16):\n        try:\n            os.write(n, b'x' * 65536)\n        except OSError:\n            pass"
    outcome = run(flood, Limits(5, 256, output=200_000))
    assert outcome.ended == "output"
    large = run("got = 'x' * 5_000_000", Limits(5, 256, output=200_000))
    assert large.ended == "output"


def test_the_environment_and_open_files_are_not_handed_over(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    descriptor = os.open(secret, os.O_RDWR)
    os.set_inheritable(descriptor, True)
    try:
        read = "import os\ngot = [dict(os.environ)]\nfor n in range(64):\n    try:\n        got.append(os.pread(n, 99, 0))\n    except OSError:\n        pass"
        result = str(got(read))
    finally:
        os.close(descriptor)
    assert "secret" not in result
    assert b"the secret".hex() not in result
    assert "OPENAI" not in result


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for program in ("got = 1", "while True: pass", "import os\nos._exit(3)"):
        run(program, Limits(0.5, 256))
        assert list(tmp_path.iterdir()) == []


def test_what_the_process_writes_is_data(tmp_path: Path) -> None:
    """A hostile process may write any line: none of them is taken for more than it is."""
    (check,) = checks_of(["assert f(1) == 2"])
    deep: Any = ["int", "0x2"]
    for _ in range(3000):
        deep = ["list", [deep]]
    for line in ({}, {"value": None}, {"value": []}, {"value": ["int", "zz"]}, {"value": ["set", [["list", []]]]},
                 {"value": ["float", "1e999999"]}, {"value": ["nothing", 3]}, {"value": deep}, {"done": True}):  # fmt: skip
        assert fault_of(check, line) is not None
    assert fault_of(check, {"value": ["int", "0x2"]}) is None
    assert sys.getrecursionlimit() < 3000
