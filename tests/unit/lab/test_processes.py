"""Processes by pid file: a pid that was reused is not the process that had it."""

import os
import subprocess
import sys

from pycilium.lab import processes

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)",
]


def test_a_running_process_is_found_by_its_pid_file(tmp_path):
    pid_file = tmp_path / "x.pid"
    processes.write_pid_file(pid_file, os.getpid())

    assert processes.read_pid_file(pid_file) == os.getpid()


def test_a_pid_that_somebody_else_has_now_is_not_taken_for_it(tmp_path):
    pid_file = tmp_path / "x.pid"
    pid_file.write_text(f"{os.getpid()} 1\n")

    assert processes.read_pid_file(pid_file) is None


def test_a_missing_or_damaged_pid_file_means_not_running(tmp_path):
    damaged = tmp_path / "x.pid"
    damaged.write_text("nonsense")

    assert processes.read_pid_file(damaged) is None
    assert processes.read_pid_file(tmp_path / "absent.pid") is None


def test_end_waits_until_the_process_is_gone():
    process = subprocess.Popen(SLEEPER)

    processes.end([process.pid])

    assert not processes.is_running(process.pid)
    process.wait()


def test_a_process_that_will_not_end_is_killed():
    with subprocess.Popen(STUBBORN, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()

        processes.end([process.pid], grace_s=0.1)

        assert not processes.is_running(process.pid)


def test_ending_what_has_ended_is_no_error():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()

        processes.end([process.pid])


def test_the_last_lines_of_a_run_are_those_it_wrote_itself(tmp_path):
    log = tmp_path / "x.log"
    before_all = processes.size_of(log)
    log.write_text("earlier\n")
    before = processes.size_of(log)
    with log.open("a") as opened:
        opened.writelines(f"line {number}\n" for number in range(4))

    assert processes.last_lines(log, 3, since=before) == "line 1\nline 2\nline 3"
    assert processes.last_lines(log, since=before_all).startswith("earlier")
    assert processes.last_lines(tmp_path / "absent.log") == ""
