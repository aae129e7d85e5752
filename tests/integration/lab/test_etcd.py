"""The etcd of a lab: reached by nodes over the underlay and by commands through its socket; outages lose nothing."""

from __future__ import annotations

import base64
import json
import secrets
import signal
import subprocess
from collections.abc import Iterator

import pytest

from pycilium.errors import AlreadyExists, CiliumError
from pycilium.lab import etcd, impairments, labs, namespaces
from pycilium.lab.layout import LabLayout, LabRecord
from pycilium.lab.plan import UpOptions

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def record(request: pytest.FixtureRequest) -> Iterator[LabRecord]:
    """A lab without agents: they are not what is tried here."""
    name = f"etcd-{secrets.token_hex(3)}"
    options = UpOptions(name=name, store="etcd", underlay_family=request.param, with_agents=False)
    yield labs.up(options, lambda _: None)
    labs.down(name)
    assert not LabLayout(name).folder.exists()
    assert not namespaces.exists(f"cilium-{name}-etcd")


@pytest.fixture
def layout(record: LabRecord) -> LabLayout:
    return LabLayout(record.name)


def curl(*words: str, netns: str | None = None) -> str:
    """What curl prints; nothing when it gets no answer."""

    def run() -> str:
        argv = ["curl", "-gs", "--max-time", "3", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout

    return namespaces.run_in(netns, run) if netns else run()


def from_node(record: LabRecord, call: str, **content: str) -> str:
    url = etcd.agents_url(record).replace("etcd://", "http://")
    body = json.dumps({name: base64.b64encode(value.encode()).decode() for name, value in content.items()})
    return curl(f"{url}/v3/kv/{call}", "-d", body, netns=record.node("node1").namespace)


def test_commands_and_nodes_reach_it(record: LabRecord, layout: LabLayout) -> None:
    assert '"health":"true"' in curl("--unix-socket", str(layout.etcd_socket), "http://etcd/health")
    assert "revision" in from_node(record, "put", key="a", value="1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_written_is_there_after_an_outage(
    record: LabRecord, layout: LabLayout, number: signal.Signals
) -> None:
    from_node(record, "put", key="kept", value="yes")
    assert etcd.stop(layout, number)
    assert not etcd.stop(layout)
    assert from_node(record, "range", key="kept") == ""

    etcd.start(layout, record)

    assert base64.b64encode(b"yes").decode() in from_node(record, "range", key="kept")


def test_it_can_be_cut_off_and_healed(record: LabRecord, layout: LabLayout) -> None:
    impairments.cut(record, "etcd")
    assert from_node(record, "range", key="a") == ""
    assert '"health":"true"' in curl("--unix-socket", str(layout.etcd_socket), "http://etcd/health")

    impairments.heal(record, "etcd")

    assert "header" in from_node(record, "range", key="a")


def test_it_is_not_started_twice(record: LabRecord, layout: LabLayout) -> None:
    with pytest.raises(AlreadyExists, match=f"etcd of lab {record.name} is running already"):
        etcd.start(layout, record)


def test_a_failed_start_shows_its_last_words(record: LabRecord, layout: LabLayout) -> None:
    etcd.stop(layout)
    data = layout.etcd_folder / "data" / "member" / "snap" / "db"
    kept = data.read_bytes()
    data.write_bytes(b"no database" * 1000)
    try:
        with pytest.raises(CiliumError, match=r"ended while it started; the end of .*etcd\.log:(?s:.+)"):
            etcd.start(layout, record)
    finally:
        data.write_bytes(kept)
        etcd.start(layout, record)
