"""Without policies everybody reaches everybody, in both families and by every protocol."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.lab import NODE, OTHER_WORLD, WORLD, Lab, Pod, answers_udp, connects, pings, run_inside, serving

pytestmark = pytest.mark.root
PORT = 8080


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[tuple[Pod, Pod]]:
    first, second = lab.add_pod("first", app="first"), lab.add_pod("second", app="second")
    with serving(second.netns, PORT), serving(lab.node_netns, PORT), serving(lab.world_netns, PORT):
        yield first, second


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def reaches(netns: str, address: str) -> tuple[bool, bool, bool]:
    return connects(netns, address, PORT), answers_udp(netns, address, PORT), pings(netns, address)


def test_a_pod_reaches_another_pod(pods, family):
    first, second = pods

    assert reaches(first.netns, second.address[family]) == (True, True, True)


def test_a_pod_reaches_its_node(pods, family):
    assert reaches(pods[0].netns, NODE[family]) == (True, True, True)


def test_the_node_reaches_a_pod(lab, pods, family):
    assert reaches(lab.node_netns, pods[1].address[family]) == (True, True, True)


def test_a_pod_reaches_the_world(pods, family):
    assert reaches(pods[0].netns, WORLD[family]) == (True, True, True)
    assert reaches(pods[0].netns, OTHER_WORLD[family]) == (True, True, True)


def test_the_world_reaches_a_pod(lab, pods, family):
    assert reaches(lab.world_netns, pods[1].address[family]) == (True, True, True)


def test_pods_interfaces_leave_room_for_the_overlay(lab, pods):
    found = [
        run_inside(netns, "ip", "-o", "link", "show", device).stdout.split()
        for netns, device in (
            (pods[0].netns, "eth0"),
            (lab.node_netns, "cilium_host"),
            (lab.node_netns, "cilium_vxlan"),
        )
    ]

    assert [words[words.index("mtu") + 1] for words in found] == ["1450"] * 3


def test_a_pod_reaches_itself(pods, family):
    assert reaches(pods[1].netns, pods[1].address[family]) == (True, True, True)


def test_the_world_says_which_address_answered_and_sees_the_node(pods, family):
    url = f"http://[{WORLD[6]}]/" if family == 6 else f"http://{WORLD[4]}/"

    answer = run_inside(pods[0].netns, "curl", "-gs", "--max-time", "5", url).stdout

    assert answer == f"world {WORLD[family]} answers {NODE[family]}\n"


def test_large_packets_arrive_in_fragments(pods, family):
    first, second = pods

    done = run_inside(first.netns, "ping", "-c2", "-W2", "-s", "4000", second.address[family])

    assert done.returncode == 0, done.stdout


def test_a_closed_port_is_refused_at_once(pods, family):
    done = run_inside(
        pods[0].netns,
        "curl",
        "-gs",
        "--max-time",
        "2",
        f"http://[{pods[1].address[6]}]:81/" if family == 6 else f"http://{pods[1].address[4]}:81/",
    )

    assert done.returncode == 7  # refused, not timed out


def test_a_pod_cannot_send_from_an_address_that_is_not_its_own(lab, pods):
    first, second = pods
    stolen = "10.0.1.200"
    run_inside(first.netns, "ip", "address", "add", f"{stolen}/32", "dev", "eth0")
    try:
        done = run_inside(first.netns, "ping", "-c1", "-W1", "-I", stolen, second.address[4])
    finally:
        run_inside(first.netns, "ip", "address", "del", f"{stolen}/32", "dev", "eth0")

    assert done.returncode == 1
    flows = lab.run("hubble", "observe", "--verdict", "DROPPED", "--last", "10").stdout
    assert "Invalid source ip" in flows
