from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.hubble.directories import EndpointName, EndpointTable, IdentityTable
from pycilium.hubble.filters import compile_filters
from pycilium.hubble.flow import FlowConverter
from pycilium.hubble.predicates import FilterContext, FilterError
from pycilium.hubble.proto import flow_pb2
from tests.unit.hubble import naive_filter
from tests.unit.hubble.synthetic import CLIENT, WEB, client_to_web, event, filled_store, web_to_client

NODE = "default/node1"
Filter = flow_pb2.FlowFilter

addresses4 = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.1.0.1", "1.1.1.1"])
addresses6 = st.sampled_from(["fd00::1", "fd00::2", "2606:4700::1111"])
ports = st.sampled_from([0, 53, 80, 443, 40000])
identities = st.sampled_from([0, 1, 9, CLIENT, WEB, 777, (1 << 24) | 5])


@st.composite
def flow_events(draw: st.DrawFn) -> np.ndarray:
    family = draw(st.sampled_from([0, 4, 4, 4, 6]))
    addresses = addresses6 if family == 6 else addresses4
    kind = draw(st.sampled_from([1, 4, 4]))
    return event(
        draw(addresses),
        draw(addresses),
        family=family,
        type=kind,
        subtype=draw(st.sampled_from([132, 133, 181, 203] if kind == 1 else [0, 2, 3, 11])),
        protocol=draw(st.sampled_from([1, 6, 6, 17, 58, 132, 47])) if family else 0,
        tcp_flags=draw(st.integers(0, 255)),
        source_port=draw(ports),
        destination_port=draw(ports),
        source_identity=draw(identities),
        destination_identity=draw(identities),
        source_endpoint=draw(st.sampled_from([0, 10, 20, 30])),
        destination_endpoint=draw(st.sampled_from([0, 10, 20, 30])),
        is_reply=draw(st.sampled_from([0, 1, 2])),
        direction=draw(st.sampled_from([0, 1, 2])),
        verdict_flags=draw(st.sampled_from([0, 0, 1, 2, 3, 5, 11])),
        ifindex=draw(st.sampled_from([0, 7, 8, 9])),
        service_id=draw(st.sampled_from([0, 0, 1, 2, 9])),
    )


cidrs = st.sampled_from(
    ["10.0.0.1", "10.0.0.0/8", "10.0.0.0/31", "0.0.0.0/0", "::/0", "fd00::/16", "fd00::2", "2606::/12"]
)
pods = st.sampled_from(["client", "shop/", "/web", "/", "shop/web-abc", "default/web", "nowhere/x"])
services = st.sampled_from(["dns", "shop/", "/web", "/", "shop/web", "default/x"])
labels = st.sampled_from(
    ["app=web", "k8s:app=client", "!app", "tier", "app!=web", "reserved:host", "reserved:app", "app,tier"]
)
workloads = st.sampled_from([{"name": "client"}, {"kind": "Deployment"}, {"name": "client", "kind": "DaemonSet"}, {}])
event_types = st.sampled_from(
    [
        {"type": 1},
        {"type": 5},
        {"type": 4, "match_sub_type": True},
        {"type": 5, "match_sub_type": True, "sub_type": -133},
        {},
    ]
)
tcp_flags = st.sampled_from([{"SYN": True}, {"ACK": True, "FIN": True}, {"NS": True}, {}])

field_values: dict[str, st.SearchStrategy] = {
    "source_ip": cidrs,
    "destination_ip": cidrs,
    "source_pod": pods,
    "destination_pod": pods,
    "source_service": services,
    "destination_service": services,
    "source_label": labels,
    "destination_label": labels,
    "source_port": ports.map(str),
    "destination_port": ports.map(str),
    "source_identity": identities,
    "destination_identity": identities,
    "source_workload": workloads,
    "destination_cluster_name": st.sampled_from(["default", "def*", "other"]),
    "verdict": st.sampled_from([1, 2, 5]),
    "event_type": event_types,
    "protocol": st.sampled_from(["tcp", "udp", "icmp", "icmpv4", "icmpv6", "sctp"]),
    "reply": st.booleans(),
    "tcp_flags": tcp_flags,
    "ip_version": st.sampled_from([0, 1, 2]),
    "traffic_direction": st.sampled_from([0, 1, 2]),
    "drop_reason_desc": st.sampled_from([0, 133, 181]),
    "interface": st.sampled_from(
        [{"name": "lxc0007"}, {"index": 8}, {"index": 8, "name": "lxc0007"}, {"name": "eth0"}]
    ),
    "node_name": st.sampled_from(["node1", "node*", "default/", "*/node1", "other/node1", "default/node2"]),
    "encrypted": st.booleans(),
}


@st.composite
def flow_filters(draw: st.DrawFn) -> Filter:
    """A filter with a field or two: more would hardly ever match."""
    names = draw(st.lists(st.sampled_from(sorted(field_values)), max_size=2, unique=True))
    return Filter(**{name: draw(st.lists(field_values[name], min_size=1, max_size=2)) for name in names})


