"""The commands `cilium`, `cilium-dbg` and `hubble`: they ask the agent, the store or the lab, and print.

No decision about packets or policy is made here. Invariant: a command imports only what it needs, so that it starts
fast, and every error that was foreseen ends as one line on stderr and an exit code.
"""
