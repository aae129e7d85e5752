"""Ports at which sockets wait, from the kernel's tables."""

from __future__ import annotations

from pycilium.datapath.bound_ports import ports_in

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:7580 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 2 1
"""


def test_only_sockets_in_the_state_asked_for_count():
    assert list(ports_in(TCP, "0A")) == [30080]
    assert list(ports_in("", "0A")) == []
