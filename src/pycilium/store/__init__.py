"""Resources, shared between commands, agents and nodes: one protocol, several backends."""

from pycilium.store.blocking import BlockingStore
from pycilium.store.follow import follow, follow_as
from pycilium.store.leases import Leases
from pycilium.store.opening import open_blocking, open_store
from pycilium.store.protocol import Applied, ResourceList, Selection, Store, Unreadable, WatchEvent
from pycilium.store.urls import hide_password

__all__ = [
    "Applied",
    "BlockingStore",
    "Leases",
    "ResourceList",
    "Selection",
    "Store",
    "Unreadable",
    "WatchEvent",
    "follow",
    "follow_as",
    "hide_password",
    "open_blocking",
    "open_store",
]
