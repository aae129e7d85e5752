"""A bare machine to install on: namespaces of network, mounts and cgroups of its own, in which all paths are as usual.

/run, /etc, /var/lib/cilium and whatever container runtimes write lie on memory that ends with it; cgroup v2 and the BPF
file system are mounted where distributions have them. Nothing of the real machine can be reached by writing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from pycilium.datapath import cgroup_links
from pycilium.lab import processes

BIN = Path(sys.executable).parent
IN_MEMORY = (
    *("/run", "/dev/shm"),
    *(f"/var/lib/{name}" for name in ("cilium", "cni", "containers", "containerd")),
)
SETUP = """
set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
for folder in etc opt usr/lib var/lib; do
    mkdir -p "$1/$folder" "$1/$folder.work"
    mount -t overlay none -o "lowerdir=/$folder,upperdir=$1/$folder,workdir=$1/$folder.work" "/$folder"
done
rm -rf /etc/cni/net.d /etc/cilium /etc/containers/containers.conf /etc/containerd && mkdir -p /etc/cni/net.d
for folder in $2; do mkdir -p "$folder" && mount -t tmpfs none "$folder"; done
mkdir -p /run/netns /run/lock /usr/lib/cni
umount --recursive --lazy /sys
mount -t sysfs none /sys
mount -t cgroup2 none /sys/fs/cgroup
mkdir /sys/fs/cgroup/init
echo 0 >/sys/fs/cgroup/init/cgroup.procs
mount -t bpf none /sys/fs/bpf
ip link set lo up
ip netns add world
ip link add eth0 type veth peer name eth0 netns world
ip addr add 192.0.2.10/24 dev eth0
ip addr add 2001:db8::10/64 dev eth0 nodad
ip link set eth0 up
ip -n world link set lo up
ip -n world addr add 192.0.2.1/24 dev eth0
ip -n world addr add 2001:db8::1/64 dev eth0 nodad
ip -n world link set eth0 up
ip route add default via 192.0.2.1
ip -6 route add default via 2001:db8::1
echo ready
exec sleep infinity
"""


class Machine:
    """Use it as a context. Its address is 192.0.2.10; the world's is 192.0.2.1, in its namespace `world`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder / "memory"
        self._cgroup = cgroup_links.cgroup_root() / f"pycilium-{name}-{os.getpid()}"
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir()
        self._cgroup.mkdir()
        argv = [*_joining(self._cgroup), "unshare", "--net", "--mount", "--cgroup", "sh", "-c", SETUP, "setup"]
        self._holder = subprocess.Popen(
            [*argv, str(self.folder), " ".join(IN_MEMORY)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            self.__exit__()
            raise RuntimeError("the machine could not be made")
        return self

    def __exit__(self, *_: object) -> None:
        (self._cgroup / "cgroup.kill").write_text("1")
        assert self._holder is not None
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        until(lambda: _remove_cgroups(self._cgroup), "the machine's processes are gone")
        shutil.rmtree(self.folder, ignore_errors=True)

    def popen(self, *argv: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[Any]:
        """A process of the machine."""
        assert self._holder is not None
        path = f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.Popen(
            [
                *_joining(self._cgroup / "init"),
                "nsenter",
                "--target",
                str(self._holder.pid),
                "--net",
                "--mount",
                "--cgroup",
                *argv,
            ],
            env={"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", **(env or {})},
            **options,
        )

    def run(
        self, *argv: str, check: bool = True, timeout_s: float = 120, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        process = self.popen(
            *argv,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        out, err = process.communicate(stdin, timeout=timeout_s)
        done = subprocess.CompletedProcess(argv, process.returncode, out, err)
        assert not check or done.returncode == 0, f"{' '.join(argv)}: exit code {done.returncode}\n{out}\n{err}"
        return done

    def world(self, *argv: str) -> str:
        """What a command says in the world; its processes are outside of the machine's cgroups."""
        assert self._holder is not None
        enter = ("nsenter", "--target", str(self._holder.pid), "--net", "--mount", "ip", "netns", "exec", "world")
        return subprocess.run([*enter, *argv], capture_output=True, text=True, check=False).stdout

    def output(self, *argv: str) -> str:
        return self.run(*argv).stdout.strip()

    def write(self, path: str, content: str) -> None:
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "write", path, stdin=content)


def _joining(cgroup: Path) -> list[str]:
    """What a command that begins with this does first."""
    return ["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', str(cgroup)]


def until(holds: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Waits for a condition; fails naming it."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def _remove_cgroups(root: Path) -> bool:
    try:
        for folder, _, _ in os.walk(root, topdown=False):
            os.rmdir(folder)
    except OSError:
        return False
    return True


def end(process: subprocess.Popen[Any]) -> None:
    processes.end([process.pid], 20)
    process.wait()


class Agent:
    """The agent of a machine, configured in /etc/cilium/agent.json."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        """Returns once it is ready."""
        with (self._machine.folder.parent / "agent.log").open("ab") as log:
            self._process = self._machine.popen("cilium-agent", "--config", "/etc/cilium/agent.json", stderr=log)
        until(lambda: self._machine.run("cilium", "status", check=False).returncode == 0, "the agent is ready")

    def end(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def restart(self) -> None:
        self.end()
        self.start()


def busybox_image(folder: Path) -> None:
    """The files of a container that has busybox and nothing else."""
    (folder / "bin").mkdir(parents=True)
    for name in ("tmp", "etc", "proc", "sys", "dev"):
        (folder / name).mkdir()
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox-static is not installed: tools/prepare.sh packages test"
    shutil.copy(busybox, folder / "bin" / "busybox")
    for name in ("sh", "sleep", "nc", "wget", "httpd", "ip", "ping", "cat", "echo", "true"):
        (folder / "bin" / name).symlink_to("busybox")
