"""The cgroup of a systemd unit, as systemd says; of one that does not run, where it will be."""

from __future__ import annotations

import shutil
import subprocess

from pycilium.errors import InvalidResource, NotFound

_PROPERTIES = "LoadState,ControlGroup,Slice"


def cgroup_of_unit(unit: str) -> str:
    """From the root of cgroups on. NotFound if systemd does not know the unit, or is not here."""
    if "." not in unit or "/" in unit:
        raise InvalidResource(f"{unit!r} is no unit: write it with its type, such as nginx.service", path="--unit")
    if shutil.which("systemctl") is None:
        raise NotFound("there is no systemd here that could be asked for units: name the cgroup (--cgroup PATH)")
    asked = subprocess.run(
        ["systemctl", "show", f"--property={_PROPERTIES}", "--", unit], capture_output=True, text=True, check=False
    )
    if asked.returncode != 0:
        why = asked.stderr.partition("\n")[0].rstrip(". ")
        raise NotFound(f"systemd does not say where {unit} is ({why}): name the cgroup (--cgroup PATH)")
    return cgroup_in(unit, asked.stdout)


def cgroup_in(unit: str, shown: str) -> str:
    """What `systemctl show` says of it."""
    said = dict(line.partition("=")[::2] for line in shown.splitlines())
    if said.get("LoadState") != "loaded":
        raise NotFound(f"systemd knows no unit {unit} ({said.get('LoadState') or 'it says nothing'})")
    return said.get("ControlGroup") or f"{_of_slice(said.get('Slice') or 'system.slice')}/{unit}"


def _of_slice(name: str) -> str:
    """a-b.slice lies in a.slice; -.slice is the root."""
    parts = [part for part in name.removesuffix(".slice").split("-") if part]
    return "".join(f"/{'-'.join(parts[: number + 1])}.slice" for number in range(len(parts)))
