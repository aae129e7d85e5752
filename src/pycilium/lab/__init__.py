"""Virtual nodes and pods from network namespaces, on one machine and apart from it.

A lab is what `cilium lab up` makes: namespaces `cilium-<lab>-…` and the folder /run/cilium-lab/<lab>/, nothing else.
Invariant: what belongs to a lab is written down in its folder before it is made, so that `down` can undo
whatever was reached, however it ended.
"""
