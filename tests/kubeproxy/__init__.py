"""kube-proxy's two ways of serving Services, written anew from how they are documented: the other side of tests and benchmarks.

From Services, EndpointSlices and a node's facts come the rules that kube-proxy would have in force on that node: `iptables`
gives input of iptables-restore, `nftables` input of `nft -f`; `ports` decides, for both, which endpoints a port has.
Nothing here touches the machine but `conntrack`.
"""
