"""pycilium: a Python control plane over an eBPF datapath.

Kept empty of imports: the CNI plugin starts through this package and must start fast.
"""

__version__ = "0.1.0"
