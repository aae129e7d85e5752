import pytest
from tests.bpf.node import *
from tests.bpf.packets import *
pytestmark = pytest.mark.root
@pytest.mark.parametrize("family",[4,6])
def test_speed(node_with, family):
    for agg in (2,):
        node=node_with(aggregation=agg)
        import dataclasses
        node.endpoint(dataclasses.replace(DB,mac=WEB.host_mac,host_mac=WEB.mac))
        syn=from_pod(WEB,DB,family)/tcp(40000,80,"S"); node.run("from_container","web",bytes(syn))
        node.run("from_container","db",bytes(from_pod(DB,WEB,family)/tcp(80,40000,"SA")))
        ack=bytes(from_pod(WEB,DB,family)/tcp(40000,80,"A"))
        print()
        def best(prog,dev,p,n=200000,k=5): return min(node.nanoseconds(prog,dev,p,repeat=n) for _ in range(k))
        # after first run MAC rewritten? TEST_RUN reuses the same skb
        print("pod-pod established", best("from_container","web",ack))
        node.run("from_container","web",bytes(from_pod(WEB,"world",family)/tcp(40000,80,"S")))
        print("pod-world", best("from_container","web",bytes(from_pod(WEB,"world",family)/tcp(40000,80,"A"))))
        print("arp/drop multicast", best("from_container","web",bytes(from_pod(WEB,"224.0.0.5" if family==4 else "ff02::5",family)/udp(1,2))))
        print("netdev not ours", best("from_netdev","uplink",bytes(from_network("world",GATEWAY4 if family==4 else GATEWAY6,family)/tcp(1,2,"A"))))
        from scapy.layers.l2 import ARP
        print("base", best("from_netdev","uplink",bytes(Ether(src=ROUTER_MAC,dst=UPLINK_MAC)/ARP())))
