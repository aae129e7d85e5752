"""`policy explain` asks about connections that there can be: one family at both ends, and types of that family."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from pycilium.agent.explaining import FAMILIES, Explainer, Rules
from pycilium.agent.intent import HostAddress, Intent
from pycilium.agent.nodes.cluster import Cluster, ClusterSettings
from pycilium.api.messages import ExplainReply, ExplainRequest
from pycilium.errors import InvalidResource, NotFound
from pycilium.hubble import directories as hubble
from pycilium.model.endpoint import Endpoint, EndpointState
from pycilium.model.identity import Identity, ReservedIdentity
from pycilium.model.l4 import NamedTarget, Protocol
from pycilium.model.labels import pod_labels
from pycilium.model.node import Node
from pycilium.model.policy import Policy
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.model.resources import CiliumNetworkPolicy, decode_object
from pycilium.policy import PolicyEngine, parse_policy

BOTH, ONLY_4, ONLY_6 = (4, 6), (4,), (6,)


def pod(number: int, name: str, families: tuple[int, ...] = BOTH) -> Endpoint:
    return Endpoint(
        endpoint_id=number,
        container_id=f"container{number}",
        ifname="eth0",
        netns="/none",
        host_ifname=f"lxc{number}",
        ifindex=number + 100,
        mac=bytes(6),
        host_mac=bytes(6),
        ipv4=IPv4Address(f"10.0.0.{number}") if 4 in families else None,
        ipv6=IPv6Address(f"fd00::{number}") if 6 in families else None,
        mtu_bytes=1500,
        pod_name=name,
        namespace="default",
        labels=pod_labels({"app": name}, "default", cluster="default"),
        sec_identity=1000 + number,
        state=EndpointState.READY,
    )


OF_WEB, NOT_KNOWN = 5000, 5001
NODE2 = Node(
    "node2",
    internal_ips=(ip_address("172.18.0.12"),),
    pod_cidrs=(ip_network("10.0.2.0/24"), ip_network("fd00::2:0/112")),
)
CLIENT, WEB = pod(1, "client"), pod(2, "web")


def policy(**spec: object) -> Policy:
    document = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"endpointSelector": {"matchLabels": {"app": "web"}}, **spec},
    }
    return parse_policy(decode_object(document, CiliumNetworkPolicy))


def icmps(family: str, kind: int) -> dict[str, object]:
    return {"icmps": [{"fields": [{"family": family, "type": kind}]}]}


def ask(
    source: str,
    destination: str,
    protocol: str = "TCP",
    port: int | str = 80,
    *,
    pods: tuple[Endpoint, ...] = (CLIENT, WEB),
    policies: tuple[Policy, ...] = (),
    families: tuple[int, ...] = FAMILIES,
    remote: tuple[RemoteEndpoint, ...] = (),
) -> ExplainReply:
    intent, engine = Intent.new(), PolicyEngine()
    hosts = [HostAddress(ip_address(address), "cilium_host") for address in ("10.0.0.254", "fd00::fe")]
    with intent.db.write() as txn:
        for endpoint in remote:
            txn.insert(intent.remote_endpoints, endpoint)
        for own in pods:
            txn.insert(intent.endpoints, own)
        for host in hosts:
            txn.insert(intent.host_addresses, host)
    cluster = Cluster(ClusterSettings(node_name="node1"))
    cluster.update([NODE2], hosts, list(intent.remote_endpoints.changes().drain()))
    engine.update(policies_upserted=list(policies), identities_upserted=[Identity(OF_WEB, WEB.labels)])
    request = ExplainRequest(source=source, destination=destination, protocol=protocol, port=port)
    return Explainer(intent, engine, families, cluster).answer(request)


def judged(reply: ExplainReply) -> tuple[str, str, str, str]:
    return reply.verdict, reply.what, reply.source.address, reply.destination.address


class TestRulesBehindAnImplicitDeny:
    def named(self, *, revisions_later: int = 0) -> tuple[str, ...] | None:
        """Names of the policies that restricted, by what an event of the present revision, or of a later one, says."""
        intent, engine = Intent.new(), PolicyEngine()
        with intent.db.write() as txn:
            txn.insert(intent.endpoints, WEB)
        engine.update(
            policies_upserted=[policy(ingress=[{"fromEndpoints": [{"matchLabels": {"app": "nobody"}}]}])],
            identities_upserted=[Identity(1001, CLIENT.labels)],
            subjects_added=[WEB.subject],
        )
        entry = engine.policy_entry(WEB.subject)
        assert entry is not None
        decision = hubble.Decision(
            direction=hubble.Direction.INGRESS,
            outcome=hubble.Outcome.NO_RULE,
            row_id=0,
            selector=0,
            endpoint_id=WEB.endpoint_id,
            peer_identity=1001,
            peer_address="10.0.0.1",
            protocol=6,
            port=80,
            revision=entry.revision + revisions_later,
        )
        found = Rules(intent, engine, Explainer(intent, engine)).rules(decision)
        return found and tuple(name.name for name in found.policies)

    def test_they_are_those_that_restrict(self):
        assert self.named() == ("web",)

    def test_a_packet_that_another_policy_denied_names_none(self):
        assert self.named(revisions_later=1) is None


class TestFamily:
    def test_pods_of_both_families_are_judged_as_ipv4(self):
        assert judged(ask("default/client", "web")) == ("allowed", "80/TCP", "10.0.0.1", "10.0.0.2")

    @pytest.mark.parametrize("families", [BOTH, ONLY_6])
    def test_two_pods_of_an_ipv6_only_node_are_judged_as_ipv6(self, families):
        pods = (pod(1, "client", ONLY_6), pod(2, "web", ONLY_6))

        echo = ask("client", "web", "ICMP", 8, pods=pods, families=families)

        assert judged(echo) == ("allowed", "ICMPv6 type 128", "fd00::1", "fd00::2")

    @pytest.mark.parametrize("destination", ["fd00::2", "2606:4700:4700::1111", "fd00::fe"])
    def test_a_pod_uses_its_address_of_the_other_ends_family(self, destination):
        assert judged(ask("client", destination)) == ("allowed", "80/TCP", "fd00::1", destination)

    def test_icmpv6_is_asked_of_the_ipv6_addresses(self):
        assert judged(ask("client", "web", "ICMPv6", 128)) == ("allowed", "ICMPv6 type 128", "fd00::1", "fd00::2")

    @pytest.mark.parametrize(
        ("source", "destination"), [("1.1.1.1", "fd00::2"), ("10.0.0.1", "fd00::2"), ("fd00::fe", "10.0.0.2")]
    )
    def test_addresses_of_two_families_have_no_connection(self, source, destination):
        with pytest.raises(InvalidResource, match=r"has IPv[46] and .* has IPv[46]"):
            ask(source, destination)

    def test_pods_without_a_family_in_common_have_no_connection(self):
        with pytest.raises(InvalidResource, match="default/client has IPv4 and default/web has IPv6"):
            ask("client", "web", pods=(pod(1, "client", ONLY_4), pod(2, "web", ONLY_6)))

    @pytest.mark.parametrize(("address", "on"), [("2606:4700:4700::1111", 4), ("1.1.1.1", 6)])
    def test_an_address_of_a_family_that_is_off_is_refused(self, address, on):
        pods = (pod(1, "client", (on,)), pod(2, "web", (on,)))

        with pytest.raises(InvalidResource, match=f"{address} has IPv{10 - on} only, which is off on this node"):
            ask("client", address, pods=pods, families=(on,))

    def test_icmpv6_to_an_ipv4_address_is_refused(self):
        with pytest.raises(InvalidResource, match="ICMPv6 needs IPv6 at both ends"):
            ask("client", "1.1.1.1", "ICMPv6", 128)

    def test_an_entity_is_of_either_family(self):
        assert judged(ask("host", "fd00::2")) == ("allowed", "80/TCP", "", "fd00::2")
        assert judged(ask("host", "web")) == ("allowed", "80/TCP", "", "10.0.0.2")


class TestIcmp:
    @pytest.mark.parametrize(("kind", "of_ipv6"), [(8, 128), (0, 129)])
    def test_echo_between_ipv6_ends_is_icmpv6(self, kind, of_ipv6):
        allowing = policy(ingress=[icmps("IPv6", of_ipv6)])

        found = ask("client", "fd00::2", "ICMP", kind, policies=(allowing,))

        assert judged(found) == ("allowed", f"ICMPv6 type {of_ipv6}", "fd00::1", "fd00::2")

    def test_a_rule_for_icmp_does_not_allow_icmpv6(self):
        allowing = policy(ingress=[icmps("IPv4", 8)])

        assert ask("client", "web", "ICMP", 8, policies=(allowing,)).verdict == "allowed"
        assert ask("client", "fd00::2", "ICMP", 8, policies=(allowing,)).verdict == "denied"

    def test_a_type_without_a_counterpart_in_ipv6_is_refused(self):
        with pytest.raises(InvalidResource, match="ICMP type 11 has no counterpart"):
            ask("client", "fd00::2", "ICMP", 11)

    @pytest.mark.parametrize(("protocol", "port"), [("ICMP", 256), ("ICMPv6", 300), ("ICMP", -1), ("TCP", 65536)])
    def test_what_no_packet_can_have_is_refused(self, protocol, port):
        with pytest.raises(InvalidResource, match="is impossible"):
            ask("client", "web", protocol, port)


class TestNamedPorts:
    HTTP, METRICS = NamedTarget("http", Protocol.TCP, 8080), NamedTarget("metrics", Protocol.TCP, 9090)
    PODS = (CLIENT, replace(WEB, named_ports=frozenset({HTTP, METRICS})))

    def allowing(self, port: str) -> tuple[Policy, ...]:
        return (policy(ingress=[{"toPorts": [{"ports": [{"port": port, "protocol": "TCP"}]}]}]),)

    def test_the_number_is_that_of_the_destinations_pod(self):
        reply = ask("client", "web", port="http", pods=self.PODS, policies=self.allowing("http"))

        assert (reply.verdict, reply.what) == ("allowed", "http/TCP (8080)")
        assert ask("client", "web", port=8080, pods=self.PODS, policies=self.allowing("http")).verdict == "allowed"

    def test_a_rule_that_names_another_port_says_at_which_number_it_is(self):
        reply = ask("client", "web", port=80, pods=self.PODS, policies=self.allowing("http"))

        assert reply.decisions[1].nearest is not None
        assert reply.decisions[1].nearest.missing == "it allows http/TCP (8080) and this is 80/TCP"

    def test_a_rule_that_names_a_port_which_the_pod_lacks_says_so(self):
        reply = ask("client", "web", port=80, policies=self.allowing("http"))

        assert reply.decisions[1].nearest is not None
        assert "it allows http/TCP (which the endpoint does not have)" in reply.decisions[1].nearest.missing

    def test_a_name_that_the_destination_does_not_have_is_refused_with_those_that_it_has(self):
        with pytest.raises(InvalidResource, match=r"has no port https/TCP; it has http=8080/TCP, metrics=9090/TCP"):
            ask("client", "web", port="https", pods=self.PODS)
        with pytest.raises(InvalidResource, match="it has none with a name"):
            ask("client", "1.1.1.1", port="http")


def test_an_unknown_pod_is_not_found():
    with pytest.raises(NotFound, match="no pod default/nobody"):
        ask("nobody", "web")


def test_the_pod_by_its_address_is_that_pod():
    by_name, by_address = ask("client", "web"), ask("10.0.0.1", "10.0.0.2")

    assert without_text(by_address) == without_text(by_name)


def without_text(reply: ExplainReply) -> tuple[object, ...]:
    return reply.source, reply.destination, reply.decisions, reply.what


class TestOtherNodes:
    """Pods of other nodes are known by what their nodes published; policies are the same everywhere."""

    WEB = RemoteEndpoint(
        "default", "web", (ip_address("10.0.2.2"), ip_address("fd00::2:2")), OF_WEB, "172.18.0.12", created_s=0
    )
    ONLY_CLIENTS = policy(ingress=[{"fromEndpoints": [{"matchLabels": {"app": "client"}}]}])

    def between(self, source: str, destination: str, *policies: Policy, web: RemoteEndpoint = WEB) -> ExplainReply:
        pods = (CLIENT, pod(3, "stranger"))
        return ask(source, destination, pods=pods, remote=(web,), policies=policies)

    @pytest.mark.parametrize("destination", ["web", "10.0.2.2", "fd00::2:2"])
    def test_ingress_of_a_pod_elsewhere_is_explained_here(self, destination):
        allowed = self.between("client", destination, self.ONLY_CLIENTS)
        denied = self.between("stranger", destination, self.ONLY_CLIENTS)

        assert (allowed.verdict, denied.verdict) == ("allowed", "denied")
        assert [decision.direction for decision in denied.decisions] == ["egress", "ingress"]
        assert (denied.destination.name, denied.destination.identity) == ("default/web", OF_WEB)

    def test_egress_of_a_pod_elsewhere_is_explained_here(self):
        nowhere = policy(egress=[{"toEntities": ["world"]}])

        assert self.between("web", "client", nowhere).verdict == "denied"

    def test_a_pod_elsewhere_has_its_address_of_the_family_in_question(self):
        assert self.between("fd00::1", "web").destination.address == "fd00::2:2"

    def test_the_address_of_another_node_is_that_of_a_remote_node(self):
        assert self.between("client", "172.18.0.12").destination.identity == ReservedIdentity.REMOTE_NODE

    def test_a_pod_whose_identity_has_not_arrived_yet_is_not_guessed(self):
        unknown = replace(self.WEB, sec_identity=NOT_KNOWN)

        with pytest.raises(NotFound, match=r"default/web is on another node, and its identity \(5001\) is not known"):
            self.between("client", "web", web=unknown)
