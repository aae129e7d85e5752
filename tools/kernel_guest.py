"""The half of tools/kernel_matrix.py that runs inside the virtual machine: the checks, and what came of each.

Each check is a command whose exit code counts. What it says goes to the console as it comes, and then one line of JSON,
behind a mark.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

MARK = "@@check "
ENDED = "@@ended "
"""With the exit code of all that was to run: a machine that ends without it has been ended by something else."""
PYTEST = (".venv/bin/pytest", "-v", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib -rfE")
SCTP = ("tests/bpf/test_live_sctp.py", "tests/e2e/test_sctp.py")
APART = ("tests/e2e/test_wheel.py", "tests/e2e/test_readme.py", *SCTP)
E2E = ("tests/e2e", *(f"--ignore={path}" for path in APART))
CHECKS: dict[str, tuple[str, ...]] = {
    # what the kernel has, and how programs are attached
    "features": (sys.executable, "-c", "from kernel_guest import features; features()"),
    # the verifier, under every configuration
    "programs": (*PYTEST, "tests/bpf/test_verifier.py"),
    # packets through the programs, and real ones between namespaces
    "packets": (*PYTEST, "tests/bpf", "--ignore=tests/bpf/test_verifier.py", "--ignore=tests/bpf/test_differential.py"),
    # maps and their batches, the loader, links
    "datapath": (*PYTEST, "tests/integration/datapath"),
    # real associations between pods, nodes and the world: kernels of machines often lack the sockets
    "sctp": (*PYTEST, *SCTP),
    # the plugin, and all commands on a lab: pods, policies, restarts of the agent
    "lab": (*PYTEST, "tests/integration/cni", *E2E),
}


def features() -> None:
    from pycilium.datapath.features import report

    checks = report()
    print("; ".join(f"{check.name}: {check.words}" for check in checks))
    sys.exit(not all(check.available for check in checks if check.needed))


def try_it(check: str) -> None:
    started = time.monotonic()
    lines: list[str] = []
    with subprocess.Popen(
        CHECKS[check], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environment()
    ) as running:
        for raw in running.stdout or ():
            lines.append(raw.decode(errors="replace").rstrip())
            print(lines[-1], flush=True)
    said = [line for line in lines if line.strip()]
    result = {
        "check": check,
        "passed": running.returncode == 0,
        "summary": said[-1] if said else "said nothing",
        "seconds": round(time.monotonic() - started),
        "failures": [line for line in said if line.startswith(("FAILED", "ERROR"))][:30],
    }
    print(MARK + json.dumps(result), flush=True)


def _environment() -> dict[str, str]:
    path = f"{os.getcwd()}/.venv/bin:{os.environ['PATH']}"
    unbuffered = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **unbuffered, "PATH": path, "PYTHONPATH": "tools"}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        try_it(name)
