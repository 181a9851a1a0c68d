"""SIGTERM, SIGHUP and SIGINT end the program at any moment: one line, workers gone, exit code 128 + the number.

A thread answers, told by the C part of Python's handlers through a pipe: the main thread may be deep in native code,
and Ray takes handlers over. Nothing has to be put away first: whatever is written can be cut short at every point.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
GONE_S = 5.0  # how long killed processes may take to disappear
FAREWELL_S = 2.0  # how long what has to be said to others first may take
GUARD_S = 0.005
LAST = 200  # looks, a hundredth of a second apart, after which children are killed though this process is still listed
ASK = b"\0"  # no signal has this number

_watched: list[signal.Signals] = []
_pipe: list[int] = []
_calm = threading.Event()
_descriptors = threading.Lock()
_ending = threading.Event()
_farewells: list[Callable[[], object]] = []
_litter: list[str] = []
_stopped: list[int] = []  # processes that this one has stopped and not killed yet


def line(number: int) -> str:
    """What is said to whoever stopped the program."""
    name = signal.Signals(number).name
    return f"stopped by {name}: run the same command again to go on; what was finished is kept"


def watch() -> None:
    """Begins to watch, in the main thread of a program of its own. A signal that is ignored, as by nohup, stays so."""
    _pipe[:] = read_end, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    _watched[:] = [s for s in ENDING if signal.getsignal(s) is not signal.SIG_IGN]
    take_back()
    atexit.register(_wait_for_the_end)  # the first to be registered is the last to be called
    out = os.dup(2)  # the descriptor itself is pointed elsewhere while Ray starts
    threading.Thread(target=_answer, args=(read_end, out), daemon=True, name="signals").start()


def take_back() -> None:
    """Makes the watched signals ours again, whoever has taken them. Does nothing in a program that does not watch."""
    if threading.current_thread() is threading.main_thread():
        for number in _watched:
            signal.signal(number, _leave_it_to_the_thread)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Keeps SIGTERM ours while Ray starts, which gives it to native code that dumps the stack."""
    if signal.SIGTERM not in _watched or threading.current_thread() is not threading.main_thread():
        yield
        return
    import ctypes

    libc, ours, over = ctypes.CDLL(None), ctypes.create_string_buffer(512), threading.Event()  # struct sigaction
    libc.sigaction(int(signal.SIGTERM), None, ours)

    def hold() -> None:
        while not over.wait(GUARD_S):
            libc.sigaction(int(signal.SIGTERM), ours, None)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    try:
        yield
    finally:
        over.set()
        holder.join()
        take_back()


@contextlib.contextmanager
def farewell(say: Callable[[], object]) -> Iterator[None]:
    """Within it, `say` is called before a signal ends the program; nothing may depend on it."""
    _farewells.append(say)
    try:
        yield
    finally:
        _farewells.remove(say)


def remove_last(folder: str) -> None:
    """Has a temporary folder removed when a signal ends the program, once nobody is left who writes there."""
    _litter.append(folder)


def point_stderr(to: int) -> None:
    """Points file descriptor 2 to where another one points; not any more once the last line is said."""
    with _descriptors:
        if not _ending.is_set():
            os.dup2(to, 2)


def settle() -> None:
    """Returns if no signal has come, and otherwise never: nobody else's exit code comes first."""
    os.write(_pipe[1], ASK)
    _calm.wait()


def _wait_for_the_end() -> None:
    """Once the last line is said its exit code stands, also if the program has come to its own end meanwhile."""
    if _ending.is_set():
        threading.Event().wait()


def _leave_it_to_the_thread(number: int, frame: object) -> None:
    """The signal is in the pipe already."""


def _answer(read_end: int, out: int) -> None:
    number = _next(read_end)
    threading.Thread(target=_end, args=(number, out), daemon=True).start()
    _next(read_end, first=False)  # a second signal does not wait
    _exit(number)


def _next(read_end: int, first: bool = True) -> int:
    """Waits for a watched signal: Python may handle others, which come through the same pipe."""
    while True:
        byte = os.read(read_end, 1)
        if byte == ASK and first:
            _calm.set()
        elif byte[0] in _watched:
            return byte[0]


def _end(number: int, out: int) -> None:
    try:
        with _descriptors:
            _ending.set()
            nothing = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (1, 2):  # no thread has anything to add to the last line
                os.dup2(nothing, descriptor)
        fresh = "\n\x1b[J" if os.isatty(out) else ""  # the bars of progress are not ended there
        with contextlib.suppress(OSError):
            os.write(out, f"{fresh}{line(number)}\n".encode())
        farewells = [threading.Thread(target=say, daemon=True) for say in _farewells]
        for thread in farewells:
            thread.start()
        kill_descendants()
        deadline = time.monotonic() + FAREWELL_S
        for thread in farewells:
            thread.join(max(0.0, deadline - time.monotonic()))
        for folder in _litter:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        _exit(number)


def _exit(number: int) -> None:
    """Ends the program; what it has stopped and not killed is killed by a shell once it is gone."""
    left = " ".join(map(str, _stopped))
    wait = f"n=0; while kill -0 {os.getpid()} 2>/dev/null && [ $n -lt {LAST} ]; do sleep 0.01; n=$((n+1)); done"
    last = f"trap '' HUP INT TERM; {wait}; kill -9 {left}"
    try:
        if left:  # in a process group of its own: a second Ctrl-C of the terminal is not for the shell
            os.posix_spawn("/bin/sh", ["sh", "-c", last], {"PATH": os.defpath}, setpgroup=0)
    except OSError:  # no shell here
        for pid in _stopped:
            _send(pid, signal.SIGKILL)
    finally:
        os._exit(128 + number)


def kill_descendants() -> None:
    """Stops every process that this one has started, and all that they have, and kills all but its own children. Waits
    until they are gone, GONE_S at most.

    Children go last, when this process is gone itself: while the main thread waits for Ray's object store, which is one
    of them, its death would end the program there and then, with another exit code. On a cluster that was joined there
    are none: it ends our actors and tasks when it loses sight of us.
    """
    children = _stop_below(os.getpid())
    others = [pid for pid in _stopped if pid not in children]
    for pid in others:
        _send(pid, signal.SIGKILL)
    _stopped[:] = children
    deadline = time.monotonic() + GONE_S
    while any(map(_runs, others)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _stop_below(top: int) -> list[int]:
    """Stops all descendants, each before its children are listed, so that none is born unseen. Returns the children."""
    waiting = [top]
    children: list[int] = []
    while waiting:
        above = waiting.pop()
        for pid in [child for child, parent in _parents().items() if parent == above and child not in _stopped]:
            _stopped.append(pid)
            _send(pid, signal.SIGSTOP)
            waiting.append(pid)
            children += [pid] if above == top else []
    return children


def _parents() -> dict[int, int]:
    """Each process's parent, as /proc has it, or else ps."""
    if not os.path.isdir("/proc/self"):
        import subprocess

        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        return {int(pid): int(parent) for pid, parent in map(str.split, listed.splitlines())}
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (status := _status(int(name))) is not None:
            parents[int(name)] = int(status[1])
    return parents


def _status(pid: int) -> list[str] | None:
    """State, parent and more of a process; None if it is not there."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def _runs(pid: int) -> bool:
    status = _status(pid)
    return status is not None and status[0] not in "ZX"


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
