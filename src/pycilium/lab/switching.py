"""What a change of a live lab's routing mode costs, and carrying it out.

Saying it (`consequences`) is pure and comes first; carrying it out restarts the agents one by one, so that no two nodes
are without an agent at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from pycilium.errors import CiliumError
from pycilium.lab import agents, labs
from pycilium.lab.layout import LabLayout, LabRecord, PodRecord, RoutingMode
from pycilium.lab.plan import check_routing, pod_mtu_bytes


def consequences(record: LabRecord, mode: RoutingMode, pods: Sequence[PodRecord]) -> tuple[str, ...]:
    """What switching to `mode` does to what runs, a sentence each; none when the lab is in that mode already.

    ConfigError when the underlay cannot carry the pods' packets in that mode.
    """
    check_routing(record, mode)
    if mode == record.routing_mode:
        return ()
    before, after = pod_mtu_bytes(record, record.routing_mode), pod_mtu_bytes(record, mode)
    return (
        f"The MTU of pods goes from {before} to {after} bytes: {_what_that_means(before, after, len(pods))}.",
        _what_is_cut(record, pods),
        *_what_must_be(record, mode),
    )


def switch(layout: LabLayout, mode: RoutingMode, tell: Callable[[str], None]) -> None:
    """Gives every node the routing mode, one after the other. To be repeated if it was interrupted."""
    with labs.changed(layout) as before:
        check_routing(before, mode)
        record = msgspec.structs.replace(before, routing_mode=mode)
        labs.save(layout, record)
        for node in record.nodes:
            if agents.config_of(layout, node.name).exists():
                agents.write_config(layout, record, node.name)
        failed = []
        for node in record.nodes:
            tell(f"restarting the agent of {node.name}")
            if agents.stop(layout, node.name):
                failed += _started(layout, record, node.name)
        if failed:
            raise CiliumError("; ".join(failed))


def _started(layout: LabLayout, record: LabRecord, node: str) -> list[str]:
    """The agent started again, or why not: the nodes after it are switched all the same."""
    try:
        agents.start(layout, record, node)
    except CiliumError as error:
        return [str(error)]
    return []


def _what_that_means(before: int, after: int, pods: int) -> str:
    who = f"{pods} running pod{'' if pods == 1 else 's'}"
    if after < before:
        return f"connections of {who} that send larger packets are told so by ICMP and go on with smaller ones"
    return f"connections of {who} go on with the smaller packets that they know; new ones use the room"


def _what_is_cut(record: LabRecord, pods: Sequence[PodRecord]) -> str:
    """Only packets between nodes pass through what changes."""
    counts = Counter(pod.node for pod in pods)
    if len(record.nodes) == 1:
        return "Nothing is cut: there is one node, and traffic within a node, to it and to the world stays as it is."
    where = ", ".join(f"{node.name} ({counts[node.name]})" for node in record.nodes)
    return (
        "Agents restart one after the other, and for so long a node of one mode and a node of the other do not hear "
        f"each other: packets between pods of different nodes are lost for seconds. Nodes (and their pods): {where}. "
        "Connections within a node and to the world go on."
    )


def _what_must_be(record: LabRecord, mode: RoutingMode) -> tuple[str, ...]:
    """What the network between the nodes has to grant."""
    if mode == "tunnel":
        return (
            "Nodes send each other UDP to port 8472: nothing between them may filter it.",
            "The sender's identity travels with each packet.",
        )
    cidrs = ", ".join(cidr for node in record.nodes for cidr in node.pod_cidrs)
    return (
        f"Pods' addresses are seen on the underlay: it must carry {cidrs} to the nodes that they belong to.",
        "In a lab all nodes are neighbours, and their agents set the routes.",
        "The sender's identity is looked up by its address: it is as good as the knowledge of each node's agent.",
    )
