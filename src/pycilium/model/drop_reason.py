"""Why packets are dropped: number, name and text of every drop reason, in one place.

The numbers and names are those of `flow.DropReason` in Hubble's API, the texts those that its command prints and that
metrics carry as `reason`. The datapath uses the few of `bpf/abi/drop_reason.h`; all are known here, since flows of
other agents pass through our tools too. Invariant: agrees with the protobuf enum and the C header (tests hold it).
"""

from __future__ import annotations

from enum import IntEnum


class DropReason(IntEnum):
    """A drop reason; `text` is what people read."""

    DROP_REASON_UNKNOWN = 0
    INVALID_SOURCE_MAC = 130
    INVALID_DESTINATION_MAC = 131
    INVALID_SOURCE_IP = 132
    POLICY_DENIED = 133
    INVALID_PACKET_DROPPED = 134
    CT_TRUNCATED_OR_INVALID_HEADER = 135
    CT_MISSING_TCP_ACK_FLAG = 136
    CT_UNKNOWN_L4_PROTOCOL = 137
    CT_CANNOT_CREATE_ENTRY_FROM_PACKET = 138
    UNSUPPORTED_L3_PROTOCOL = 139
    MISSED_TAIL_CALL = 140
    ERROR_WRITING_TO_PACKET = 141
    UNKNOWN_L4_PROTOCOL = 142
    UNKNOWN_ICMPV4_CODE = 143
    UNKNOWN_ICMPV4_TYPE = 144
    UNKNOWN_ICMPV6_CODE = 145
    UNKNOWN_ICMPV6_TYPE = 146
    ERROR_RETRIEVING_TUNNEL_KEY = 147
    ERROR_RETRIEVING_TUNNEL_OPTIONS = 148
    INVALID_GENEVE_OPTION = 149
    UNKNOWN_L3_TARGET_ADDRESS = 150
    STALE_OR_UNROUTABLE_IP = 151
    NO_MATCHING_LOCAL_CONTAINER_FOUND = 152
    ERROR_WHILE_CORRECTING_L3_CHECKSUM = 153
    ERROR_WHILE_CORRECTING_L4_CHECKSUM = 154
    CT_MAP_INSERTION_FAILED = 155
    INVALID_IPV6_EXTENSION_HEADER = 156
    IP_FRAGMENTATION_NOT_SUPPORTED = 157
    SERVICE_BACKEND_NOT_FOUND = 158
    NO_TUNNEL_OR_ENCAPSULATION_ENDPOINT = 160
    FAILED_TO_INSERT_INTO_PROXYMAP = 161
    REACHED_EDT_RATE_LIMITING_DROP_HORIZON = 162
    UNKNOWN_CONNECTION_TRACKING_STATE = 163
    LOCAL_HOST_IS_UNREACHABLE = 164
    NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION = 165
    UNSUPPORTED_L2_PROTOCOL = 166
    NO_MAPPING_FOR_NAT_MASQUERADE = 167
    UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE = 168
    FIB_LOOKUP_FAILED = 169
    ENCAPSULATION_TRAFFIC_IS_PROHIBITED = 170
    INVALID_IDENTITY = 171
    UNKNOWN_SENDER = 172
    NAT_NOT_NEEDED = 173
    IS_A_CLUSTERIP = 174
    FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND = 175
    FORBIDDEN_ICMPV6_MESSAGE = 176
    DENIED_BY_LB_SRC_RANGE_CHECK = 177
    SOCKET_LOOKUP_FAILED = 178
    SOCKET_ASSIGN_FAILED = 179
    PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL = 180
    POLICY_DENY = 181
    VLAN_FILTERED = 182
    INVALID_VNI = 183
    INVALID_TC_BUFFER = 184
    NO_SID = 185
    MISSING_SRV6_STATE = 186
    NAT46 = 187
    NAT64 = 188
    AUTH_REQUIRED = 189
    CT_NO_MAP_FOUND = 190
    SNAT_NO_MAP_FOUND = 191
    INVALID_CLUSTER_ID = 192
    UNSUPPORTED_PROTOCOL_FOR_DSR_ENCAP = 193
    NO_EGRESS_GATEWAY = 194
    UNENCRYPTED_TRAFFIC = 195
    TTL_EXCEEDED = 196
    NO_NODE_ID = 197
    DROP_RATE_LIMITED = 198
    IGMP_HANDLED = 199
    IGMP_SUBSCRIBED = 200
    MULTICAST_HANDLED = 201
    DROP_HOST_NOT_READY = 202
    DROP_EP_NOT_READY = 203
    DROP_NO_EGRESS_IP = 204
    DROP_PUNT_PROXY = 205
    DROP_FRAG_NOT_FOUND_WORLD = 207

    @property
    def text(self) -> str:
        return _TEXTS[self]


