"""The half of tools/kernel_matrix.py that runs inside the virtual machine: the checks, and what came of each.

Each check is a command whose exit code counts. One line of JSON per check goes to the console, behind a mark.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

MARK = "@@check "
PYTEST = (".venv/bin/pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib -rfE")
E2E = ("tests/e2e", "--ignore=tests/e2e/test_wheel.py", "--ignore=tests/e2e/test_readme.py")
CHECKS: dict[str, tuple[str, ...]] = {
    # what the kernel has, and how programs are attached
    "features": (sys.executable, "-c", "from kernel_guest import features; features()"),
    # the verifier, under every configuration
    "programs": (*PYTEST, "tests/bpf/test_verifier.py"),
    # packets through the programs, and real ones between namespaces
    "packets": (*PYTEST, "tests/bpf", "--ignore=tests/bpf/test_verifier.py", "--ignore=tests/bpf/test_differential.py"),
    # maps and their batches, the loader, links
    "datapath": (*PYTEST, "tests/integration/datapath"),
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
    path = f"{os.getcwd()}/.venv/bin:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": "tools", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(CHECKS[check], capture_output=True, text=True, check=False, env=environment)
    print(done.stdout, done.stderr, sep="\n", flush=True)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    result = {
        "check": check,
        "passed": done.returncode == 0,
        "summary": lines[-1] if lines else "said nothing",
        "seconds": round(time.monotonic() - started),
        "failures": [line for line in lines if line.startswith(("FAILED", "ERROR"))][:30],
    }
    print(MARK + json.dumps(result), flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        try_it(name)
