"""Synthetic kernel events with readable arguments, and the directories and store that tests put them into."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np

from pycilium.datapath.layouts import FlowEvent
from pycilium.hubble.directories import (
    Decision,
    DecisionRules,
    Directories,
    EndpointName,
    EndpointTable,
    IdentityTable,
    Outcome,
    PolicyName,
    Workload,
)
from pycilium.hubble.service_names import FrontendKey, ServiceName, ServiceTable
from pycilium.hubble.store import FlowStore

EVENT = FlowEvent.DTYPE

TCP, UDP, ICMP, ICMPV6, SCTP = 6, 17, 1, 58, 132
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
DROP, TRACE, POLICY_VERDICT, TRACE_SOCK = 1, 4, 5, 7
TO_ENDPOINT, TO_HOST, TO_STACK, TO_OVERLAY, TO_NETWORK = 0, 2, 3, 4, 11
NEW, ESTABLISHED, REPLY = 1, 2, 3
INGRESS, EGRESS = 1, 2
POLICY_DENIED, POLICY_DENY = 133, 181

CLIENT, WEB = 5001, 5002


def address_bytes(text: str) -> bytes:
    """16 bytes, IPv4 in mapped form."""
    address = ipaddress.ip_address(text)
    return b"\0" * 10 + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def event(source: str = "10.0.0.1", destination: str = "10.0.0.2", **fields: Any) -> np.ndarray:
    """One event: a new TCP connection's SYN on its way into an endpoint, unless the fields say otherwise."""
    values: dict[str, Any] = {
        "time_ns": 1_000_000_000,
        "source_port": 40000,
        "destination_port": 80,
        "type": TRACE,
        "subtype": TO_ENDPOINT,
        "family": ipaddress.ip_address(source).version,
        "protocol": TCP,
        "tcp_flags": SYN,
        "reason": NEW,
        "ether_type": 0x0800,
        "packet_bytes": 74,
        "source_mac": bytes.fromhex("0a0000000001"),
        "destination_mac": bytes.fromhex("0a0000000002"),
        "source": address_bytes(source),
        "destination": address_bytes(destination),
        **fields,
    }
    made = np.zeros(1, dtype=EVENT)
    for name, value in values.items():
        made[name] = np.frombuffer(value, dtype=np.uint8) if isinstance(value, bytes) else value
    return made


def client_to_web(**fields: Any) -> np.ndarray:
    """From endpoint 10 (default/client-1) to endpoint 20 (shop/web-abc)."""
    known = {
        "source_endpoint": 10,
        "destination_endpoint": 20,
        "source_identity": CLIENT,
        "destination_identity": WEB,
        "ifindex": 8,
    }
    return event("10.0.0.1", "10.0.0.2", **{**known, **fields})


def web_to_client(**fields: Any) -> np.ndarray:
    """The reply to `client_to_web`."""
    known = {
        "source_endpoint": 20,
        "destination_endpoint": 10,
        "source_identity": WEB,
        "destination_identity": CLIENT,
        "source_port": 80,
        "destination_port": 40000,
        "is_reply": 1,
        "reason": REPLY,
        "tcp_flags": SYN | ACK,
        "ifindex": 7,
    }
    return event("10.0.0.2", "10.0.0.1", **{**known, **fields})


def events(*made: np.ndarray) -> np.ndarray:
    return np.concatenate(made) if made else np.zeros(0, dtype=EVENT)


class KnownRules:
    """A RuleDirectory with one rule of each kind."""

    def __init__(self) -> None:
        self.asked: list[Decision] = []

    def rules(self, decision: Decision) -> DecisionRules | None:
        self.asked.append(decision)
        allow = PolicyName("CiliumNetworkPolicy", "shop", "allow-web", ("k8s:policy=allow-web",), 3)
        if decision.outcome is Outcome.NO_RULE:
            return DecisionRules(
                (allow,),
                f"no {decision.direction.name.lower()} rule allows port {decision.port}; nearest: shop/allow-web",
            )
        if decision.outcome is Outcome.DENIED:
            deny = PolicyName("CiliumClusterwideNetworkPolicy", "", "no-ssh", (), 4)
            return DecisionRules((deny,), "no-ssh ingressDeny[0]", 1)
        return DecisionRules((allow,), "shop/allow-web ingress[0]", 2)


class KnownInterfaces:
    def name(self, ifindex: int) -> str:
        return {7: "lxc0007", 8: "lxc0008"}.get(ifindex, "")


def directories() -> Directories:
    endpoints, identities = EndpointTable(), IdentityTable()
    endpoints.set_endpoint(10, EndpointName("default", "client-1", "default", (Workload("client", "Deployment"),)))
    endpoints.set_endpoint(20, EndpointName("shop", "web-abc", "default"))
    identities.set_identity(CLIENT, ("k8s:app=client", "k8s:io.cilium.k8s.policy.cluster=default"))
    identities.set_identity(WEB, ("k8s:app=web", "k8s:tier=front"))
    return Directories(endpoints, identities, KnownRules(), KnownInterfaces(), services())


def services() -> ServiceTable:
    """default/dns at 10.1.0.1 port 53 and fd00::2 port 53, shop/web at 10.1.0.1 port 80; ids 1 to 3."""
    table = ServiceTable()
    for number, (address, port, protocol, name) in enumerate(
        [
            ("10.1.0.1", 53, UDP, ServiceName("default", "dns")),
            ("10.1.0.1", 80, TCP, ServiceName("shop", "web")),
            ("fd00::2", 53, UDP, ServiceName("default", "dns")),
        ],
        start=1,
    ):
        table.set_frontend(FrontendKey.of(address_bytes(address), port, protocol), number, name)
    return table


def filled_store(*made: np.ndarray, capacity: int = 1024) -> tuple[FlowStore, Directories]:
    known = directories()
    store = FlowStore(capacity, known.endpoints)
    store.ingest(events(*made), 0)
    return store, known