_TEXTS: dict[int, str] = {
    DropReason.DROP_REASON_UNKNOWN: "Success",
    DropReason.INVALID_SOURCE_MAC: "Invalid source mac",
    DropReason.INVALID_DESTINATION_MAC: "Invalid destination mac",
    DropReason.INVALID_SOURCE_IP: "Invalid source ip",
    DropReason.POLICY_DENIED: "Policy denied",
    DropReason.INVALID_PACKET_DROPPED: "Invalid packet",
    DropReason.CT_TRUNCATED_OR_INVALID_HEADER: "CT: Truncated or invalid header",
    DropReason.CT_MISSING_TCP_ACK_FLAG: "Fragmentation needed",
    DropReason.CT_UNKNOWN_L4_PROTOCOL: "CT: Unknown L4 protocol",
    DropReason.CT_CANNOT_CREATE_ENTRY_FROM_PACKET: "CT: Can't create entry from packet",
    DropReason.UNSUPPORTED_L3_PROTOCOL: "Unsupported L3 protocol",
    DropReason.MISSED_TAIL_CALL: "Missed tail call",
    DropReason.ERROR_WRITING_TO_PACKET: "Error writing to packet",
    DropReason.UNKNOWN_L4_PROTOCOL: "Unknown L4 protocol",
    DropReason.UNKNOWN_ICMPV4_CODE: "Unknown ICMPv4 code",
    DropReason.UNKNOWN_ICMPV4_TYPE: "Unknown ICMPv4 type",
    DropReason.UNKNOWN_ICMPV6_CODE: "Unknown ICMPv6 code",
    DropReason.UNKNOWN_ICMPV6_TYPE: "Unknown ICMPv6 type",
    DropReason.ERROR_RETRIEVING_TUNNEL_KEY: "Error retrieving tunnel key",
    DropReason.ERROR_RETRIEVING_TUNNEL_OPTIONS: "Error retrieving tunnel options",
    DropReason.INVALID_GENEVE_OPTION: "Invalid Geneve option",
    DropReason.UNKNOWN_L3_TARGET_ADDRESS: "Unknown L3 target address",
    DropReason.STALE_OR_UNROUTABLE_IP: "Stale or unroutable IP",
    DropReason.NO_MATCHING_LOCAL_CONTAINER_FOUND: "No matching local container found",
    DropReason.ERROR_WHILE_CORRECTING_L3_CHECKSUM: "Error while correcting L3 checksum",
    DropReason.ERROR_WHILE_CORRECTING_L4_CHECKSUM: "Error while correcting L4 checksum",
    DropReason.CT_MAP_INSERTION_FAILED: "CT: Map insertion failed",
    DropReason.INVALID_IPV6_EXTENSION_HEADER: "Invalid IPv6 extension header",
    DropReason.IP_FRAGMENTATION_NOT_SUPPORTED: "IP fragmentation not supported",
    DropReason.SERVICE_BACKEND_NOT_FOUND: "Service backend not found",
    DropReason.NO_TUNNEL_OR_ENCAPSULATION_ENDPOINT: "No tunnel/encapsulation endpoint (datapath BUG!)",
    DropReason.FAILED_TO_INSERT_INTO_PROXYMAP: "NAT 46/64 not enabled",
    DropReason.REACHED_EDT_RATE_LIMITING_DROP_HORIZON: "Reached EDT rate-limiting drop horizon",
    DropReason.UNKNOWN_CONNECTION_TRACKING_STATE: "Unknown connection tracking state",
    DropReason.LOCAL_HOST_IS_UNREACHABLE: "Local host is unreachable",
    DropReason.NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION: (
        "No configuration available to perform policy decision"
    ),
    DropReason.UNSUPPORTED_L2_PROTOCOL: "Unsupported L2 protocol",
    DropReason.NO_MAPPING_FOR_NAT_MASQUERADE: "No mapping for NAT masquerade",
    DropReason.UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE: "Unsupported protocol for NAT masquerade",
    DropReason.FIB_LOOKUP_FAILED: "FIB lookup failed",
    DropReason.ENCAPSULATION_TRAFFIC_IS_PROHIBITED: "Encapsulation traffic is prohibited",
    DropReason.INVALID_IDENTITY: "Invalid identity",
    DropReason.UNKNOWN_SENDER: "Unknown sender",
    DropReason.NAT_NOT_NEEDED: "NAT not needed",
    DropReason.IS_A_CLUSTERIP: "Is a ClusterIP",
    DropReason.FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND: "First logical datagram fragment not found",
    DropReason.FORBIDDEN_ICMPV6_MESSAGE: "Forbidden ICMPv6 message",
    DropReason.DENIED_BY_LB_SRC_RANGE_CHECK: "Denied by LB src range check",
    DropReason.SOCKET_LOOKUP_FAILED: "Socket lookup failed",
    DropReason.SOCKET_ASSIGN_FAILED: "Socket assign failed",
    DropReason.PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL: "Proxy redirection not supported for protocol",
    DropReason.POLICY_DENY: "Policy denied by denylist",
    DropReason.VLAN_FILTERED: "VLAN traffic disallowed by VLAN filter",
    DropReason.INVALID_VNI: "Incorrect VNI from VTEP",
    DropReason.INVALID_TC_BUFFER: "Failed to update or lookup TC buffer",
    DropReason.NO_SID: "No SID was found for the IP address",
    DropReason.MISSING_SRV6_STATE: "SRv6 state was removed during tail call",
    DropReason.NAT46: "L3 translation from IPv4 to IPv6 failed (NAT46)",
    DropReason.NAT64: "L3 translation from IPv6 to IPv4 failed (NAT64)",
    DropReason.AUTH_REQUIRED: "Authentication required",
    DropReason.CT_NO_MAP_FOUND: "No conntrack map found",
    DropReason.SNAT_NO_MAP_FOUND: "No nat map found",
    DropReason.INVALID_CLUSTER_ID: "Invalid ClusterID",
    DropReason.UNSUPPORTED_PROTOCOL_FOR_DSR_ENCAP: "Unsupported packet protocol for DSR encapsulation",
    DropReason.NO_EGRESS_GATEWAY: "No egress gateway found",
    DropReason.UNENCRYPTED_TRAFFIC: "Traffic is unencrypted",
    DropReason.TTL_EXCEEDED: "TTL exceeded",
    DropReason.NO_NODE_ID: "No node ID found",
    DropReason.DROP_RATE_LIMITED: "Rate limited",
    DropReason.IGMP_HANDLED: "IGMP handled",
    DropReason.IGMP_SUBSCRIBED: "IGMP subscribed",
    DropReason.MULTICAST_HANDLED: "Multicast handled",
    DropReason.DROP_HOST_NOT_READY: "Host datapath not ready",
    DropReason.DROP_EP_NOT_READY: "Endpoint policy program not available",
    DropReason.DROP_NO_EGRESS_IP: "No Egress IP configured",
    DropReason.DROP_PUNT_PROXY: "Punt to proxy",
    DropReason.DROP_FRAG_NOT_FOUND_WORLD: "First logical datagram fragment not found from world",
}


def drop_reason_text(number: int) -> str:
    """The text of a drop reason; a number that nobody knows is its own text."""
    return _TEXTS.get(number, str(number))
