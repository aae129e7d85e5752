"""The cgroup of a systemd unit, as systemd says, and whose sockets it has; while it does not run, where it will be."""

from __future__ import annotations

import re
import shutil
import subprocess

from pycilium.errors import InvalidResource, NotFound

_PROPERTIES = "Id,LoadState,ControlGroup,Slice,TriggeredBy"
_ROOT_SLICE = "-.slice"
"""Holds all units; its cgroup is the root, unless systemd itself runs in a cgroup below."""
_TEMPLATE = re.compile(r"@\.[a-z]+$")
_LIKE_FILES_OF_THE_KERNEL = re.compile(r"[_.]|(blkio|bpf-[a-z-]+|cgroup|cpu|cpuacct|cpuset|devices|io|memory|pids)\.")


def is_unit(name: str) -> bool:
    """Whether it is called as a unit that has processes."""
    return name.endswith((".service", ".scope", ".slice", ".socket"))


def cgroup_of_unit(unit: str) -> str:
    """From the root of cgroups on. NotFound if systemd does not know the unit, or is not here."""
    return cgroup_in(unit, _shown(unit))


def socket_units_of(unit: str) -> list[str]:
    """Those that open sockets for it, which are in their cgroups, not in its own. Raises as `cgroup_of_unit`."""
    return socket_units_in(_shown(unit))


def _shown(unit: str) -> str:
    if "." not in unit or "/" in unit:
        raise InvalidResource(f"{unit!r} is no unit: write it with its type, such as nginx.service", path="--unit")
    if _TEMPLATE.search(unit):
        name, _, kind = unit.partition("@.")
        raise InvalidResource(
            f"{unit} is a template, which has no processes: name one that was made of it, such as {name}@1.{kind} "
            f"(`systemctl list-units '{name}@*'` shows them)",
            path="--unit",
        )
    if shutil.which("systemctl") is None:
        raise NotFound("there is no systemd here that could be asked for units: name the cgroup (--cgroup PATH)")
    command = ["systemctl", "show", f"--property={_PROPERTIES}", "--", unit, _ROOT_SLICE]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        why = asked.stderr.partition("\n")[0].rstrip(". ")
        raise NotFound(f"systemd does not say where {unit} is ({why}): name the cgroup (--cgroup PATH)")
    return asked.stdout


def socket_units_in(shown: str) -> list[str]:
    """As `cgroup_in`."""
    said, _ = _read(shown)
    return [name for name in said.get("TriggeredBy", "").split() if name.endswith(".socket")]


def cgroup_in(unit: str, shown: str) -> str:
    """What `systemctl show` says of it, and of the root slice after it."""
    said, root = _read(shown)
    if said.get("LoadState") != "loaded":
        raise NotFound(f"systemd knows no unit {unit} ({said.get('LoadState') or 'it says nothing'})")
    if "ControlGroup" not in said:
        raise InvalidResource(f"{unit} has no processes: name a service, a socket or a slice", path="--unit")
    above = root.get("ControlGroup", "").rstrip("/")
    place = f"{_of_slice(said.get('Slice') or 'system.slice')}/{_folder(said.get('Id') or unit)}"
    return said["ControlGroup"] or f"{above}{place}"


def _read(shown: str) -> tuple[dict[str, str], dict[str, str]]:
    units = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in shown.split("\n\n")]
    return units[0], units[-1]


def _of_slice(name: str) -> str:
    """a-b.slice lies in a.slice; -.slice is the root."""
    parts = [part for part in name.removesuffix(".slice").split("-") if part]
    return "".join(f"/{_folder('-'.join(parts[: number + 1]) + '.slice')}" for number in range(len(parts)))


def _folder(unit: str) -> str:
    """What could be one of the kernel's files in a cgroup, such as memory.service, gets a `_` from systemd."""
    return f"_{unit}" if _LIKE_FILES_OF_THE_KERNEL.match(unit) else unit
