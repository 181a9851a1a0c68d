"""Programs that are told to end: one line, an exit code, nobody left; also while nothing in them can listen."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from running import ROOT, environment

from raydistill import signals

ON = "from raydistill import signals; signals.watch(); import os, sys, time; "
READY = "os.write(1, b'ready\\n'); "
SLEEP = f"[{sys.executable!r}, '-c', 'import time; time.sleep(60)']"
CODES = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}


def started(program: str | list[str], path: Path = ROOT) -> subprocess.Popen[str]:
    """The program or command, which has said that it is ready; `path` is where it imports from first."""
    process = subprocess.Popen(
        [sys.executable, "-c", program] if isinstance(program, str) else program,
        env=environment(PYTHONPATH=str(path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def told(process: subprocess.Popen[str], *numbers: signal.Signals) -> tuple[int, str]:
    """Sends the signals; the exit code, and what is said on standard error."""
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.2 if number is not numbers[-1] else 0)
    process.wait(60)  # first: its children may hold the pipes still, and look for its end
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize(
    "state",
    [
        "time.sleep(60)",
        "import ctypes; ctypes.CDLL(None).sleep(60)",  # native code, after which Python's handlers would run
        "take = signals.signal.signal; take(2, lambda n, f: None); take(15, lambda n, f: sys.exit(3)); time.sleep(60)",
        "os.dup2(os.open(os.devnull, os.O_WRONLY), 2); time.sleep(60)",
        "signals.take_back(); time.sleep(60)",
    ],
    ids=["python", "native", "handlers-taken", "stderr-away", "taken-back"],
)
def test_one_line_and_a_code(number: signal.Signals, state: str) -> None:
    code, err = told(started(f"{ON}{READY}\ntry:\n    {state}\nfinally:\n    signals.settle()"), number)
    assert (code, err) == (CODES[number], f"{signals.line(number)}\n")


def test_native_code_that_takes_sigterm_while_ray_starts_loses_it() -> None:
    """As Ray's does: the handler is set behind Python's back."""
    take = "import ctypes; ctypes.CDLL(None).signal(15, 0); "
    code, err = told(
        started(f"{ON}\nwith signals.guarded():\n    {take}time.sleep(0.5); {READY}time.sleep(60)"), signal.SIGTERM
    )
    assert (code, err) == (143, f"{signals.line(signal.SIGTERM)}\n")
    code, err = told(started(f"{ON}\nwith signals.guarded():\n    {take}\n{READY}time.sleep(60)"), signal.SIGTERM)
    assert (code, err) == (143, f"{signals.line(signal.SIGTERM)}\n")


def test_what_lies_in_temporary_folders_is_removed_after_those_who_write_there(tmp_path: Path) -> None:
    litter = tmp_path / "litter"
    write = f"import itertools; [open({str(litter)!r} + f'/{{i}}', 'w').close() for i in itertools.count()]"
    child = f"import subprocess; subprocess.Popen([sys.executable, '-c', {write!r}]); "
    litter.mkdir()
    process = started(f"{ON}{child}signals.remove_last({str(litter)!r}); {READY}time.sleep(60)")
    while not any(litter.iterdir()):
        time.sleep(0.01)
    assert told(process, signal.SIGTERM)[0] == 143 and not litter.exists()


def test_a_signal_that_was_ignored_from_the_start_stays_ignored() -> None:
    """nohup; and Ctrl-C for what a shell has put in the background."""
    quiet = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = started(f"{ON}{READY}time.sleep(60)")
    finally:
        signal.signal(signal.SIGHUP, quiet)
    assert told(process, signal.SIGHUP, signal.SIGTERM)[0] == 143


def test_children_and_what_they_started_end_whatever_they_think_of_it() -> None:
    stubborn = "import signal, subprocess, sys, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; "
    grand = f"{stubborn}subprocess.Popen({SLEEP}, start_new_session=True); time.sleep(60)"
    program = f"{ON}import subprocess; subprocess.Popen([sys.executable, '-c', {grand!r}]); {READY}time.sleep(60)"
    process = started(program)
    driver = psutil.Process(process.pid)
    while len(family := driver.children(recursive=True)) < 2:
        time.sleep(0.05)
    assert told(process, signal.SIGTERM)[0] == 143
    assert not psutil.wait_procs(family, timeout=10)[1], "children go when their parent has gone"


def test_the_store_outlives_the_program_that_waits_for_it() -> None:
    """A main thread that waits for one of its children ends the program itself, as soon as that child is gone."""
    waits = "import subprocess; child = subprocess.Popen(['sleep', '60']); "
    code = f"{ON}{waits}{READY}child.wait(); os._exit(1)"
    for _ in range(5):
        process = started(f"import os; {code}")
        (child,) = psutil.Process(process.pid).children()
        assert told(process, signal.SIGTERM)[0] == 143
        assert not psutil.wait_procs([child], timeout=10)[1]


def test_a_second_signal_leaves_nothing_behind_that_was_stopped() -> None:
    slow = "signals._farewells.append(lambda: time.sleep(60)); signals.FAREWELL_S = 60; "
    process = started(f"{ON}{slow}import subprocess; child = subprocess.Popen(['sleep', '60']); {READY}time.sleep(60)")
    (child,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    while child.status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    assert told(process, signal.SIGINT)[0] == 143 and not psutil.wait_procs([child], timeout=10)[1]


def test_a_second_signal_does_not_wait() -> None:
    slow = "signals.kill_descendants = lambda: time.sleep(60); "
    begun = time.monotonic()
    assert told(started(f"{ON}{slow}{READY}time.sleep(60)"), signal.SIGTERM, signal.SIGINT)[0] == 143
    assert time.monotonic() - begun < 50


def test_a_program_that_only_calls_the_command_line_keeps_its_handlers() -> None:
    before = [signal.getsignal(n) for n in CODES]
    from raydistill.cli import main

    assert main([]) == 0 and [signal.getsignal(n) for n in CODES] == before


@pytest.mark.parametrize("job", sorted(p.stem for p in (ROOT / "jobs").glob("*.py")))
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_every_job_listens_while_it_imports(job: str, number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("import os, time; os.write(1, b'ready\\n'); time.sleep(60)")
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), "--help"]
    assert told(started(command, tmp_path), number) == (CODES[number], f"{signals.line(number)}\n")


def test_a_farewell_is_said_and_one_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    words = f"with signals.farewell(lambda: open({str(tmp_path / 'said')!r}, 'w').close()), "
    words += "signals.farewell(lambda: time.sleep(60)):"
    assert told(started(f"{ON}\n{words}\n    {READY}time.sleep(60)"), signal.SIGTERM)[0] == 143
    assert (tmp_path / "said").exists()


def test_the_code_stands_although_the_program_is_at_its_own_end() -> None:
    """The signal comes while what was registered for the end, as Ray's, is still at work."""
    late = "atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.05)))"
    slow = "signals._farewells.append(lambda: time.sleep(1))"
    start = "import atexit, os, signal, time; from raydistill import signals; signals.watch()"
    code = f"{start}; {late}; {slow}; signals.settle()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130 and done.stderr.splitlines() == [signals.line(signal.SIGINT)]
