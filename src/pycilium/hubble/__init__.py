"""Flows: from kernel events to Hubble's API.

    events ─► columns ─► FlowStore (ring) ─► predicates ─► rows asked for ─► flow messages ─► gRPC
                             ▲ names at ingestion: EndpointDirectory

The agent makes one `store.FlowStore` and one `server.HubbleServer`, feeds the store from the kernel's event ring, calls
`notify`, and keeps the directories up to date. Import the modules; this package exports nothing itself, since the
command needs the schema alone and should start fast.
"""
