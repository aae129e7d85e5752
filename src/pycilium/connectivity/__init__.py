"""The connectivity test: who reaches whom under which policies, tried with real packets, and what Hubble says of it.

A test is data (`catalogue`): policies, scenarios, and who is expected to be let through. The core is pure; `grounds`
are where tests run (a lab, a Kubernetes cluster), `running` brings both together, `peer` is what runs in their pods.
Invariant: whatever a run made is gone when it ends, however it ends.
"""
