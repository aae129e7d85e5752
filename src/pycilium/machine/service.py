"""The agent and the operator as services of systemd, and whether the agent is at work."""

from __future__ import annotations

import subprocess
import time

from pycilium.errors import AgentUnavailable, InstallRefused

AGENT, OPERATOR = "cilium-agent.service", "cilium-operator.service"
_POLL_S = 0.2


def start(unit: str, *, anew: bool) -> None:
    """Enable and start it; with `anew` one that runs is exchanged for a new one."""
    _systemctl("daemon-reload")
    _systemctl("enable", unit)
    _systemctl("restart" if anew else "start", unit)


def stop(unit: str) -> None:
    """Not running and not enabled is success."""
    subprocess.run(["systemctl", "disable", "--now", unit], capture_output=True, check=False)


def forget() -> None:
    """After units are gone."""
    _systemctl("daemon-reload")


def wait_until_ready(socket: str, timeout_s: float) -> None:
    """InstallRefused if the agent is not at work in time."""
    from pycilium.api.client import AgentClient

    deadline = time.monotonic() + timeout_s
    why = ""
    while time.monotonic() < deadline:
        try:
            status = AgentClient(socket).status().get("cilium", {})
        except AgentUnavailable as error:
            why = str(error)
        else:
            if status.get("state") in ("Ok", "Warning"):
                return
            why = str(status.get("msg"))
        time.sleep(_POLL_S)
    raise InstallRefused(
        f"the agent is not ready after {timeout_s:g} s ({why}): `journalctl -u cilium-agent` says more"
    )


def answers(socket: str) -> bool:
    """Whether an agent listens there."""
    from pycilium.api.client import AgentClient

    try:
        AgentClient(socket).status()
    except AgentUnavailable:
        return False
    return True


def _systemctl(*arguments: str) -> None:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InstallRefused(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
