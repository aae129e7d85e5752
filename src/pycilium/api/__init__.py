"""The agent's local API: HTTP with JSON over a unix socket.

`messages` are what travels, `service` is what an agent must implement, `server` puts the two on a socket,
`client` asks. Kept empty of imports: the CNI plugin comes through here and must start fast.
"""
