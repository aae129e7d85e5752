"""The etcd backend of the store: a client of etcd's version 3 interface, and the Store protocol over it.

From the bottom up: `address` (the URL), `failures` (what errors mean), `connection` (members, login, unary calls),
`keyspace` (keys and values), `transactions`, `watches`, `store`.
"""

from pycilium.store.etcd.address import EtcdAddress, parse_address
from pycilium.store.etcd.store import EtcdStore

__all__ = ["EtcdAddress", "EtcdStore", "parse_address"]
