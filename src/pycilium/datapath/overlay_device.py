"""The node's overlay device, `cilium_vxlan`: VXLAN whose other end and VNI the programs choose for each packet.

It listens on one UDP port, for both outer families, and has no addresses; the `overlay` program hangs on its ingress.
Idempotent from any half-made state. Of others' devices it touches none: one that has the port is named.
"""

from __future__ import annotations

import errno

from pycilium.datapath import rtnetlink
from pycilium.datapath.netlink import Netlink
from pycilium.datapath.rtnetlink import IFF_UP, Link, Vxlan
from pycilium.errors import DatapathError

NAME = "cilium_vxlan"
_KIND = "vxlan"


def ensure(port: int, mtu_bytes: int) -> int:
    """Make the device, or set right what is there; returns its ifindex.

    Raises DatapathError if the name or the port is taken by something else, or the kernel refuses.
    """
    with Netlink.open() as channel:
        link = channel.link(NAME)
        if link is not None and link.kind != _KIND:
            kind = link.kind or "physical"
            raise DatapathError(f"a device {NAME} exists that is not ours ({kind}): remove or rename it")
        _refuse_taken_port(channel, port)
        wanted = Vxlan.of_overlay(port)
        if link is None or rtnetlink.vxlan_in(link) != wanted:
            channel.must([rtnetlink.delete_link(NAME)], unless=(errno.ENODEV,))
            _create(channel, wanted)
        channel.must([rtnetlink.no_ipv6_address(NAME)], unless=(errno.EAFNOSUPPORT,))
        _switch_on(channel, port, mtu_bytes)
        return channel.ifindex(NAME)


def remove() -> None:
    """Absent is success; a device of that name that is not ours stays."""
    with Netlink.open() as channel:
        link = channel.link(NAME)
        if link is not None and link.kind == _KIND:
            channel.must([rtnetlink.delete_link(NAME)], unless=(errno.ENODEV,))


def _refuse_taken_port(channel: Netlink, port: int) -> None:
    for link in channel.links():
        if link.name != NAME and _uses(link, port):
            raise DatapathError(
                f"device {link.name} has UDP port {port}, which {NAME} needs: "
                "remove it, or set tunnel_port to another port on all nodes"
            )


def _uses(link: Link, port: int) -> bool:
    found = rtnetlink.vxlan_in(link) if link.kind == _KIND else None
    return found is not None and found.port == port


def _create(channel: Netlink, wanted: Vxlan) -> None:
    (made,) = channel.run([rtnetlink.create_vxlan(NAME, wanted)])
    if made.error == errno.EOPNOTSUPP:
        raise DatapathError(f"cannot create {NAME}: the kernel has no VXLAN; load its module vxlan, or route natively")
    made.raise_if_failed()


def _switch_on(channel: Netlink, port: int, mtu_bytes: int) -> None:
    (done,) = channel.run([rtnetlink.set_link(NAME, flags=IFF_UP, mtu_bytes=mtu_bytes)])
    if done.error == errno.EADDRINUSE:
        raise DatapathError(
            f"cannot switch on {NAME}: UDP port {port} is in use: "
            "end what has it (`ss -lunp` says), or set tunnel_port to another port on all nodes"
        )
    done.raise_if_failed()