@settings(max_examples=200, deadline=None)
@given(
    made=st.lists(flow_events(), min_size=1, max_size=20),
    whitelist=st.lists(flow_filters(), max_size=2),
    blacklist=st.lists(flow_filters(), max_size=2),
)
def test_vectorised_filters_agree_with_trying_each_flow(
    made: list[np.ndarray], whitelist: list[Filter], blacklist: list[Filter]
) -> None:
    store, known = filled_store(*made)
    flows = [
        flow
        for first, rows in store.segments(0, store.next)
        for flow in FlowConverter(store, known, NODE).flows(range(first, first + len(rows.type)), rows)
    ]

    predicate = compile_filters(whitelist, blacklist, FilterContext(store, known, NODE))
    found = [holds for first, rows in store.segments(0, store.next) for holds in predicate(rows, first).tolist()]

    assert found == [naive_filter.matches(flow, whitelist, blacklist) for flow in flows]


def matching(item: Filter, *made: np.ndarray, node_labels: tuple[str, ...] = ()) -> list[bool]:
    store, known = filled_store(*made)
    predicate = compile_filters([item], [], FilterContext(store, known, NODE, node_labels))
    return [holds for first, rows in store.segments(0, store.next) for holds in predicate(rows, first).tolist()]


class TestWhatNoFlowCarries:
    @pytest.mark.parametrize(
        "item",
        [
            Filter(source_fqdn=["*.cilium.io"]),
            Filter(destination_service=["default/web"]),
            Filter(source_ip_xlated=["10.0.0.1"]),
            Filter(trace_id=["abc"]),
            Filter(ip_trace_id=[7]),
            Filter(http_status_code=["404", "5+"]),
            Filter(http_method=["get"], event_type=[{"type": 129}]),
            Filter(dns_query=[".*"]),
            Filter(encrypted=[True]),
        ],
        ids=lambda item: item.ListFields()[0][0].name,
    )
    def test_matches_nothing(self, item: Filter) -> None:
        assert matching(item, client_to_web()) == [False]


class TestRefusals:
    @pytest.mark.parametrize(
        ("item", "message"),
        [
            (Filter(source_ip=["10.0.0"]), "source_ip: '10.0.0' is neither an IP address nor a CIDR"),
            (Filter(destination_port=["http"]), "destination_port: 'http' is not a port from 0 to 65535"),
            (Filter(source_port=["65536"]), "source_port: '65536' is not a port"),
            (Filter(protocol=["quic"]), "protocol: unknown protocol 'quic'; known are dns, http"),
            (Filter(source_label=["a in b"]), "source_label: 'a in b': values in parentheses are expected"),
            (Filter(destination_fqdn=["a b"]), "destination_fqdn: 'a b' is not a name"),
            (Filter(http_status_code=["6xx"]), "http_status_code: '6xx' is neither a status"),
            (Filter(http_path=["("]), "http_path: "),
            (Filter(http_path=["/"], event_type=[{"type": 1}]), "http_path: needs event type l7"),
            (Filter(experimental={"cel_expression": ["true"]}), "experimental.cel_expression: "),
            (Filter.FromString(b"\xc2\x0c\x01a"), "field number 200: this filter is not supported"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_name_the_field_and_what_would_be_right(self, item: Filter, message: str) -> None:
        with pytest.raises(FilterError) as caught:
            matching(item, client_to_web())

        assert str(caught.value).startswith(message)


def test_node_labels_are_matched_once_for_all_flows() -> None:
    item = Filter(node_labels=["zone=a"])

    assert matching(item, client_to_web(), node_labels=("k8s:zone=a",)) == [True]
    assert matching(item, client_to_web(), node_labels=("k8s:zone=b",)) == [False]


def test_a_flow_is_found_by_its_uuid() -> None:
    store, known = filled_store(client_to_web(), web_to_client(), client_to_web())
    ((first, rows),) = store.segments(0, 3)
    uuid = FlowConverter(store, known, NODE).flows([0, 1, 2], rows)[1].uuid
    predicate = compile_filters([Filter(uuid=[uuid, "nonsense"])], [], FilterContext(store, known, NODE))

    assert predicate(rows, first).tolist() == [False, True, False]


def test_an_identity_learned_late_is_not_missed_for_ever() -> None:
    store, known = filled_store(client_to_web(source_identity=6000))
    predicate = compile_filters([Filter(source_label=["app=late"])], [], FilterContext(store, known, NODE))
    ((first, rows),) = store.segments(0, 1)
    before = predicate(rows, first).tolist()

    assert isinstance(known.identities, IdentityTable)
    known.identities.set_identity(6000, ("k8s:app=late",))

    assert (before, predicate(rows, first).tolist()) == ([False], [True])


def test_a_pod_that_appears_later_is_matched_in_a_running_request() -> None:
    store, known = filled_store(client_to_web())
    predicate = compile_filters([Filter(source_pod=["default/new"])], [], FilterContext(store, known, NODE))
    ((first, rows),) = store.segments(0, 1)
    before = predicate(rows, first).tolist()

    assert isinstance(known.endpoints, EndpointTable)
    known.endpoints.set_endpoint(30, EndpointName("default", "new-1"))
    store.ingest(client_to_web(source_endpoint=30), 0)
    ((first, rows),) = store.segments(0, 2)

    assert (before, predicate(rows, first).tolist()) == ([False], [False, True])
