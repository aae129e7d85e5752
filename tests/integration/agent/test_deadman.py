"""Programs that break a node are taken back; those that do not, stay. Real devices, a real gateway, real packets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pycilium.agent.deadman import LOOK_TIMEOUT_S, Deadman
from pycilium.agent.link_operations import LinkOperations, LinkTarget
from pycilium.api.client import AgentClient
from pycilium.datapath import bpf_syscall as bpf
from pycilium.datapath import bpffs, links
from pycilium.datapath.echo import Echo
from pycilium.datapath.links import Hook
from pycilium.datapath.loader import Datapath, DatapathConfig, load
from pycilium.datapath.reachability import GatewayCheck, default_gateways
from pycilium.errors import AgentUnavailable
from pycilium.lab import namespaces
from tests.integration.agent.conftest import GATEWAY, Place

pytestmark = pytest.mark.root

WINDOW_S = 1.5
PATIENT_S = 30.0
STORE_PORT = 2379
MODES = [
    pytest.param("tcx", marks=pytest.mark.skipif(not links.has_tcx(), reason="tcx links are of Linux 6.6")),
    "tc",
]


@pytest.fixture
def bpf_root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "bpf"
    bpffs.ensure(root)
    yield root
    bpffs.unmount(root)


@pytest.fixture
def programs(bpf_root: Path, breaking_programs: Path) -> Iterator[Datapath]:
    with load(DatapathConfig(bpf_root=str(bpf_root)), breaking_programs) as loaded:
        yield loaded


class Switch:
    """The dead-man switch over one device, inside the node; `rolled_back` are the reasons it gave."""

    def __init__(self, programs: Datapath, bpf_root: Path, mode: links.Mode) -> None:
        self.operations = LinkOperations(programs, str(bpf_root), mode)
        self.rolled_back: list[str] = []
        self._ifindex = socket.if_nametoindex("eth0")
        self.echo = Echo.open()
        checks = {
            f"default gateway {gateway.address}": GatewayCheck(gateway, self.echo, LOOK_TIMEOUT_S)
            for gateway in default_gateways({self._ifindex})
        }
        self.deadman = Deadman(
            {**checks, "store": store_answers},
            self.operations,
            WINDOW_S,
            lambda _, said: self.rolled_back.append(said),
            lambda: self.attach(self._tried),
        )
        self._tried = ""

    def attach(self, program: str) -> None:
        self._tried = program
        target = LinkTarget(self._ifindex, program, Hook.INGRESS, guarded=True)
        assert self.operations.update({"eth0": target}) == {}

    def attached(self) -> list[int]:
        """Numbers of the programs that run on the device."""
        by_link = [number for _, number in bpf.query_links(self._ifindex, Hook.INGRESS.tcx)] if links.has_tcx() else []
        found = links.attachment(self._ifindex, "/nowhere", hook=Hook.INGRESS)
        return by_link + ([found.program_id] if found else [])

    async def settled(self) -> None:
        """Wait until nothing is on trial."""
        async with asyncio.timeout(PATIENT_S):
            while self.operations.trials:  # noqa: ASYNC110  what is waited for has no event
                await asyncio.sleep(0.02)


async def store_answers() -> bool:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            _, writer = await asyncio.open_connection(GATEWAY[4], STORE_PORT)
            writer.close()
            return True
    return False


@contextmanager
def store_at_gateway(place: Place) -> Iterator[None]:
    with namespaces.run_in(place.gateway, lambda: socket.create_server((GATEWAY[4], STORE_PORT), backlog=512)):
        yield


def scenario(place: Place, body: Callable[[Switch], object], *switch: object) -> Switch:
    """Run `body` inside the node with a switch that watches; gives the switch."""

    async def run() -> Switch:
        made = Switch(*switch)  # type: ignore[arg-type]
        await made.deadman.note()
        watching = asyncio.create_task(made.deadman.run())
        try:
            await body(made)  # type: ignore[misc]
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            made.echo.close()
        return made

    return namespaces.run_in(place.node, lambda: asyncio.run(run()))


@pytest.mark.parametrize("mode", MODES)
def test_a_program_that_cuts_the_gateway_off_is_taken_back(place, programs, bpf_root, mode) -> None:
    async def body(switch: Switch) -> None:
        switch.attach("drop_all")
        assert len(switch.attached()) == 1
        await switch.settled()
        assert switch.attached() == []

    switch = scenario(place, body, programs, bpf_root, mode)

    assert place.gateway_reaches_node()
    assert len(switch.rolled_back) == 1
    assert switch.rolled_back[0].startswith(
        "attachment to eth0 rolled back: default gateway 192.0.2.1 stopped answering"
    )


@pytest.mark.parametrize("mode", MODES)
def test_of_an_exchange_the_program_before_is_put_back(place, programs, bpf_root, mode) -> None:
    good = programs.programs["pass_all"].info().id

    async def body(switch: Switch) -> None:
        switch.attach("pass_all")
        await switch.settled()
        assert switch.attached() == [good]
        switch.attach("drop_all")
        assert switch.attached() != [good]
        await switch.settled()
        assert switch.attached() == [good]
        switch.operations.delete(["eth0"])  # as when nobody desires it any more: left alone all the same
        assert switch.attached() == [good]

    switch = scenario(place, body, programs, bpf_root, mode)

    assert len(switch.rolled_back) == 1
    assert place.gateway_reaches_node()


def test_a_program_that_cuts_only_the_store_off_is_taken_back(place, programs, bpf_root) -> None:
    async def body(switch: Switch) -> None:
        switch.attach("drop_tcp")
        await switch.settled()
        assert await store_answers()

    with store_at_gateway(place):
        switch = scenario(place, body, programs, bpf_root, "auto")

    assert len(switch.rolled_back) == 1
    assert switch.rolled_back[0].startswith("attachment to eth0 rolled back: store stopped answering")


def test_a_store_that_is_away_by_itself_does_not_cost_the_node_its_program(place, programs, bpf_root) -> None:
    async def body(switch: Switch) -> None:
        with store_at_gateway(place):
            await switch.deadman.note()
        switch.attach("pass_all")
        await switch.settled()
        assert switch.attached() == []
        await asyncio.sleep(WINDOW_S)  # it stays away, although the program is gone
        with store_at_gateway(place):
            async with asyncio.timeout(PATIENT_S):
                while switch.deadman.problems:  # noqa: ASYNC110  what is waited for has no event
                    await asyncio.sleep(0.02)

    switch = scenario(place, body, programs, bpf_root, "auto")

    assert len(switch.rolled_back) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_program_that_does_no_harm_stays_and_is_pinned(place, programs, bpf_root, mode) -> None:
    good = programs.programs["pass_all"].info().id

    async def body(switch: Switch) -> None:
        switch.attach("pass_all")
        await switch.settled()

    with store_at_gateway(place):
        switch = scenario(place, body, programs, bpf_root, mode)

    assert switch.rolled_back == []
    assert namespaces.run_in(place.node, switch.attached) == [good]
    assert (bpf_root / "links" / "eth0").exists() == (mode == "tcx")


def test_a_gateway_that_never_answered_is_not_held_against_the_program(place, programs, bpf_root) -> None:
    place.in_gateway("ip", "link", "set", "port", "down")

    async def body(switch: Switch) -> None:
        switch.attach("drop_all")
        await switch.settled()

    switch = scenario(place, body, programs, bpf_root, "auto")

    assert switch.rolled_back == []
    assert len(namespaces.run_in(place.node, switch.attached)) == 1


@pytest.mark.parametrize(("program", "reasons"), [("pass_all", 0), ("drop_all", 1)])
def test_a_gateway_that_leaves_echo_alone_is_watched_by_its_neighbour_entry(
    place, programs, bpf_root, program, reasons
) -> None:
    place.in_gateway("sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=1", "net.ipv6.icmp.echo_ignore_all=1")

    async def body(switch: Switch) -> None:
        switch.attach(program)
        await switch.settled()

    switch = scenario(place, body, programs, bpf_root, "auto")

    assert len(switch.rolled_back) == reasons


# == the whole agent ==

BREAKING_AGENT = """
import functools, sys
from pathlib import Path
from pycilium.agent import main, wiring
wiring.loader.load = functools.partial(wiring.loader.load, objects=Path(sys.argv.pop(1)))
sys.exit(main.main())
"""


@contextmanager
def running_agent(
    place: Place, folder: Path, objects: Path | None = None, window_s: float = WINDOW_S
) -> Iterator[subprocess.Popen[bytes]]:
    """An agent inside the node, ready; `objects` in place of its own."""
    config = folder / "agent.json"
    values = {
        "node_name": "node1",
        "run_dir": str(folder),
        "bpf_root": str(folder / "bpf"),
        "store": f"sqlite:///{folder}/store.db",
        "hubble_listen": None,
        "devices": ["eth0"],
        "deadman_window_s": window_s,
    }
    config.write_text(json.dumps(values))
    start = ["-c", BREAKING_AGENT, str(objects)] if objects else ["-m", "pycilium.agent.main"]
    argv = [sys.executable, *start, "--config", str(config)]
    with (folder / "agent.log").open("ab") as log:
        agent = namespaces.run_in(place.node, lambda: subprocess.Popen(argv, stdout=log, stderr=log))
    try:
        until(lambda: state(folder) in ("Ok", "Failure"), agent)
        yield agent
    finally:
        agent.kill()
        agent.wait()
        bpffs.unmount(folder / "bpf")


def until(condition: Callable[[], bool], agent: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + PATIENT_S
    while not condition():
        assert agent is None or agent.poll() is None, "the agent ended"
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)


def state(folder: Path) -> str:
    with suppress(AgentUnavailable):
        status = AgentClient(str(folder / "cilium.sock")).status()
        return status["cilium"]["state"] if "read yet" not in status["cilium"].get("msg", "") else ""
    return ""


def links_on_eth0(place: Place) -> int:
    if not links.has_tcx():
        found = place.in_node("tc", "filter", "show", "dev", "eth0", "ingress").stdout
        return found.count("handle 0xc111")
    return namespaces.run_in(
        place.node, lambda: len(list(bpf.query_links(socket.if_nametoindex("eth0"), Hook.INGRESS.tcx)))
    )


def test_an_agent_that_breaks_its_node_takes_that_back_says_so_and_goes_on(
    place, tmp_path, breaking_agent_objects
) -> None:
    with running_agent(place, tmp_path, breaking_agent_objects) as agent:
        until(lambda: state(tmp_path) == "Failure", agent)

        status = AgentClient(str(tmp_path / "cilium.sock")).status()
        assert "attachment to eth0 rolled back: default gateway 192.0.2.1 stopped answering" in status["cilium"]["msg"]
        assert links_on_eth0(place) == 0
        assert place.gateway_reaches_node(4)
        assert place.gateway_reaches_node(6)
        until(lambda: "ready" in [each["status"]["state"] for each in endpoints(tmp_path)], agent)
        assert "attachment rolled back" in (tmp_path / "agent.log").read_text()


def endpoints(folder: Path) -> list[dict[str, object]]:
    return AgentClient(str(folder / "cilium.sock")).endpoints()


@pytest.mark.skipif(not links.has_tcx(), reason="a filter of tc stays without its agent")
def test_an_agent_killed_while_its_program_is_on_trial_takes_it_along(place, tmp_path) -> None:
    with running_agent(place, tmp_path, window_s=60) as agent:
        until(lambda: links_on_eth0(place) == 1, agent)
        assert not (tmp_path / "bpf" / "links" / "eth0").exists()

        agent.send_signal(signal.SIGKILL)
        agent.wait()

        until(lambda: links_on_eth0(place) == 0)


def test_an_agent_that_does_no_harm_keeps_its_program_and_outlives_its_window(place, tmp_path) -> None:
    with running_agent(place, tmp_path) as agent:
        until(lambda: (tmp_path / "bpf" / "links" / "eth0").exists() or not links.has_tcx(), agent)

        os.kill(agent.pid, signal.SIGKILL)
        agent.wait()

        assert links_on_eth0(place) == 1
        assert place.gateway_reaches_node()
