"""The wire schema of the Hubble API: our own .proto files and what tools/gen_proto.py makes of them.

Never edit a generated module; change the .proto file and run the tool. The wire packages are `flow`, `observer`,
`peer` and `relay`, so the paths of the calls are those of Hubble (`/observer.Observer/GetFlows`).
"""
