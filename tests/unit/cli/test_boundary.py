"""Every foreseen error is one line on stderr and an exit code."""

import subprocess
import sys

import pytest

SCRIPT = """
import click, sys
from pycilium.cli.boundary import run
from pycilium import errors

@click.command()
def command():
    {body}

run(command, "program")
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(body=body)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("raise errors.NotFound('no pod a/b')", 1, "Error: no pod a/b\n"),
        ("raise click.UsageError('which pod?')", 2, "Usage: program [OPTIONS]\n\nError: which pod?\n"),
        ("raise KeyboardInterrupt", 130, "Error: interrupted\n"),
        ("sys.exit(7)", 7, ""),
        ("pass", 0, ""),
    ],
    ids=["ours", "usage", "interrupted", "exit", "success"],
)
def test_errors_become_text_and_exit_codes(body, code, stderr):
    done = run(body)

    assert (done.returncode, done.stderr.replace("Try 'program --help' for help.\n", "").removeprefix("\n")) == (
        code,
        stderr,
    )


def test_a_value_may_follow_a_short_option_after_an_equals_sign_as_ciliums_clients_write_it():
    script = SCRIPT.replace("def command():", "@click.option('-o')\ndef command(o):").format(body="print(o)")

    shown = [
        subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=30).stdout
        for words in (["-o=json"], ["-o", "json"], ["-ojson"])
    ]

    assert shown == ["json\n"] * 3


def test_a_fault_of_ours_is_told_without_a_traceback():
    done = run("1 / 0")

    assert done.returncode == 1
    assert done.stderr.startswith("Error: unforeseen ZeroDivisionError: division by zero (CILIUM_DEBUG=1")
    assert "Traceback" not in done.stderr


def test_a_termination_unwinds_what_was_begun():
    done = run(
        "import os, signal\n"
        "    try: os.kill(os.getpid(), signal.SIGTERM); import time; time.sleep(9)\n"
        "    finally: print('undone')"
    )

    assert (done.returncode, done.stdout) == (143, "undone\n")


def test_a_reader_that_goes_away_is_no_error():
    script = SCRIPT.format(body="[print('x' * 1000) for _ in range(10000)]")
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" | head -1', sys.executable, script], capture_output=True, text=True, timeout=30
    )

    assert done.stderr == ""
