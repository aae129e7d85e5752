"""What a node of a cluster lacks, or has in the way, by what is seen of it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from click.testing import CliRunner

from pycilium.datapath.rtnetlink import Link
from pycilium.machine import node_preflight
from pycilium.machine.node_preflight import Node, Wanted, judged, mounts_in, passed_on
from pycilium.model.l4 import Protocol

OVERLAY = Wanted(8472, "", replaces_kube_proxy=False)
MOUNTINFO = """22 27 0:20 / /proc rw,relatime shared:12 - proc proc rw
30 27 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/a\\040b rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
"""


def link(name, kind="", port=0, *, ifindex=2, master=0):
    data = struct.pack("=HH", 6, 15) + struct.pack(">H", port) + bytes(2) if kind == "vxlan" else b""
    return Link(ifindex, name, 0, b"", 1500, kind, 0, "", data, master_ifindex=master)


def node(*links, bound=(), file_systems=("bpf", "cgroup2"), mounts=None, rules=False, processes=()):
    return Node(links, set(bound), file_systems, mounts or {}, rules, processes)


def said(node, wanted=OVERLAY):
    return [str(each) for each in judged(node, wanted)]


def test_of_a_node_that_has_what_is_needed_nothing_is_said():
    assert said(node(link("eth0"), link("cilium_vxlan", "vxlan", 8472), bound=[(8472, Protocol.UDP)])) == []


def test_flannel_that_was_left_is_named_and_so_is_the_port_that_it_holds():
    left = node(link("cni0", "bridge"), link("flannel.1", "vxlan", 8472), bound=[(8472, Protocol.UDP)])

    remedy = "once that network has ended, `cilium preflight --nodes --repair` removes it"
    assert said(left) == [
        f"warning: device cni0 is left of flannel: {remedy}",
        f"warning: device flannel.1 is left of flannel: {remedy}",
        "error: device flannel.1 has UDP port 8472: remove it, or --set tunnelPort=PORT, or --set routingMode=native",
    ]


@pytest.mark.parametrize(
    ("seen", "left", "why"),
    [
        (node(link("cni0", "bridge"), link("flannel.1", "vxlan")), ["cni0", "flannel.1"], "--repair"),
        (node(link("flannel.1", "vxlan"), processes=["kubelet", "flanneld"]), [], "flanneld runs: end it first"),
        (node(link("cni0", "bridge", ifindex=7), link("veth1", "veth", master=7)), [], "pods of before use it (1)"),
        (node(link("cni0", "bridge", ifindex=7), link("veth1", "veth", master=6)), ["cni0"], "--repair"),
        (node(link("weave", "bridge"), link("cni0", "dummy")), [], "ip link del"),
    ],
)
def test_flannels_devices_may_be_removed_where_nobody_uses_them(seen, left, why):
    assert seen.left_by_flannel == left
    assert all(why in line for line in said(seen))


@pytest.mark.parametrize(("port", "refused"), [(8472, True), (8473, False), (0, False)])
def test_a_process_that_has_the_overlays_port_is_in_the_way(port, refused):
    lines = said(node(bound=[(8472, Protocol.UDP), (8473, Protocol.TCP)]), Wanted(port, "", False))

    assert [line.partition(":")[0] for line in lines] == ["error"] * refused
    assert all("UDP port 8472 is in use" in line for line in lines)


def test_cgroups_must_be_mounted_only_where_the_agents_pod_does_not():
    mounts = mounts_in(MOUNTINFO)
    wanted = Wanted(0, "/sys/fs/cgroup", replaces_kube_proxy=False)

    assert mounts["/sys/fs/cgroup/a b"] == "cgroup2"
    assert said(node(mounts=mounts), wanted) == []
    (line,) = said(node(mounts={"/sys/fs/cgroup": "tmpfs"}), wanted)
    assert line.startswith("error: /sys/fs/cgroup is no cgroup v2 file system")
    assert said(node()) == []


def test_a_kernel_without_a_file_system_that_is_mounted_later_is_named():
    (line,) = said(node(file_systems=("bpf", "ext4")))

    assert "file system cgroup2" in line


@pytest.mark.parametrize("left", [node(rules=True), node(link("kube-ipvs0", "dummy"))])
def test_rules_of_a_kube_proxy_are_left_only_where_it_is_replaced(left):
    assert said(left) == []
    (line,) = said(left, Wanted(8472, "", replaces_kube_proxy=True))
    assert "kube-proxy --cleanup" in line


def test_a_report_has_no_more_than_a_kubelet_passes_on_and_says_so():
    lines = [f"warning: {number:04} {'ö' * 90}" for number in range(100)]

    report = passed_on(lines)

    assert len(report.encode()) <= 4096
    *kept, last = report.splitlines()
    assert kept == lines[: len(kept)]
    assert last.startswith(f"warning: {100 - len(kept)} findings more")
    assert passed_on(lines[:3]) == "\n".join(lines[:3])


@pytest.fixture
def run(monkeypatch):
    def run(seen, *words):
        monkeypatch.setattr(node_preflight.machine, "lacking", lambda: iter(()))
        monkeypatch.setattr(node_preflight, "seen", lambda _: seen)
        return CliRunner().invoke(node_preflight.preflight, words)

    return run


def test_the_command_says_by_its_exit_code_whether_the_node_can_take_an_agent(run):
    fine = run(node())
    assert (fine.exit_code, fine.output.partition(":")[0]) == (0, "ok")
    assert run(node(bound=[(8472, Protocol.UDP)])).exit_code == 1
    assert run(node(link("cni0"))).exit_code == 0


def test_a_report_that_is_written_is_a_look_that_succeeded(run, tmp_path: Path):
    report = tmp_path / "termination-log"

    done = run(node(bound=[(8472, Protocol.UDP)]), f"--report={report}")

    assert done.exit_code == 0
    assert report.read_text() == done.output.strip()
    assert run(node(), f"--report={tmp_path}/absent/log").exit_code == 1
