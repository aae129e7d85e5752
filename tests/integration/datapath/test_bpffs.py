"""Where pins live, on a machine that has no BPF file system yet: in a mount namespace of the test's own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

ELSEWHERE = 'mount --make-rprivate / && umount --recursive --lazy /sys && mount -t sysfs none /sys && exec "$@"'
PROGRAM = """
from pycilium.datapath import bpffs
assert not bpffs.is_bpffs("/sys/fs/bpf")
bpffs.ensure("/sys/fs/bpf/cilium")
bpffs.ensure("/sys/fs/bpf/cilium")
print(bpffs.is_bpffs("/sys/fs/bpf"), open("/proc/mounts").read().count(" /sys/fs/bpf bpf "))
"""


def test_a_machine_that_has_none_mounted_gets_one_where_sysfs_lets_nobody_make_a_folder():
    """Without systemd nobody had mounted it, and the agent ended: "No such file or directory"."""
    argv = ("unshare", "--mount", "sh", "-c", ELSEWHERE, "sh", sys.executable, "-c", PROGRAM)

    done = subprocess.run(argv, capture_output=True, text=True)

    assert (done.stdout, done.returncode) == ("True 1\n", 0), done.stderr
