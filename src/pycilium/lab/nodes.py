"""Nodes of a lab that is up: added, removed, powered off and on, given other addresses.

Cables are `impairments`'. lab.json is written before a node is made and after it is gone, so that `down` undoes
whatever was reached; every command may be repeated when it was interrupted.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable

from pycilium.errors import AlreadyExists, CiliumError, ConfigError, NotFound
from pycilium.lab import (
    agents,
    cgroups,
    given_cidrs,
    impairments,
    labs,
    namespaces,
    network,
    pods,
    processes,
    published,
)
from pycilium.lab.layout import LabLayout, LabRecord, NodeRecord, PodRecord
from pycilium.lab.plan import next_node, readdressed

Tell = Callable[[str], None]


def add(layout: LabLayout, name: str | None, tell: Tell) -> NodeRecord:
    """A further node, its agent running. Undone entirely if it fails."""
    with labs.changed(layout) as before:
        node = next_node(before, name)
        if namespaces.exists(node.namespace):
            raise AlreadyExists(f"network namespace {node.namespace} exists already; choose another name")
        record = before.with_node(node)
        labs.save(layout, record)
        try:
            tell(f"making {node.name}")
            _make(layout, record, node)
            network.route_world_to(record, node)
            agents.start_all(layout, record, [node.name], tell)
            record = given_cidrs.taken_in(layout, record, [node.name])
        except BaseException:
            tell("undoing what was made")
            _take_away(layout, record, node)
            raise
    return record.node(node.name)


def remove(layout: LabLayout, name: str, tell: Tell) -> None:
    """Drains the node and removes it, and what it told the others through the store."""
    with labs.changed(layout) as record:
        node = record.node(name)
        if len(record.nodes) == 1:
            raise ConfigError(f"{name} is the last node of lab {layout.name}: remove the lab with `cilium lab down`")
        for pod in pods_on(layout, name):
            tell(f"removing pod {pod.namespace}/{pod.name}")
            pods.remove(layout, record, pod.namespace, pod.name)
        tell(f"removing {name}")
        agents.stop(layout, name)
        with labs.open_store(layout) as store:
            published.forget_nodes(store, [node])
        _take_away(layout, record, node)


def power_off(layout: LabLayout, name: str) -> bool:
    """Takes the node's power away: its agent and its pods end at once and nobody is told. False if it was off."""
    with labs.changed(layout) as record:
        node = record.node(name)
        was_on = is_on(node)
        _end(layout, record, node)
    return was_on


def power_on(layout: LabLayout, name: str, tell: Tell) -> list[str]:
    """Starts the node anew, with nothing left of what it had in memory; its pods are attached again.

    Gives the pods that could not be, each with the reason: they stay in the list, without addresses.
    """
    with labs.changed(layout) as record:
        node = record.node(name)
        if is_on(node):
            raise AlreadyExists(f"node {name} is on already")
        tell(f"making {name}")
        try:
            _make(layout, record, node)
        except BaseException:
            _end(layout, record, node)
            raise
        agents.start_all(layout, record, [name], tell)
        given_cidrs.taken_in(layout, record, [name])
        failed = []
        for pod in pods_on(layout, name):
            tell(f"attaching pod {pod.namespace}/{pod.name}")
            try:
                pods.attach_again(layout, record, pod)
            except CiliumError as error:
                failed.append(str(error))
    return failed


def readdress(layout: LabLayout, name: str, ipv4: str | None, ipv6: str | None) -> NodeRecord:
    """Gives the running node other addresses on the underlay; its agent finds out by itself."""
    with labs.changed(layout) as before:
        old = before.node(name)
        check_on(old)
        new = readdressed(before, name, ipv4, ipv6)
        record = before.with_node(new)
        labs.save(layout, record)
        network.readdress_node(record, old, new)
        network.route_world_to(record, new)
    return new


def is_on(node: NodeRecord) -> bool:
    return namespaces.exists(node.namespace)


def pods_on(layout: LabLayout, name: str) -> list[PodRecord]:
    return [pod for pod in labs.pod_records(layout) if pod.node == name]


def check_on(node: NodeRecord) -> None:
    """NotFound unless the node is on."""
    if not is_on(node):
        raise NotFound(f"node {node.name} is off: start it with `cilium lab node start {node.name}`")


def _make(layout: LabLayout, record: LabRecord, node: NodeRecord) -> None:
    """Namespace, wires, cgroup and folder. The folder stands for /run: of an earlier life it keeps the log alone."""
    namespaces.create(node.namespace)
    network.make_node(record, node)
    layout.node_folder(node.name).mkdir(exist_ok=True)
    cgroups.make(cgroups.of_node(layout.name, node.name))


def _end(layout: LabLayout, record: LabRecord, node: NodeRecord) -> None:
    """Everything of the node but its record, its log and its pods' records is gone after this. Repeatable."""
    folder = layout.node_folder(node.name)
    agents.stop(layout, node.name, signal.SIGKILL)
    netns = [pod.netns for pod in pods_on(layout, node.name)]
    processes.end_all_in([*netns, node.namespace], first=signal.SIGKILL)
    namespaces.unmount_below(folder)
    impairments.remove(record, node.name)
    for name in (*netns, node.namespace):
        namespaces.delete(name)
    cgroups.remove(cgroups.of_node(layout.name, node.name))
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry not in (agents.log_of(layout, node.name), agents.config_of(layout, node.name)):
            entry.unlink()


def _take_away(layout: LabLayout, record: LabRecord, node: NodeRecord) -> None:
    """Removes the node from the machine, from the world's routes and, last, from the lab's record."""
    _end(layout, record, node)
    network.unroute_world_from(record, node)
    shutil.rmtree(layout.node_folder(node.name), ignore_errors=True)
    labs.save(layout, record.without_node(node.name))
