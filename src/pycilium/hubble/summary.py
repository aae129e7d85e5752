"""The one-line summary of a packet, in the words that Hubble's users and scripts know."""

from __future__ import annotations

TCP, UDP, SCTP = 6, 17, 132
ICMP, ICMPV6 = 1, 58
IGMP, VRRP = 2, 112

TCP_FLAGS = (("SYN", 2), ("ACK", 16), ("RST", 4), ("FIN", 1), ("PSH", 8), ("URG", 32), ("ECE", 64), ("CWR", 128))
"""Bits of the TCP header, in the order in which a summary names them."""

_ICMP4 = {
    0: ("EchoReply", {}),
    3: (
        "DestinationUnreachable",
        {
            0: "Net",
            1: "Host",
            2: "Protocol",
            3: "Port",
            4: "FragmentationNeeded",
            5: "SourceRoutingFailed",
            6: "NetUnknown",
            7: "HostUnknown",
            8: "SourceIsolated",
            9: "NetAdminProhibited",
            10: "HostAdminProhibited",
            11: "NetTOS",
            12: "HostTOS",
            13: "CommAdminProhibited",
            14: "HostPrecedence",
            15: "PrecedenceCutoff",
        },
    ),
    4: ("SourceQuench", {}),
    5: ("Redirect", {0: "Net", 1: "Host", 2: "TOS+Net", 3: "TOS+Host"}),
    8: ("EchoRequest", {}),
    9: ("RouterAdvertisement", {}),
    10: ("RouterSolicitation", {}),
    11: ("TimeExceeded", {0: "TTLExceeded", 1: "FragmentReassemblyTimeExceeded"}),
    12: ("ParameterProblem", {0: "PointerIndicatesError", 1: "MissingOption", 2: "BadLength"}),
    13: ("TimestampRequest", {}),
    14: ("TimestampReply", {}),
}
_ICMP6 = {
    1: (
        "DestinationUnreachable",
        {
            0: "NoRouteToDst",
            1: "AdminProhibited",
            2: "BeyondScopeOfSrc",
            3: "AddressUnreachable",
            4: "PortUnreachable",
            5: "SrcAddressFailedPolicy",
            6: "RejectRouteToDst",
        },
    ),
    2: ("PacketTooBig", {}),
    3: ("TimeExceeded", {0: "HopLimitExceeded", 1: "FragmentReassemblyTimeExceeded"}),
    4: ("ParameterProblem", {0: "ErroneousHeader", 1: "UnrecognizedNextHeader", 2: "UnrecognizedIPv6Option"}),
    128: ("EchoRequest", {}),
    129: ("EchoReply", {}),
    130: ("MLDv1MulticastListenerQueryMessage", {}),
    131: ("MLDv1MulticastListenerReportMessage", {}),
    132: ("MLDv1MulticastListenerDoneMessage", {}),
    133: ("RouterSolicitation", {}),
    134: ("RouterAdvertisement", {}),
    135: ("NeighborSolicitation", {}),
    136: ("NeighborAdvertisement", {}),
    137: ("Redirect", {}),
    143: ("MLDv2MulticastListenerReportMessageV2", {}),
}
_PROTOCOLS = {UDP: "UDP", SCTP: "SCTP", IGMP: "IGMP", VRRP: "VRRP"}
_ETHER_TYPES = {0x0806: "ARP", 0x88CC: "LLDP", 0x8100: "VLAN"}


def packet_summary(family: int, protocol: int, tcp_flags: int, icmp: tuple[int, int], ether_type: int) -> str:
    """What kind of packet it was, e.g. `TCP Flags: SYN, ACK`; `icmp` is type and code."""
    if family == 0:
        return _ETHER_TYPES.get(ether_type, f"EtherType 0x{ether_type:04x}")
    if protocol == TCP:
        return "TCP Flags: " + ", ".join(name for name, bit in TCP_FLAGS if tcp_flags & bit)
    if protocol == ICMP:
        return "ICMPv4 " + _icmp(_ICMP4, *icmp)
    if protocol == ICMPV6:
        return "ICMPv6 " + _icmp(_ICMP6, *icmp)
    return _PROTOCOLS.get(protocol, f"IPv{family} protocol {protocol}")


def _icmp(types: dict[int, tuple[str, dict[int, str]]], icmp_type: int, icmp_code: int) -> str:
    known = types.get(icmp_type)
    if known is None:
        return f"{icmp_type}({icmp_code})"
    name, codes = known
    if not codes:
        return name if icmp_code == 0 else f"{name}(Code: {icmp_code})"
    return f"{name}({codes[icmp_code]})" if icmp_code in codes else f"{name}(Code: {icmp_code})"
