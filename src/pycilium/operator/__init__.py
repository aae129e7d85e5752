"""What is decided once for a whole cluster: pod CIDRs, unused identities, nodes that are gone.

Several operators may run; the one that holds the lease works, the others wait.
"""
